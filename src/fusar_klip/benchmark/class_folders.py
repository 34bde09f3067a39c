"""Readers of classification data sets: class folders with a split file, and train/test folders of classes.

A reader lists files, classes, split and groups, and says what misleads in them; it opens no image.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.settings import ClassificationRow, Reader
from fusar_klip.errors import DatasetError
from fusar_klip.files import sha256

Part = Literal["train", "test"]
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})

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


class DatasetNotFoundError(DatasetError):
    """A suite's data set is not where the suite says; the suite may allow to go on without it."""


@dataclass(frozen=True)
class LabelledImage:
    """One image of a classification data set."""

    file: Path
    name: str
    """Its path below the data set's folder, with forward slashes."""
    label: str
    part: Part
    group: str | None
    """Images of one group (near-duplicates, one target) belong on one side of a split."""


@dataclass(frozen=True)
class ClassificationData:
    """A classification data set with its split: N images of K classes, every class with training images."""

    images: tuple[LabelledImage, ...]
    classes: tuple[str, ...]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class of each image, an index into `classes`."""
        index = {name: number for number, name in enumerate(self.classes)}
        return np.array([index[image.label] for image in self.images], dtype=np.int64)

    @cached_property
    def groups(self) -> NDArray[np.int64] | None:
        """(N,) group number of each image; None where the data set names no groups."""
        if any(image.group is None for image in self.images):
            return None
        return np.unique([str(image.group) for image in self.images], return_inverse=True)[1].astype(np.int64)

    def part(self, part: Part) -> NDArray[np.int64]:
        """Return the indices of the images of one part, ascending."""
        return np.flatnonzero([image.part == part for image in self.images])

    @property
    def files(self) -> list[Path]:
        """The images' paths, in order."""
        return [image.file for image in self.images]

    @property
    def facts(self) -> str:
        """Sizes in one line."""
        sizes = f"{len(self.part('train'))} training and {len(self.part('test'))} test images"
        if self.groups is None:
            return f"{sizes}, {len(self.classes)} classes"
        groups = len(np.unique(self.groups[self.part("test")]))
        return f"{sizes} (in {groups} groups), {len(self.classes)} classes"

    @cached_property
    def _content(self) -> list[str]:
        return [sha256(image.file) for image in self.images]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every image's name, class, part, group and content."""
        digest = hashlib.sha256()
        for image, content in zip(self.images, self._content, strict=True):
            digest.update(repr((image.name, image.label, image.part, image.group, content)).encode())
        return digest.hexdigest()

    @cached_property
    def notes(self) -> list[str]:
        """What a reader of the numbers has to know: leakage between the parts."""
        notes = []
        if self.groups is not None:
            leaked, images = _leakage([str(image.group) for image in self.images], self.images)
            if leaked:
                notes.append(
                    f"Leakage: {leaked} groups are in both parts of the split, so {images} of its test "
                    "images have near-duplicates among the training images."
                )
        _, images = _leakage(self._content, self.images)
        if images:
            notes.append(f"Leakage: {images} test images are byte for byte among the training images.")
        return notes


def read_classification(row: ClassificationRow, path: Path) -> ClassificationData:
    """Read the data set of a row with the row's reader.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, a part is empty, or a class has no training image.
    """
    if not path.is_dir():
        raise DatasetNotFoundError(
            f"{row.dataset} was looked for at {path}, and there is no such folder: give --data DIR or set "
            "FUSAR_KLIP_DATA to the folder that holds it"
        )
    images = sorted(READERS[row.reader](path, row), key=lambda image: image.name)
    for part in get_args(Part):
        if not any(image.part == part for image in images):
            raise DatasetError(f"{row.dataset} at {path} has no {part} images: check its split")
    trained = {image.label for image in images if image.part == "train"}
    classes = sorted({image.label for image in images})
    if untrained := [name for name in classes if name not in trained]:
        raise DatasetError(
            f"{row.dataset} has no training image of {', '.join(untrained)}: add some, or take the class "
            "out of its split"
        )
    if len(classes) < 2:
        raise DatasetError(
            f"{row.dataset} at {path} has one class only ({classes[0]}): at least two are needed"
        )
    return ClassificationData(tuple(images), tuple(classes))


def read_class_folders(path: Path, row: ClassificationRow) -> list[LabelledImage]:
    """Read images that a split file lists: CSV with the columns file, class, split and perhaps group.

    Rows of other splits than train and test (a validation part, say) are left out.
    """
    split_file = path / row.split_file
    if not split_file.is_file():
        raise DatasetError(
            f"{row.dataset} has no split file {split_file}: name it with split_file, or take the reader "
            "split_folders if its folders are train and test"
        )
    with split_file.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if missing := {"file", "class", "split"} - set(table.fieldnames or ()):
            raise DatasetError(f"{split_file} has no column {', '.join(sorted(missing))}: add it")
        entries = [entry for entry in table if entry["split"] in get_args(Part)]
    if repeated := [name for name, count in Counter(e["file"] for e in entries).items() if count > 1]:
        raise DatasetError(f"{split_file} lists {repeated[0]} more than once: keep one row for each file")
    if gone := [entry["file"] for entry in entries if not (path / entry["file"]).is_file()]:
        raise DatasetError(
            f"{split_file} lists {len(gone)} files that are not there, the first {path / gone[0]}: "
            "complete the data set, or take them out of the list"
        )
    return [
        LabelledImage(path / e["file"], e["file"], e["class"], _part(e["split"]), e.get("group") or None)
        for e in entries
    ]


def read_split_folders(path: Path, row: ClassificationRow) -> list[LabelledImage]:
    """Read PATH/train/CLASS/* and PATH/test/CLASS/* (or PATH/val/CLASS/* where there is no test)."""
    test = next((name for name in ("test", "val") if (path / name).is_dir()), None)
    if test is None or not (path / "train").is_dir():
        raise DatasetError(
            f"{row.dataset} was looked for in the folders train and test (or val) of {path}, and they are "
            "not there: point the suite's path at the folder that holds them"
        )
    folders: Sequence[tuple[str, Part]] = (("train", "train"), (test, "test"))
    return [
        LabelledImage(file, file.relative_to(path).as_posix(), file.parent.name, part, None)
        for folder, part in folders
        for file in sorted((path / folder).glob("*/*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]


def read_mstar(path: Path, row: ClassificationRow) -> list[LabelledImage]:
    """Read MSTAR's ten classes (standard operating conditions), whose train/val folders are numbered."""
    images = read_split_folders(path, row)
    if strangers := sorted({image.label for image in images} - set(MSTAR_CLASSES)):
        raise DatasetError(
            f"{path} has the class folder {strangers[0]}, but MSTAR's are numbered 0 to 9: take the reader "
            "split_folders for folders with names"
        )
    return [LabelledImage(i.file, i.name, MSTAR_CLASSES[i.label], i.part, i.group) for i in images]


READERS: Mapping[Reader, Callable[[Path, ClassificationRow], list[LabelledImage]]] = {
    "class_folders": read_class_folders,
    "split_folders": read_split_folders,
    "mstar": read_mstar,
}


def _part(name: str) -> Part:
    return "train" if name == "train" else "test"


def _leakage(keys: Sequence[str], images: Iterable[LabelledImage]) -> tuple[int, int]:
    """Return how many keys are in both parts, and how many test images carry one of them."""
    train, test = Counter[str](), Counter[str]()
    for key, image in zip(keys, images, strict=True):
        (train if image.part == "train" else test)[key] += 1
    both = train.keys() & test.keys()
    return len(both), sum(test[key] for key in both)
