"""The registry of readers: every public data set and format, its layout, where it is had, where we read it.

`docs/datasets.md` prints this table, and a test holds the two together. Sources name the public repository
or page in which the layout was read; "not found" says that we found none, and what is tried instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusar_klip.datasets import boxes, class_folders, masks
from fusar_klip.datasets.detection_sets import read_detection_set
from fusar_klip.datasets.samples import (
    DatasetNotFoundError,
    DetectionData,
    LabelledImage,
    SegmentationData,
)
from fusar_klip.errors import DatasetError

ClassificationReader = Literal[
    "class_folders", "split_folders", "fusar_ship", "fusar_air", "sar_acd", "mstar", "opensarship"
]
DetectionReader = Literal[
    "coco",
    "voc",
    "yolo",
    "ssdd",
    "hrsid",
    "sar_ship_dataset",
    "sardet_100k",
    "msar",
    "sadd",
    "air_sarship",
    "sar_aircraft",
    "fusar_ship_sense",
    "fusar_air_sense",
]
SegmentationReader = Literal["mask_folders", "fusar_map", "air_polarsar_seg", "ombria", "sen1floods11"]


@dataclass(frozen=True)
class Entry:
    """One row of the registry's table."""

    name: str
    layout: str
    where: str
    """Where the set is to be had; "-" for a format."""
    source: str
    """Where the layout was read."""


ReadClasses = Callable[[Path, str, str], list[LabelledImage]]
ReadBoxes = Callable[[Path, str], DetectionData]
ReadMasks = Callable[[Path, str], SegmentationData]

CLASSIFICATION: Mapping[ClassificationReader, tuple[ReadClasses, Entry]] = {
    "class_folders": (
        class_folders.read_class_folders,
        Entry(
            "class folders",
            "`CLASS/*` or `images/CLASS/*`; a CSV (file, class, split, group) if there",
            "-",
            "-",
        ),
    ),
    "split_folders": (
        class_folders.read_split_folders,
        Entry("part folders", "`train/CLASS/*` and `test/CLASS/*` (or `val`)", "-", "-"),
    ),
    "fusar_ship": (
        class_folders.read_fusar_ship,
        Entry(
            "FUSAR-SHIP",
            "`CATEGORY/SUBCATEGORY/Ship_CxxSyyNzzzz.tiff`, `meta.csv`",
            "emwlab.fudan.edu.cn/resources",
            "its readme, at emwlab.fudan.edu.cn/resources/list.htm",
        ),
    ),
    "fusar_air": (
        class_folders.read_class_folders,
        Entry(
            "FUSAR-AIR",
            "`CLASS/*`, or a split file",
            "its authors (paper, [54]); no public address found",
            "not found: plain class folders are read",
        ),
    ),
    "sar_acd": (
        class_folders.read_sar_acd,
        Entry(
            "SAR-ACD",
            "`CLASS/*` or `images/CLASS/*`; `split.csv` if there",
            "github.com/AICyberTeam/SAR-ACD",
            "the shared copy; the repository's README names the classes, not the folders",
        ),
    ),
    "mstar": (
        class_folders.read_mstar,
        Entry(
            "MSTAR",
            "`train/CLASS/*`, `test` or `val`; CLASS 0 to 9 or a name; or `TRAIN/17_DEG/T72/SN_132/*`",
            "www.sdms.afrl.af.mil (MSTAR public targets)",
            "the shared copy; jangsoopark/AConvNet-pytorch, README",
        ),
    ),
    "opensarship": (
        class_folders.read_opensarship,
        Entry(
            "OpenSARShip",
            "`SCENE/Patch_Uint8/TYPE_xX_yY_POL.tif`, else `Patch_Cal`, `Patch`",
            "opensar.sjtu.edu.cn",
            "READMEs of two public loaders (folders Patch, Patch_Cal, Patch_RGB, Patch_Uint8); the names in "
            "Patch_Uint8 not found, those of Patch_Cal are taken",
        ),
    ),
}


def _detection(key: DetectionReader) -> ReadBoxes:
    def read(path: Path, name: str) -> DetectionData:
        return read_detection_set(key, path)

    return read


DETECTION: Mapping[DetectionReader, tuple[ReadBoxes, Entry]] = {
    "coco": (
        boxes.read_coco,
        Entry(
            "COCO",
            "`annotations/{train,val,test}.json` or any `*.json`; `images/*` or `JPEGImages/*`",
            "-",
            "-",
        ),
    ),
    "voc": (
        boxes.read_voc,
        Entry(
            "VOC, rotated too",
            "`Annotations/*.xml`, `JPEGImages/*`, `ImageSets/Main/*.txt` if there",
            "-",
            "-",
        ),
    ),
    "yolo": (
        boxes.read_yolo,
        Entry(
            "YOLO, rotated too",
            "`images/train/*`, `labels/train/*.txt`, or `train/images`, or side by side",
            "-",
            "-",
        ),
    ),
    "ssdd": (
        _detection("ssdd"),
        Entry(
            "SSDD",
            "`BBox_SSDD/coco_style/annotations/{train,test}.json` or `RBox_SSDD/voc_style/Annotations_train`",
            "github.com/TianwenZhang0825/Official-SSDD",
            "JDet's page on SSDD; public loaders of Official-SSDD-OPEN",
        ),
    ),
    "hrsid": (
        _detection("hrsid"),
        Entry(
            "HRSID",
            "`HRSID_JPG/annotations/{train2017,test2017}.json`, `HRSID_JPG/JPEGImages`",
            "github.com/chaozhong2010/HRSID",
            "open-mmlab/mmrotate, tools/data/hrsid/README.md (1.x)",
        ),
    ),
    "sar_ship_dataset": (
        _detection("sar_ship_dataset"),
        Entry(
            "SAR-Ship-Dataset",
            "`ship_dataset_v0/*.jpg` with YOLO `*.txt` beside them",
            "github.com/CAESAR-Radi/SAR-Ship-Dataset",
            "its README (labels); public loaders of ship_dataset_v0 (folder)",
        ),
    ),
    "sardet_100k": (
        _detection("sardet_100k"),
        Entry(
            "SARDet-100K",
            "`Annotations/{train,val,test}.json`, `JPEGImages/{train,val,test}`",
            "github.com/zcablii/SARDet_100K",
            "yuyi1005/whollywood, configs/_base_/datasets/sardet100k.py",
        ),
    ),
    "msar": (
        _detection("msar"),
        Entry(
            "MSAR",
            "`MSAR-1.0 dataset/Annotations/*.xml`, `JPEGImages/*`",
            "radars.ac.cn/web/data/getData?dataType=MSAR",
            'public loaders of "MSAR-1.0 dataset"; it brings no split',
        ),
    ),
    "sadd": (
        _detection("sadd"),
        Entry(
            "SADD",
            "`images/*` and YOLO `labels/*.txt`, or side by side",
            "github.com/hust-rslab/SAR-aircraft-data",
            "its README (labels); the folders not found, all YOLO layouts are tried",
        ),
    ),
    "air_sarship": (
        _detection("air_sarship"),
        Entry(
            "AIR-SARShip",
            "`AIR-SARShip-2.0-xml/*.xml` (points) and `AIR-SARShip-2.0-data/*.tiff`, or side by side",
            "radars.ac.cn/web/data/getData?dataType=SARDataset_en",
            "a public viewer of AIR-SARShip-2.0; a public loader of 1.0",
        ),
    ),
    "sar_aircraft": (
        _detection("sar_aircraft"),
        Entry(
            "SAR-AIRcraft-1.0",
            "`Annotations/*.xml`, `JPEGImages/*`, `ImageSets/Main/{train,val,test}.txt`",
            "radars.ac.cn (doi 10.12000/JR23043)",
            "public loaders of SAR-AIRcraft-1.0; the shared copy is COCO",
        ),
    ),
    "fusar_ship_sense": (
        _detection("fusar_ship_sense"),
        Entry(
            "FUSAR-SHIP-Sense",
            "COCO, VOC or YOLO, whichever is there",
            "its authors (paper, 4.3); no public address found",
            "not found",
        ),
    ),
    "fusar_air_sense": (
        _detection("fusar_air_sense"),
        Entry(
            "FUSAR-AIR-Sense",
            "COCO, VOC or YOLO, whichever is there",
            "its authors (paper, 4.3); no public address found",
            "not found",
        ),
    ),
}


def _segmentation(key: SegmentationReader) -> ReadMasks:
    def read(path: Path, name: str) -> SegmentationData:
        return masks.read_mask_set(key, path)

    return read


SEGMENTATION: Mapping[SegmentationReader, tuple[ReadMasks, Entry]] = {
    "mask_folders": (
        masks.read_mask_folders,
        Entry("mask folders", "`images/*`, `masks/*`, by part or not; `classes.csv` (value, name)", "-", "-"),
    ),
    "fusar_map": (
        _segmentation("fusar_map"),
        Entry(
            "FUSAR-MAP",
            "`SAR_1024/*_SAR_*.tif`, `LAB_1024/*_Label_*.tif`, or `SAR/train`, `LAB/train`",
            "github.com/fudanxu/FUSAR-Map",
            "public loaders (SAR_1024, _SAR_ to _Label_, colours); the label folder's name not found, "
            "three are tried",
        ),
    ),
    "air_polarsar_seg": (
        _segmentation("air_polarsar_seg"),
        Entry(
            "AIR-PolarSAR-Seg",
            "`train_set/images/HH/*_HH.tiff`, `train_set/labels/*_gt.png`, `test_set`",
            "github.com/AICyberTeam/AIR-PolSAR-Seg",
            "BVLabs' public loader AIRPolSARSegDataset",
        ),
    ),
    "ombria": (
        _segmentation("ombria"),
        Entry(
            "OMBRIA",
            "`OmbriaS1/{train,test}/{BEFORE,AFTER,MASK}/S1_after_0001.png`",
            "github.com/geodrak/OMBRIA",
            "NewRudy/geoai-ombria-robustness, data README; the shared copy",
        ),
    ),
    "sen1floods11": (
        masks.read_sen1floods11,
        Entry(
            "Sen1Floods11",
            "`data/flood_events/HandLabeled/{S1Hand,LabelHand}`, `splits/flood_handlabeled/*.csv`",
            "github.com/cloudtostreet/Sen1Floods11 (gs://sen1floods11)",
            "cloudtostreet/Sen1Floods11, docs/README.md",
        ),
    ),
}


def read_classification_images(
    reader: ClassificationReader, path: Path, name: str, split_file: str = "split.csv"
) -> list[LabelledImage]:
    """Return the images of a classification set, by name; their parts may be None.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's.
    """
    read, entry = CLASSIFICATION[reader]
    _check(path, name, entry)
    images = sorted(read(path, name, split_file), key=lambda image: image.name)
    _check_some(len(images), path, name, entry)
    return images


def read_detection(reader: DetectionReader, path: Path, name: str) -> DetectionData:
    """Return a detection set; raises as `read_classification_images`."""
    read, entry = DETECTION[reader]
    _check(path, name, entry)
    data = read(path, name)
    _check_some(len(data.images), path, name, entry)
    return data


def read_segmentation(reader: SegmentationReader, path: Path, name: str) -> SegmentationData:
    """Return a segmentation set; raises as `read_classification_images`."""
    read, entry = SEGMENTATION[reader]
    _check(path, name, entry)
    data = read(path, name)
    _check_some(len(data.images), path, name, entry)
    return data


def _check(path: Path, name: str, entry: Entry) -> None:
    if not path.is_dir():
        had = "" if entry.where == "-" else f" ({entry.name} is to be had from {entry.where})"
        raise DatasetNotFoundError(
            f"{name} was looked for at {path}, and there is no such folder: give --data DIR or set "
            f"FUSAR_KLIP_DATA to the folder that holds it{had}"
        )


def _check_some(count: int, path: Path, name: str, entry: Entry) -> None:
    if not count:
        had = "" if entry.where == "-" else f"; it is to be had from {entry.where}"
        raise DatasetError(
            f"{name} was looked for at {path} as {entry.layout.replace('`', '')}, and no image is there: "
            "point "
            f"the suite's path at the folder that holds it{had}"
        )
