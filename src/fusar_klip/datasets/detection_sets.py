"""Detection data sets: `DETECTION_SETS`, the registry's entries, and where each keeps its box files.

The formats of the files, COCO, VOC and YOLO, are read by `box_formats.py`. A `BoxSetReader` tries its layouts
in order and reads the first that matches; the last ones are the plain formats, for copies that others have
rearranged.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Literal

from fusar_klip.datasets.box_formats import read_coco, read_voc, read_yolo
from fusar_klip.datasets.labelled_data import DetectionData, layout_error
from fusar_klip.datasets.specs import DetectionSpec

BoxFormat = Literal["coco", "voc", "yolo"]


@dataclass(frozen=True)
class BoxLayout:
    """One way a detection set lies on disk."""

    format: BoxFormat
    folder: str
    """Below the data set's path."""
    pattern: str
    """A glob pattern below `folder` that only this layout matches."""


PLAIN_LAYOUTS = (
    BoxLayout("coco", ".", "[aA]nnotations/*.json"),
    BoxLayout("coco", ".", "*.json"),
    BoxLayout("voc", ".", "Annotations/*.xml"),
    BoxLayout("yolo", ".", "labels"),
    BoxLayout("yolo", ".", "train/labels"),
    BoxLayout("yolo", ".", "*.txt"),
)


@dataclass(frozen=True)
class BoxSetReader:
    """Reads a named detection set in the first of its layouts that is there, then in a plain format."""

    layouts: Sequence[BoxLayout] = ()
    """Layouts of its own; `PLAIN_LAYOUTS` are tried after them."""
    _: KW_ONLY
    categories: Sequence[str] = ()
    """The names of YOLO's class numbers."""
    group: str | None = None
    """A regular expression whose first group is the scene in an image's name; None where names have none."""
    gsd_m: float | None = None

    def __call__(self, path: Path, name: str) -> DetectionData:
        """Read the data set `name` at `path`.

        Raises:
            DatasetError: None of the layouts is there, or a file is wrong.
        """
        layouts = (*self.layouts, *PLAIN_LAYOUTS)
        layout = next((it for it in layouts if any((path / it.folder).glob(it.pattern))), None)
        if layout is None:
            expected = ", ".join(dict.fromkeys((Path(it.folder) / it.pattern).as_posix() for it in layouts))
            raise layout_error(name, path, f"one of {expected}")
        data = _FORMATS[layout.format](path / layout.folder, name, self.categories)
        images = tuple(
            replace(
                image,
                name=image.file.relative_to(path).as_posix(),
                group=self._scene_of(image.file),
                gsd_m=self.gsd_m,
            )
            for image in data.images
        )
        return DetectionData(images, data.classes)

    def _scene_of(self, file: Path) -> str | None:
        found = re.match(self.group, file.stem) if self.group else None
        return found[1] if found else None


_FORMATS: Mapping[BoxFormat, Callable[[Path, str, Sequence[str]], DetectionData]] = {
    "coco": lambda path, name, categories: read_coco(path, name),
    "voc": lambda path, name, categories: read_voc(path, name),
    "yolo": read_yolo,
}

DETECTION_SETS: Mapping[str, DetectionSpec] = {
    "coco": DetectionSpec(
        "COCO",
        layout="`annotations/{train,val,test}.json` or any `*.json`; `images/*` or `JPEGImages/*`",
        licence="-",
        read=read_coco,
    ),
    "voc": DetectionSpec(
        "VOC (also rotated boxes)",
        layout="`Annotations/*.xml`, `JPEGImages/*`, optional `ImageSets/Main/*.txt`",
        licence="-",
        read=read_voc,
    ),
    "yolo": DetectionSpec(
        "YOLO (also rotated boxes)",
        layout="`images/train/*`, `labels/train/*.txt`, or `train/images`, or side by side",
        licence="-",
        read=read_yolo,
    ),
    "ssdd": DetectionSpec(
        "SSDD",
        layout="`BBox_SSDD/coco_style/annotations/{train,test}.json` or "
        "`RBox_SSDD/voc_style/Annotations_train`",
        classes=("ship",),
        download="github.com/TianwenZhang0825/Official-SSDD",
        layout_source="JDet's page on SSDD; public loaders of Official-SSDD-OPEN",
        read=BoxSetReader(
            (
                BoxLayout("coco", "BBox_SSDD/coco_style", "annotations/train.json"),
                BoxLayout("voc", "RBox_SSDD/voc_style", "Annotations_train"),
                BoxLayout("voc", "BBox_SSDD/voc_style", "Annotations_train"),
                BoxLayout("voc", "BBox_SSDD/voc_style", "Annotations"),
                BoxLayout("voc", ".", "Annotations_train"),
            )
        ),
    ),
    "hrsid": DetectionSpec(
        "HRSID",
        layout="`HRSID_JPG/annotations/{train2017,test2017}.json`, `HRSID_JPG/JPEGImages`",
        classes=("ship",),
        licence="GPL-3.0",
        download="github.com/chaozhong2010/HRSID",
        layout_source="open-mmlab/mmrotate, tools/data/hrsid/README.md (1.x)",
        read=BoxSetReader(
            (
                BoxLayout("coco", "HRSID_JPG", "annotations/*.json"),
                BoxLayout("coco", "HRSID_PNG", "annotations/*.json"),
            ),
            # P0001_600_1400_9600_10400: panorama 1; its 800-pixel cuts overlap by a quarter.
            group=r"^(P\d+)_",
        ),
    ),
    "sar_ship_dataset": DetectionSpec(
        "SAR-Ship-Dataset",
        layout="`ship_dataset_v0/*.jpg` with YOLO `*.txt` beside them",
        classes=("ship",),
        download="github.com/CAESAR-Radi/SAR-Ship-Dataset",
        layout_source="its README (labels); public loaders of ship_dataset_v0 (folder)",
        read=BoxSetReader((BoxLayout("yolo", "ship_dataset_v0", "*.txt"),), categories=("ship",)),
    ),
    "sardet_100k": DetectionSpec(
        "SARDet-100K",
        layout="`Annotations/{train,val,test}.json`, `JPEGImages/{train,val,test}`",
        classes=("ship", "aircraft", "car", "tank", "bridge", "harbor"),
        download="github.com/zcablii/SARDet_100K",
        layout_source="yuyi1005/whollywood, configs/_base_/datasets/sardet100k.py",
        read=BoxSetReader((BoxLayout("coco", ".", "Annotations/*.json"),)),
    ),
    "msar": DetectionSpec(
        "MSAR",
        layout="`MSAR-1.0 dataset/Annotations/*.xml`, `JPEGImages/*`",
        download="radars.ac.cn/web/data/getData?dataType=MSAR",
        layout_source='public loaders of "MSAR-1.0 dataset"; it has no split of its own',
        read=BoxSetReader((BoxLayout("voc", "MSAR-1.0 dataset", "Annotations/*.xml"),)),
    ),
    "sadd": DetectionSpec(
        "SADD",
        layout="`images/*` and YOLO `labels/*.txt`, or side by side",
        classes=("aircraft",),
        download="github.com/hust-rslab/SAR-aircraft-data",
        layout_source="its README (labels); the folders not found: all YOLO layouts are tried",
        read=BoxSetReader(categories=("aircraft",)),
    ),
    "air_sarship": DetectionSpec(
        "AIR-SARShip",
        layout="`AIR-SARShip-2.0-xml/*.xml` (points) and `AIR-SARShip-2.0-data/*.tiff`, or side by side",
        classes=("ship",),
        download="radars.ac.cn/web/data/getData?dataType=SARDataset_en",
        layout_source="a public viewer of AIR-SARShip-2.0; a public loader of 1.0",
        read=BoxSetReader((BoxLayout("voc", ".", "*-xml/*.xml"), BoxLayout("voc", ".", "*.xml"))),
    ),
    "sar_aircraft": DetectionSpec(
        "SAR-AIRcraft-1.0",
        layout="`Annotations/*.xml`, `JPEGImages/*`, `ImageSets/Main/{train,val,test}.txt`",
        classes=("A220", "A320/321", "A330", "ARJ21", "Boeing737", "Boeing787", "other"),
        licence="research use",
        download="radars.ac.cn (doi 10.12000/JR23043)",
        layout_source="public loaders of SAR-AIRcraft-1.0; the copy in `../shared/data` is COCO",
        read=BoxSetReader(gsd_m=1.0),
    ),
    "fusar_ship_sense": DetectionSpec(
        "FUSAR-SHIP-Sense",
        layout="COCO, VOC or YOLO, whichever is found",
        classes=("ship",),
        download="its authors (paper, 4.3); no public address found",
        layout_source="not found",
        read=BoxSetReader(categories=("ship",)),
    ),
    "fusar_air_sense": DetectionSpec(
        "FUSAR-AIR-Sense",
        layout="COCO, VOC or YOLO, whichever is found",
        classes=("aircraft",),
        download="its authors (paper, 4.3); no public address found",
        layout_source="not found",
        read=BoxSetReader(categories=("aircraft",)),
    ),
}
"""The registry's entries by reader."""
