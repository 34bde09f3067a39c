"""Loading of a labelled data set: it is read by the registry's reader, split, and checked.

data = load_detection("hrsid", Path("HRSID"), LabelledSplitSettings(split="grouped"), "HRSID")
train = [data.images[i] for i in data.part("train")]
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fusar_klip.datasets.labelled_data import (
    ClassificationData,
    DetectionData,
    ImageT,
    ImageWithBoxes,
    SegmentationData,
)
from fusar_klip.datasets.registry import read_classification_images, read_detection, read_segmentation
from fusar_klip.datasets.splits import LabelledSplitSettings, apply_split, apply_split_file
from fusar_klip.errors import DatasetError

ONE_CLASS = "object"
"""The only category where all are merged."""


def load_classification(
    reader: str, path: Path, split: LabelledSplitSettings, name: str
) -> ClassificationData:
    """Read and split a classification set.

    Args:
        reader: A classification reader of the registry.
        path: The data set's folder.
        split: How it is split.
        name: The data set's name in error messages.

    Raises:
        SettingsError: There is no such reader.
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, there is no split, a part is empty, or a class has no
            training image.
    """
    images = apply_split(read_classification_images(reader, path, name, split.split_file), split, path, name)
    trained = {image.label for image in images if image.part == "train"}
    classes = sorted({image.label for image in images})
    if untrained := [label for label in classes if label not in trained]:
        raise DatasetError(
            f"{name} has no training image of {', '.join(untrained)}: add some, or remove the class from its "
            "split"
        )
    if len(classes) < 2:
        raise DatasetError(f"{name} at {path} has only one class ({classes[0]}): at least two are needed")
    return ClassificationData(images, tuple(classes))


def load_detection(
    reader: str, path: Path, split: LabelledSplitSettings, name: str, *, one_class: bool = False
) -> DetectionData:
    """Read and split a detection set; arguments and errors are those of `load_classification`.

    Args:
        reader: A detection reader of the registry.
        path: The data set's folder.
        split: How it is split.
        name: The data set's name in error messages.
        one_class: All categories count as one, `object`.
    """
    boxes = read_detection(reader, path, name)
    images = _with_split_file(boxes.images, path / split.split_file)
    data = DetectionData(apply_split(images, split, path, name), boxes.classes)
    return _merge_classes(data) if one_class else data


def load_segmentation(
    reader: str, path: Path, split: LabelledSplitSettings, name: str, *, before: bool = False
) -> SegmentationData:
    """Read and split a segmentation set; arguments and errors are those of `load_classification`.

    Args:
        reader: A segmentation reader of the registry.
        path: The data set's folder.
        split: How it is split.
        name: The data set's name in error messages.
        before: Whether every image must have one of the time before the event (change detection).
    """
    masks = read_segmentation(reader, path, name)
    images = _with_split_file(masks.images, path / split.split_file)
    if before and (alone := [image.name for image in images if image.before is None]):
        raise DatasetError(
            f"{name} has no image before {alone[0]}: remove before = true, or complete the data set"
        )
    return SegmentationData(apply_split(images, split, path, name), masks.classes, masks.table)


def _with_split_file(images: Sequence[ImageT], split_file: Path) -> Sequence[ImageT]:
    return apply_split_file(images, split_file) if split_file.is_file() else images


def _merge_classes(data: DetectionData) -> DetectionData:
    def merged(image: ImageWithBoxes) -> ImageWithBoxes:
        return replace(image, boxes=tuple(replace(box, category=ONE_CLASS) for box in image.boxes))

    return DetectionData(tuple(merged(image) for image in data.images), (ONE_CLASS,))
