"""Labelled data sets in memory: images by path, with a class label, boxes or a mask. No pixels are held.

Letters: N images, H and W an image's height and width.
"""

import csv
import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusar_klip.errors import DatasetError
from fusar_klip.files import sha256
from fusar_klip.image_io import image_read_errors

Part = Literal["train", "val", "test"]
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
IGNORED = 255
"""The class of pixels that have none, in the masks of `read_mask`."""

Ints = NDArray[np.int64]


class DatasetNotFoundError(DatasetError):
    """A data set's folder does not exist; a suite may allow to skip its rows."""


def layout_error(name: str, path: Path, expected: str) -> DatasetError:
    """Return the error of a data set `name` whose layout on disk is not found in `path`."""
    return DatasetError(
        f"{name} not found in {path}: expected {expected}; set the path to the folder that contains them"
    )


@dataclass(frozen=True)
class DatasetImage(ABC):
    """One image of a data set."""

    file: Path
    name: str
    """Its path below the data set's folder, with forward slashes."""

    @property
    @abstractmethod
    def ground_truth(self) -> str:
        """The label as text: different labels have different texts."""


@dataclass(frozen=True)
class ImageWithLabel(DatasetImage):
    """An image of one class."""

    label: str
    part: Part | None
    """None where the data set has no split of its own: `splits.py` makes one."""
    group: str | None
    """Images of one group (near-duplicates, one target, one scene) belong into one part of a split."""
    gsd_m: float | None = None
    """Ground spacing in metres per pixel, where it is known."""

    @property
    def ground_truth(self) -> str:
        """The label."""
        return self.label


@dataclass(frozen=True)
class Box:
    """One object: an upright box in pixels, from the image's top left corner, as the data set gives it.

    Its `repr` goes into `LabelledDataset.digest`, which names files in RESULTS: a change of this class or of
    its fields would change them.
    """

    category: str
    x: float
    y: float
    width: float
    height: float
    corners: tuple[float, ...] | None = None
    """x1, y1 to x4, y4 of a rotated box, in pixels; the upright one then encloses it."""
    difficult: bool = False
    """Ignored in evaluation: neither a hit nor a miss counts (VOC's difficult, COCO's iscrowd and ignore)."""


@dataclass(frozen=True)
class ImageWithBoxes(DatasetImage):
    """An image with the boxes of its objects; one without boxes is background."""

    boxes: tuple[Box, ...]
    width: int
    height: int
    part: Part | None
    group: str | None = None
    gsd_m: float | None = None

    @property
    def ground_truth(self) -> str:
        """The boxes."""
        return repr(self.boxes)


@dataclass(frozen=True)
class ImageWithMask(DatasetImage):
    """An image with a mask of its classes."""

    mask: Path
    part: Part | None
    group: str | None = None
    gsd_m: float | None = None
    before: Path | None = None
    """The image of the same area before the event, for change data sets."""

    @property
    def ground_truth(self) -> str:
        """The content of the mask, and of the image before."""
        return sha256(self.mask) + (sha256(self.before) if self.before else "")


@dataclass(frozen=True)
class ClassTable:
    """The class of each pixel value of a mask."""

    names: tuple[str, ...]
    values: Mapping[int | tuple[int, int, int], int]
    """From a pixel value or an RGB colour to an index into `names`, or to `IGNORED`."""


AnyImage = ImageWithLabel | ImageWithBoxes | ImageWithMask
ImageT = TypeVar("ImageT", ImageWithLabel, ImageWithBoxes, ImageWithMask)


@dataclass(frozen=True)
class LabelledDataset(Generic[ImageT]):
    """A data set of N images."""

    images: tuple[ImageT, ...]
    classes: tuple[str, ...]

    @cached_property
    def groups(self) -> Ints | None:
        """(N,) group number of each image; None if any image has no group."""
        if any(image.group is None for image in self.images):
            return None
        return np.unique([str(image.group) for image in self.images], return_inverse=True)[1].astype(np.int64)

    def part(self, part: Part) -> Ints:
        """Return the indices of the images of one part, ascending."""
        return np.flatnonzero([image.part == part for image in self.images])

    @property
    def files(self) -> list[Path]:
        """The images' paths, in order."""
        return [image.file for image in self.images]

    @property
    def size_summary(self) -> str:
        """Sizes in one line."""
        sizes = f"{len(self.part('train'))} training and {len(self.part('test'))} test images"
        if self.groups is None:
            return f"{sizes}, {len(self.classes)} classes"
        groups = len(np.unique(self.groups[self.part("test")]))
        return f"{sizes} (in {groups} groups), {len(self.classes)} classes"

    @cached_property
    def content(self) -> list[str]:
        """The SHA-256 of each image's file."""
        return [sha256(image.file) for image in self.images]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the images' names, ground truths, parts, groups and contents, and the classes."""
        digest = hashlib.sha256()
        for image, content in zip(self.images, self.content, strict=True):
            digest.update(repr((image.name, image.ground_truth, image.part, image.group, content)).encode())
        digest.update(self.class_definition.encode())
        return digest.hexdigest()

    @property
    def class_definition(self) -> str:
        """What defines the classes beside the images' labels; empty where a label is its class's name."""
        return ""

    @cached_property
    def notes(self) -> list[str]:
        """Notes for the reader of results: leakage between the parts."""
        notes = []
        if self.groups is not None:
            leaked, images = _leakage([str(image.group) for image in self.images], self.images)
            if leaked:
                notes.append(
                    f"Leakage: {leaked} groups are in both parts of the split, so {images} of its test "
                    "images have near-duplicates among the training images."
                )
        _, images = _leakage(self.content, self.images)
        if images:
            notes.append(f"Leakage: {images} test images are byte for byte among the training images.")
        return notes


class ClassificationData(LabelledDataset[ImageWithLabel]):
    """A classification data set: N images of K classes."""

    @cached_property
    def labels(self) -> Ints:
        """(N,) class of each image, an index into `classes`."""
        index = {name: number for number, name in enumerate(self.classes)}
        return np.array([index[image.label] for image in self.images], dtype=np.int64)


class DetectionData(LabelledDataset[ImageWithBoxes]):
    """A detection data set; `classes` are the boxes' categories."""

    @property
    def class_definition(self) -> str:
        """The classes in their order, which is that of the label numbers; those without boxes count too."""
        return repr(self.classes)


@dataclass(frozen=True)
class SegmentationData(LabelledDataset[ImageWithMask]):
    """A segmentation data set; `classes` are the table's names."""

    table: ClassTable

    @property
    def class_definition(self) -> str:
        """The class of each pixel value."""
        return repr((self.classes, sorted(self.table.values.items(), key=repr)))


def read_mask(file: Path, table: ClassTable) -> NDArray[np.uint8]:
    """Return (H, W) uint8 of a mask: an index into `table.names`, or `IGNORED`.

    Raises:
        DatasetError: The mask cannot be read, or has a value that the table does not list.
    """
    coloured = any(isinstance(value, tuple) for value in table.values)
    with image_read_errors(file), Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB") if coloured else image)
    if pixels.ndim == 3 and not coloured:
        pixels = pixels[..., 0]
    classes = np.full(pixels.shape[:2], IGNORED, dtype=np.uint8)
    known = np.zeros(pixels.shape[:2], dtype=np.bool_)
    for value, index in table.values.items():
        here = (pixels == np.array(value)).all(axis=-1) if coloured else pixels == value
        classes[here] = index
        known |= here
    if not known.all():
        row, column = np.argwhere(~known)[0].tolist()
        raise DatasetError(
            f"the mask {file} has the value {pixels[row, column].tolist()} at row {row}, column {column}, "
            f"which its class table does not list ({', '.join(str(value) for value in table.values)})"
        )
    return classes


def read_csv(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the column names and the rows of a CSV.

    Raises:
        DatasetError: It is no CSV in UTF-8.
    """
    try:
        # Spreadsheets put a mark in front of UTF-8.
        with file.open(newline="", encoding="utf-8-sig") as opened:
            table = csv.DictReader(opened, restval="")
            return list(table.fieldnames or ()), list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file} is no CSV in UTF-8 ({error}): save it as one") from None


def list_images(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the image files that match a pattern, by name."""
    return sorted(file for file in folder.glob(pattern) if file.suffix.lower() in IMAGE_SUFFIXES)


def _leakage(keys: Sequence[str], images: Iterable[AnyImage]) -> tuple[int, int]:
    """Return how many keys are in both training and test part, and how many test images carry one."""
    train, test = Counter[str](), Counter[str]()
    for key, image in zip(keys, images, strict=True):
        if image.part in ("train", "test"):
            (train if image.part == "train" else test)[key] += 1
    both = train.keys() & test.keys()
    return len(both), sum(test[key] for key in both)
