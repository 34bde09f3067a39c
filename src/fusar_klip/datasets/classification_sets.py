"""Classification data sets: their readers, and `CLASSIFICATION_SETS`, the registry's entries.

Images lie in a folder for each class, with a split file, with a folder for each part, or with neither. A
reader lists files, classes, parts and groups; it opens no image.
"""

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fusar_klip.datasets.labelled_data import ImageWithLabel, Part, layout_error, list_images, read_csv
from fusar_klip.datasets.specs import ClassificationSpec
from fusar_klip.errors import DatasetError

# The folders of the public copy are numbered; the numbers follow the names' alphabetical order.
MSTAR_CLASSES: Mapping[str, str] = {
    "0": "2S1",
    "1": "BMP2",
    "2": "BRDM2",
    "3": "BTR60",
    "4": "BTR70",
    "5": "D7",
    "6": "T62",
    "7": "T72",
    "8": "ZIL131",
    "9": "ZSU234",
}
MSTAR_GSD_M = 0.3
SAR_ACD_GSD_M = 1.0
OPENSARSHIP_GSD_M = 10.0

_PARTS: Sequence[tuple[Part, Sequence[str]]] = (
    ("train", ("train", "TRAIN/17_DEG", "train/17_DEG")),
    ("test", ("test", "val", "TEST/15_DEG", "test/15_DEG")),
)
# Cargo_x1234_y5678_VH.tif; the 8-bit images of the first release begin with Visualize_.
_OPENSARSHIP = re.compile(
    r"(?:Visualize_)?(?P<type>[^_]+)_x(?P<x>\d+)_y(?P<y>\d+)(?:_(?P<pol>[VH]{2}))?\.", re.I
)
_OPENSARSHIP_FOLDERS = ("Patch_Uint8", "PATCH_UINT8", "Patch_Cal", "PATCH_CAL", "Patch", "PATCH")


def read_class_folders(path: Path, name: str, split_file: str) -> list[ImageWithLabel]:
    """Read images that a split file lists: CSV with the columns file, class, split and perhaps group.

    Rows of other parts than train and test (such as val) are left out. Without a split file, the folders
    CLASS/* (or images/CLASS/*) are read, and the images have no part yet.
    """
    if (path / split_file).is_file():
        return read_split_file(path, path / split_file)
    root = path / "images" if (path / "images").is_dir() else path
    return [
        ImageWithLabel(file, file.relative_to(path).as_posix(), file.parent.name, None, None)
        for file in list_images(root, "*/*")
    ]


def read_split_file(path: Path, split_file: Path) -> list[ImageWithLabel]:
    """Read a split file; its `file` column is relative to `path`.

    Raises:
        DatasetError: A column is missing, or a file is listed twice or does not exist.
    """
    columns, rows = read_csv(split_file)
    if missing := {"file", "class", "split"} - set(columns):
        raise DatasetError(f"{split_file} has no column {', '.join(sorted(missing))}: add it")
    entries = [entry for entry in rows if entry["split"] in ("train", "test")]
    if repeated := [name for name, count in Counter(e["file"] for e in entries).items() if count > 1]:
        raise DatasetError(f"{split_file} lists {repeated[0]} more than once: keep one row for each file")
    if missing_files := [entry["file"] for entry in entries if not (path / entry["file"]).is_file()]:
        raise DatasetError(
            f"{split_file} lists {len(missing_files)} files that do not exist, the first "
            f"{path / missing_files[0]}: complete the data set, or remove them from the list"
        )
    return [
        ImageWithLabel(
            path / e["file"],
            e["file"],
            e["class"],
            "train" if e["split"] == "train" else "test",
            e.get("group") or None,
        )
        for e in entries
    ]


def read_split_folders(path: Path, name: str, split_file: str) -> list[ImageWithLabel]:
    """Read PATH/train/CLASS/* and PATH/test/CLASS/* (or PATH/val/CLASS/* where there is no test)."""
    return _parts(path, name, "*/*", 1)


def read_mstar(path: Path, name: str, split_file: str) -> list[ImageWithLabel]:
    """Read MSTAR's ten classes (standard operating conditions), in three layouts.

    train/CLASS/* and test|val/CLASS/*, where CLASS is a number 0 to 9 or a name (BTR60, BTR_60); or the
    original TRAIN/17_DEG/CLASS/SN_*/* and TEST/15_DEG/CLASS/SN_*/*, converted to images (the original files
    .000 to .026 are no images: mstar2jpeg converts them).
    """
    images = _parts(path, name, "*/*", 1) + _parts(path, name, "*/SN_*/*", 2, required=False)
    names = {_plain(known): known for known in MSTAR_CLASSES.values()} | dict(MSTAR_CLASSES)
    if unknown := sorted({i.label for i in images if _plain(i.label) not in names}):
        raise DatasetError(
            f"{path} has the class folder {unknown[0]}, but MSTAR's are numbered 0 to 9 or named "
            f"{', '.join(MSTAR_CLASSES.values())}: use the reader split_folders for other classes"
        )
    return [replace(i, label=names[_plain(i.label)], gsd_m=MSTAR_GSD_M) for i in images]


def read_sar_acd(path: Path, name: str, split_file: str) -> list[ImageWithLabel]:
    """Read SAR-ACD: CLASS/* or images/CLASS/*, and split.csv where there is one."""
    return [replace(i, gsd_m=SAR_ACD_GSD_M) for i in read_class_folders(path, name, split_file)]


def read_fusar_ship(path: Path, name: str, split_file: str) -> list[ImageWithLabel]:
    """Read FUSAR-Ship: CATEGORY/SUBCATEGORY/Ship_CxxSyyNzzzz.tiff, and meta.csv with the pixel sizes.

    The class is the category. CATEGORY/*, the layout of processed copies, is read too.
    `gsd_m` is the geometric mean of meta.csv's two pixel sizes.
    """
    spacing = _fusar_spacing(path / "meta.csv")
    files = list_images(path, "*/*/*") + list_images(path, "*/*")
    return [
        ImageWithLabel(
            file,
            file.relative_to(path).as_posix(),
            file.relative_to(path).parts[0],
            None,
            None,
            spacing.get(file.stem),
        )
        for file in files
    ]


def read_opensarship(path: Path, name: str, split_file: str) -> list[ImageWithLabel]:
    """Read OpenSARShip: SCENE/Patch_Uint8/TYPE_xX_yY_POL.tif, or Patch_Cal or Patch where that is missing.

    The class is the AIS type in the file's name. A ship has an image for each polarization, of which one is
    read: VV before VH, HH and HV. All images of a scene are one group, because overlapping patches share
    ships.
    """
    folder = next(
        (f for f in _OPENSARSHIP_FOLDERS if list_images(path, f"*/{f}/*") + list_images(path, f"{f}/*")), None
    )
    if folder is None:
        raise layout_error(name, path, "SCENE/Patch_Uint8/TYPE_xX_yY_POL.tif (or Patch_Cal, or Patch)")
    ships: dict[tuple[str, str, str], tuple[int, ImageWithLabel]] = {}
    order = {"VV": 0, "": 1, "VH": 2, "HH": 3, "HV": 4}
    for file in list_images(path, f"*/{folder}/*") + list_images(path, f"{folder}/*"):
        found = _OPENSARSHIP.match(file.name)
        if found is None:
            raise DatasetError(
                f"{file} is not named TYPE_xX_yY_POL as OpenSARShip's patches: remove it from the folder"
            )
        scene = file.parent.parent.name
        rank = order[(found["pol"] or "").upper()]
        ship = (scene, found["x"], found["y"])
        if ship not in ships or rank < ships[ship][0]:
            relative = file.relative_to(path).as_posix()
            ships[ship] = (
                rank,
                ImageWithLabel(file, relative, found["type"], None, scene, OPENSARSHIP_GSD_M),
            )
    return [image for _, image in ships.values()]


def _parts(path: Path, name: str, pattern: str, depth: int, required: bool = True) -> list[ImageWithLabel]:
    """Read the part folders of `_PARTS`; the class is the folder `depth` levels above each file."""
    found = {part: next((f for f in names if (path / f).is_dir()), None) for part, names in _PARTS}
    if required and None in found.values():
        raise layout_error(name, path, "the folders train and test (or val)")
    return [
        ImageWithLabel(file, file.relative_to(path).as_posix(), file.parents[depth - 1].name, part, None)
        for part, folder in found.items()
        if folder is not None
        for file in list_images(path / folder, pattern)
    ]


def _plain(label: str) -> str:
    """Return a class name in capitals and digits only: ZSU_23_4, ZSU-234 and ZSU234 are the same."""
    return re.sub(r"[^0-9A-Z]", "", label.upper())


def _fusar_spacing(meta: Path) -> dict[str, float]:
    """Return the ground spacing of each chip that FUSAR-Ship's meta.csv lists, by file stem."""
    if not meta.is_file():
        return {}
    with meta.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = list(csv.DictReader(file))
    spacing = {}
    for row in rows:
        try:
            spacing[Path(row["id"]).stem] = math.sqrt(float(row["heightspace"]) * float(row["widthspace"]))
        except (KeyError, ValueError):
            raise DatasetError(
                f"{meta} has a row without id, heightspace and widthspace: use FUSAR-Ship's own meta.csv"
            ) from None
    return spacing


CLASSIFICATION_SETS: Mapping[str, ClassificationSpec] = {
    "class_folders": ClassificationSpec(
        "class folders",
        layout="`CLASS/*` or `images/CLASS/*`; optional CSV (file, class, split, group)",
        licence="-",
        read=read_class_folders,
    ),
    "split_folders": ClassificationSpec(
        "train and test folders",
        layout="`train/CLASS/*` and `test/CLASS/*` (or `val`)",
        licence="-",
        read=read_split_folders,
    ),
    "fusar_ship": ClassificationSpec(
        "FUSAR-SHIP",
        layout="`CATEGORY/SUBCATEGORY/Ship_CxxSyyNzzzz.tiff`, `meta.csv`",
        download="emwlab.fudan.edu.cn/resources",
        layout_source="its readme, at emwlab.fudan.edu.cn/resources/list.htm",
        read=read_fusar_ship,
    ),
    "fusar_air": ClassificationSpec(
        "FUSAR-AIR",
        layout="`CLASS/*`, or a split file",
        download="its authors (paper, [54]); no public address found",
        layout_source="not found: plain class folders are read",
        read=read_class_folders,
    ),
    "sar_acd": ClassificationSpec(
        "SAR-ACD",
        layout="`CLASS/*` or `images/CLASS/*`; optional `split.csv`",
        classes=("A220", "A320321", "A330", "ARJ21", "Boeing737", "Boeing787"),
        licence="research use",
        download="github.com/AICyberTeam/SAR-ACD",
        layout_source="the copy in `../shared/data`; the repository's README names the classes, not the "
        "folders",
        read=read_sar_acd,
    ),
    "mstar": ClassificationSpec(
        "MSTAR",
        layout="`train/CLASS/*`, `test` or `val`; CLASS 0 to 9 or a name; or `TRAIN/17_DEG/T72/SN_132/*`",
        classes=tuple(MSTAR_CLASSES.values()),
        licence="US government public release",
        download="www.sdms.afrl.af.mil (MSTAR public targets)",
        layout_source="the copy in `../shared/data`; jangsoopark/AConvNet-pytorch, README",
        read=read_mstar,
    ),
    "opensarship": ClassificationSpec(
        "OpenSARShip",
        layout="`SCENE/Patch_Uint8/TYPE_xX_yY_POL.tif`, else `Patch_Cal`, `Patch`",
        download="opensar.sjtu.edu.cn",
        layout_source="READMEs of two public loaders (folders Patch, Patch_Cal, Patch_RGB, Patch_Uint8); the "
        "file names in Patch_Uint8 not found: those of Patch_Cal are read",
        read=read_opensarship,
    ),
}
"""The registry's entries by reader."""
