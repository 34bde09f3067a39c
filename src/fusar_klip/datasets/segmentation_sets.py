"""Segmentation data sets: their readers, and `SEGMENTATION_SETS`, the registry's entries.

Images and masks lie in two folders and are paired by name; a `MaskSetReader` knows which. A mask is opened
only when `labelled_data.read_mask` is asked for its pixels.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from fusar_klip.datasets.labelled_data import (
    IGNORED,
    ClassTable,
    ImageWithMask,
    Part,
    SegmentationData,
    layout_error,
    list_images,
    read_csv,
)
from fusar_klip.datasets.specs import SegmentationSpec
from fusar_klip.errors import DatasetError

BINARY = ClassTable(("background", "foreground"), {0: 0, 1: 1, 255: 1})
"""What the pixel values of masks mean to the generic reader, unless PATH/classes.csv is there."""


@dataclass(frozen=True)
class MaskLayout:
    """One way images and masks lie on disk; `{part}` stands for the part's folder."""

    images: str
    masks: str
    rename: tuple[str, str] = ("$", "")
    """A regular expression on an image's stem, and its replacement in the mask's stem."""
    _: KW_ONLY
    parts: Mapping[Part, str] = field(default_factory=dict)
    """Each part's folder; empty where the layout has no parts."""
    before: str = ""
    """The folder of the images before an event, for change data sets."""
    before_rename: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class MaskSetReader:
    """Reads a named segmentation set in the first of its layouts that is there."""

    layouts: Sequence[MaskLayout]
    table: ClassTable
    gsd_m: float | None = None
    group: str | None = None
    """A regular expression whose first group is the scene in an image's name; None where names have none."""

    def __call__(self, path: Path, name: str) -> SegmentationData:
        """Read the data set `name` at `path`.

        Raises:
            DatasetError: None of the layouts is there, or an image has no mask.
        """
        for layout in self.layouts:
            if images := tuple(_paired(path, layout, self.gsd_m, self.group)):
                return SegmentationData(images, self.table.names, self.table)
        expected = ", ".join(f"{layout.images} beside {layout.masks}" for layout in self.layouts)
        raise layout_error(name, path, f"one of {expected}")


_TRAIN_TEST: Mapping[Part, str] = {"train": "train", "test": "test"}
_WITH_VAL: Mapping[Part, str] = {"train": "train", "val": "val", "test": "test"}
_FUSAR_MAP_NAMES = ("_SAR_", "_Label_")

FUSAR_MAP = ClassTable(
    ("other", "building", "vegetation", "water", "road"),
    {(0, 0, 0): 0, (255, 0, 0): 1, (0, 255, 0): 2, (0, 0, 255): 3, (255, 255, 0): 4},
)
AIR_POLARSAR_SEG = ClassTable(
    ("industrial", "natural", "land use", "water", "other", "housing"),
    {
        (0, 0, 255): 0,
        (0, 255, 0): 1,
        (255, 0, 0): 2,
        (0, 255, 255): 3,
        (255, 255, 255): 4,
        (255, 255, 0): 5,
        (0, 0, 0): IGNORED,
    },
)
OMBRIA = ClassTable(("dry", "flooded"), {0: 0, 255: 1})
# `Any` water (1), none (0), and clouds or no data (-1, which an unsigned reader sees as 65535 or 255).
SEN1FLOODS11 = ClassTable(("dry", "water"), {0: 0, 1: 1, -1: IGNORED})
SEN1FLOODS11_GSD_M = 10.0
_SEN1_PARTS: Mapping[str, Part] = {"train": "train", "valid": "val", "test": "test"}


def read_mask_folders(path: Path, name: str) -> SegmentationData:
    """Read images/* with masks/*, or train/images/* with train/masks/* (val, test), paired by stem.

    PATH/classes.csv may name the classes: columns value and name, where value is a grey value or RRGGBB
    behind
    a #, and a name "ignored" leaves the pixels out. Without it a mask is 0 (background) and 1 or 255.
    """
    layouts = (
        MaskLayout("{part}/images", "{part}/masks", parts=_WITH_VAL),
        MaskLayout("images/{part}", "masks/{part}", parts=_WITH_VAL),
        MaskLayout("images", "masks"),
    )
    table = _class_table(path / "classes.csv") if (path / "classes.csv").is_file() else BINARY
    for layout in layouts:
        if images := tuple(_paired(path, layout, None, None)):
            return SegmentationData(images, table.names, table)
    raise layout_error(name, path, "images/* beside masks/* (or train/images/* beside train/masks/*)")


def read_sen1floods11(path: Path, name: str) -> SegmentationData:
    """Read Sen1Floods11's hand-labelled chips: S1Hand/ID_S1Hand.tif (VV, VH in dB) and LabelHand.

    They lie in data/flood_events/HandLabeled (or v1.1/data/...), their parts in
    splits/flood_handlabeled/flood_{train,valid,test}_data.csv; chips of none of the three (Bolivia, which the
    authors hold out) are left out. Where chips lie in PATH itself, as in a sample, they have no part.
    """
    for root in (path / "v1.1", path):
        chips = root / "data" / "flood_events" / "HandLabeled"
        if chips.is_dir():
            return _sen1floods11(path, chips / "S1Hand", chips / "LabelHand", _sen1_parts(root))
    for folder in (path / "S1Hand", path):
        if any(folder.glob("*_S1Hand.tif")):
            labels = path / "LabelHand" if folder != path else path
            return _sen1floods11(path, folder, labels, None)
    raise layout_error(name, path, "data/flood_events/HandLabeled/S1Hand/*_S1Hand.tif and splits")


def _sen1floods11(
    path: Path, chips: Path, labels: Path, parts: Mapping[str, Part] | None
) -> SegmentationData:
    images = []
    for file in sorted(chips.glob("*_S1Hand.tif")):
        chip = file.stem.removesuffix("_S1Hand")
        if parts is not None and chip not in parts:
            continue
        mask = _existing(labels / f"{chip}_LabelHand.tif", file)
        part = parts[chip] if parts is not None else None
        relative = file.relative_to(path).as_posix()
        images.append(ImageWithMask(file, relative, mask, part, gsd_m=SEN1FLOODS11_GSD_M))
    return SegmentationData(tuple(images), SEN1FLOODS11.names, SEN1FLOODS11)


def _sen1_parts(root: Path) -> dict[str, Part] | None:
    parts: dict[str, Part] = {}
    for stem, part in _SEN1_PARTS.items():
        file = root / "splits" / "flood_handlabeled" / f"flood_{stem}_data.csv"
        if file.is_file():
            with file.open(newline="", encoding="utf-8") as rows:
                parts |= {row[0].rpartition("_")[0]: part for row in csv.reader(rows) if row}
    return parts or None


def _paired(
    path: Path, layout: MaskLayout, gsd_m: float | None, group: str | None
) -> Iterator[ImageWithMask]:
    parts: list[tuple[Part | None, str]] = [*layout.parts.items()]
    for part, folder in parts or [(None, "")]:
        masks = {m.stem.lower(): m for m in list_images(path / layout.masks.format(part=folder))}
        befores = {}
        if layout.before:
            befores = {b.stem.lower(): b for b in list_images(path / layout.before.format(part=folder))}
        for image in list_images(path / layout.images.format(part=folder)):
            mask = masks.get(re.sub(*layout.rename, image.stem).lower()) or masks.get(image.stem.lower())
            if mask is None:
                raise DatasetError(
                    f"{image} has no mask in {path / layout.masks.format(part=folder)}: complete the data set"
                )
            before = befores.get(re.sub(*layout.before_rename, image.stem).lower()) if layout.before else None
            found = re.match(group, image.stem) if group else None
            relative = image.relative_to(path).as_posix()
            yield ImageWithMask(image, relative, mask, part, found[1] if found else None, gsd_m, before)


def _existing(mask: Path, image: Path) -> Path:
    if not mask.is_file():
        raise DatasetError(f"{image} has no mask {mask}: complete the data set")
    return mask


def _class_table(file: Path) -> ClassTable:
    columns, rows = read_csv(file)
    known = {"value", "name"} <= set(columns)
    names = tuple(dict.fromkeys(row["name"] for row in rows if row["name"] != "ignored")) if known else ()
    if not names or not all(names):
        raise DatasetError(f"{file} needs the columns value and name, and a row for each class")
    if len(names) > IGNORED:
        raise DatasetError(f"{file} has {len(names)} classes, and at most {IGNORED} are possible")
    values: dict[int | tuple[int, int, int], int] = {}
    for row in rows:
        try:
            text = row["value"].strip()
            colour = bytes.fromhex(text[1:]) if text.startswith("#") else None
            value = (colour[0], colour[1], colour[2]) if colour is not None else int(text)
        except (ValueError, IndexError):
            raise DatasetError(
                f"{file} gives the value {row['value']!r}: give a pixel value, or a colour as #RRGGBB"
            ) from None
        if value in values:
            raise DatasetError(f"{file} gives the value {row['value']} twice: give each value one class")
        values[value] = names.index(row["name"]) if row["name"] != "ignored" else IGNORED
    return ClassTable(names, values)


SEGMENTATION_SETS: Mapping[str, SegmentationSpec] = {
    "mask_folders": SegmentationSpec(
        "mask folders",
        layout="`images/*`, `masks/*`, by part or not; `classes.csv` (value, name)",
        licence="-",
        read=read_mask_folders,
    ),
    "fusar_map": SegmentationSpec(
        "FUSAR-MAP",
        layout="`SAR_1024/*_SAR_*.tif`, `LAB_1024/*_Label_*.tif`, or `SAR/train`, `LAB/train`",
        classes=FUSAR_MAP.names,
        download="github.com/fudanxu/FUSAR-Map",
        layout_source="public loaders (SAR_1024, _SAR_ to _Label_, colours); the label folder's name not "
        "found: three are tried",
        read=MaskSetReader(
            (
                MaskLayout("SAR_1024", "LAB_1024", _FUSAR_MAP_NAMES),
                MaskLayout("SAR_1024", "Labels_1024", _FUSAR_MAP_NAMES),
                MaskLayout("SAR_1024", "Label_1024", _FUSAR_MAP_NAMES),
                MaskLayout("SAR/{part}", "LAB/{part}", _FUSAR_MAP_NAMES, parts=_TRAIN_TEST),
            ),
            FUSAR_MAP,
            group=r"^(.+)_SAR_",
        ),
    ),
    "air_polarsar_seg": SegmentationSpec(
        "AIR-PolarSAR-Seg",
        layout="`train_set/images/HH/*_HH.tiff`, `train_set/labels/*_gt.png`, `test_set`",
        classes=AIR_POLARSAR_SEG.names,
        download="github.com/AICyberTeam/AIR-PolSAR-Seg",
        layout_source="BVLabs' public loader AIRPolSARSegDataset",
        read=MaskSetReader(
            (
                MaskLayout(
                    "{part}/images/HH",
                    "{part}/labels",
                    ("_HH$", "_gt"),
                    parts={"train": "train_set", "test": "test_set"},
                ),
                MaskLayout("{part}/HH", "{part}/GT", parts=_TRAIN_TEST),
            ),
            AIR_POLARSAR_SEG,
            gsd_m=8.0,
        ),
    ),
    "ombria": SegmentationSpec(
        "OMBRIA",
        layout="`OmbriaS1/{train,test}/{BEFORE,AFTER,MASK}/S1_after_0001.png`",
        classes=OMBRIA.names,
        download="github.com/geodrak/OMBRIA",
        layout_source="NewRudy/geoai-ombria-robustness, data README; the copy in `../shared/data`",
        read=MaskSetReader(
            tuple(
                MaskLayout(
                    f"{root}{{part}}/AFTER",
                    f"{root}{{part}}/MASK",
                    ("after", "mask"),
                    parts=_TRAIN_TEST,
                    before=f"{root}{{part}}/BEFORE",
                    before_rename=("after", "before"),
                )
                for root in ("OmbriaS1/", "")
            ),
            OMBRIA,
            gsd_m=10.0,
        ),
    ),
    "sen1floods11": SegmentationSpec(
        "Sen1Floods11",
        layout="`data/flood_events/HandLabeled/{S1Hand,LabelHand}`, `splits/flood_handlabeled/*.csv`",
        classes=SEN1FLOODS11.names,
        download="github.com/cloudtostreet/Sen1Floods11 (gs://sen1floods11)",
        layout_source="cloudtostreet/Sen1Floods11, docs/README.md",
        read=read_sen1floods11,
    ),
}
"""The registry's entries by reader."""
