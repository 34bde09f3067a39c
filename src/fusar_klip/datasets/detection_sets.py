"""Readers of the named detection sets: where the common formats of `boxes.py` lie in each.

`Layout` is tried in order; the first whose mark is there is read. The last ones are the plain formats, for
copies that others have rearranged.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fusar_klip.datasets.boxes import read_coco, read_voc, read_yolo
from fusar_klip.datasets.samples import DetectionData
from fusar_klip.errors import DatasetError

BoxFormat = Literal["coco", "voc", "yolo"]


@dataclass(frozen=True)
class Layout:
    """One way a data set lies on disk."""

    format: BoxFormat
    folder: str
    """Below the data set's path."""
    mark: str
    """A pattern below `folder` that only this layout has."""


_COCO = Layout("coco", ".", "[aA]nnotations/*.json")
_COCO_FILE = Layout("coco", ".", "*.json")
_VOC = Layout("voc", ".", "Annotations/*.xml")
_YOLO = Layout("yolo", ".", "labels")
_YOLO_PARTS = Layout("yolo", ".", "train/labels")
_FLAT_YOLO = Layout("yolo", ".", "*.txt")
_ANY = (_COCO, _COCO_FILE, _VOC, _YOLO, _YOLO_PARTS, _FLAT_YOLO)


@dataclass(frozen=True)
class DetectionSet:
    """What a named detection set adds to the formats."""

    name: str
    layouts: Sequence[Layout]
    categories: Sequence[str] = ()
    """The names of YOLO's class numbers."""
    group: str | None = None
    """A regular expression whose first group is the scene that an image was cut from, if names tell."""
    gsd_m: float | None = None


DETECTION_SETS: Mapping[str, DetectionSet] = {
    "ssdd": DetectionSet(
        "SSDD",
        (
            Layout("coco", "BBox_SSDD/coco_style", "annotations/train.json"),
            Layout("voc", "RBox_SSDD/voc_style", "Annotations_train"),
            Layout("voc", "BBox_SSDD/voc_style", "Annotations_train"),
            Layout("voc", "BBox_SSDD/voc_style", "Annotations"),
            Layout("voc", ".", "Annotations_train"),
            *_ANY,
        ),
    ),
    "hrsid": DetectionSet(
        "HRSID",
        (
            Layout("coco", "HRSID_JPG", "annotations/*.json"),
            Layout("coco", "HRSID_PNG", "annotations/*.json"),
            *_ANY,
        ),
        # P0001_600_1400_9600_10400: panorama 1; its 800-pixel cuts overlap by a quarter.
        group=r"^(P\d+)_",
    ),
    "sar_ship_dataset": DetectionSet(
        "SAR-Ship-Dataset",
        (Layout("yolo", "ship_dataset_v0", "*.txt"), *_ANY),
        categories=("ship",),
    ),
    "sardet_100k": DetectionSet("SARDet-100K", (Layout("coco", ".", "Annotations/*.json"), *_ANY)),
    "msar": DetectionSet("MSAR-1.0", (Layout("voc", "MSAR-1.0 dataset", "Annotations/*.xml"), *_ANY)),
    "sadd": DetectionSet("SADD", _ANY, categories=("aircraft",)),
    "air_sarship": DetectionSet(
        "AIR-SARShip", (Layout("voc", ".", "*-xml/*.xml"), Layout("voc", ".", "*.xml"), *_ANY)
    ),
    "sar_aircraft": DetectionSet("SAR-AIRcraft-1.0", _ANY, gsd_m=1.0),
    "fusar_ship_sense": DetectionSet("FUSAR-SHIP-Sense", _ANY, categories=("ship",)),
    "fusar_air_sense": DetectionSet("FUSAR-AIR-Sense", _ANY, categories=("aircraft",)),
}


def read_detection_set(key: str, path: Path) -> DetectionData:
    """Read a named detection set in the first of its layouts that is there.

    Raises:
        DatasetError: None of them is.
    """
    known = DETECTION_SETS[key]
    layout = next((it for it in known.layouts if any((path / it.folder).glob(it.mark))), None)
    if layout is None:
        looked = ", ".join(dict.fromkeys((Path(it.folder) / it.mark).as_posix() for it in known.layouts))
        raise DatasetError(
            f"{known.name} was looked for at {path} as {looked}, and none of them is there: point the "
            "suite's "
            "path at the folder that holds them"
        )
    data = _READ[layout.format](path / layout.folder, known)
    images = tuple(
        replace(
            image,
            name=image.file.relative_to(path).as_posix(),
            group=_scene(known.group, image.file.stem),
            gsd_m=known.gsd_m,
        )
        for image in data.images
    )
    return DetectionData(images, data.classes)


def _scene(pattern: str | None, stem: str) -> str | None:
    found = re.match(pattern, stem) if pattern else None
    return found[1] if found else None


_READ: Mapping[BoxFormat, Callable[[Path, DetectionSet], DetectionData]] = {
    "coco": lambda path, known: read_coco(path, known.name),
    "voc": lambda path, known: read_voc(path, known.name),
    "yolo": lambda path, known: read_yolo(path, known.name, known.categories),
}
