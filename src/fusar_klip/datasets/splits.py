"""Splits: what a data set brings, a random 4:1, or 4:1 of whole groups of near-duplicates (paper 4.3).

- `given`: the data set's own parts, or those of a split file.
- `paper`: a random fifth of each class is the test part, by seed. Near-duplicates may be on both sides.
- `grouped`: near-duplicates (found by `leaks`; and what the data set's own groups hold together) stay on one
  side; about a fifth is the test part, its classes in about the set's shares.

A made split is written as a CSV that a row can name as its `split_file`.
"""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from fusar_klip.datasets.near_duplicates import find_near_duplicates, group_numbers
from fusar_klip.datasets.samples import (
    AnnotatedImage,
    ClassificationData,
    DetectionData,
    LabelledImage,
    MaskedImage,
    SegmentationData,
    table_rows,
)
from fusar_klip.errors import DatasetError
from fusar_klip.files import write_bytes

SplitMethod = Literal["given", "paper", "grouped"]
FOLDS = 5
"""One of so many equal shares is the test part: 4:1."""

Ints = NDArray[np.int64]
S = TypeVar("S", LabelledImage, AnnotatedImage, MaskedImage)
AnyData = ClassificationData | DetectionData | SegmentationData


class SplitWish(Protocol):
    """What a row says of its split (`settings.SplitRow`)."""

    @property
    def dataset(self) -> str: ...  # noqa: D102
    @property
    def split(self) -> str: ...  # noqa: D102
    @property
    def split_by(self) -> SplitMethod | None: ...  # noqa: D102
    @property
    def split_seed(self) -> int: ...  # noqa: D102


def split_as(images: Sequence[S], row: SplitWish, path: Path) -> tuple[S, ...]:
    """Return the images of a row's data set at `path`, split as the row says.

    Raises:
        DatasetError: There is no split, it cannot be made, or a part is empty.
    """
    method = split_method(row, given=all(image.part is not None for image in images))
    split = split_images(images, method, row.split_seed, row.dataset)
    for part in ("train", "test"):
        if not any(image.part == part for image in split):
            there = ", ".join(sorted({str(image.part) for image in split})) or "none"
            raise DatasetError(
                f"{row.dataset} at {path} has no {part} images: check its split (its parts: {there}), name "
                'another split_file, or have one made with split_by = "paper" or "grouped"'
            )
    return split


def split_method(row: SplitWish, given: bool) -> SplitMethod:
    """Return how a row's images are split; `given`: its data set brings parts.

    Without `split_by`, `split = "paper"` is always made, and "grouped" is where the data set brings no parts.
    """
    if row.split_by is not None:
        return row.split_by
    if row.split == "paper":
        return "paper"
    return "grouped" if row.split == "grouped" and not given else "given"


def with_parts(images: Sequence[S], split_file: Path) -> tuple[S, ...]:
    """Return the images that a split file lists, with its parts and groups; columns file, split, maybe group.

    Rows of other splits than train and test, and images that it does not list, are left out.

    Raises:
        DatasetError: A column is missing, a file is listed twice, or is no image of the data set.
    """
    columns, rows = table_rows(split_file)
    if missing := {"file", "split"} - set(columns):
        raise DatasetError(f"{split_file} has no column {', '.join(sorted(missing))}: add it")
    entries = [entry for entry in rows if entry["split"] in ("train", "test")]
    if repeated := [name for name, count in Counter(e["file"] for e in entries).items() if count > 1]:
        raise DatasetError(f"{split_file} lists {repeated[0]} more than once: keep one row for each file")
    named = {image.name: image for image in images}
    if gone := [entry["file"] for entry in entries if entry["file"] not in named]:
        raise DatasetError(
            f"{split_file} lists {len(gone)} files that the data set does not hold, the first {gone[0]}: "
            "complete the data set, or take them out of the list"
        )
    return tuple(
        replace(
            named[e["file"]],
            part="train" if e["split"] == "train" else "test",
            group=e.get("group") or named[e["file"]].group,
        )
        for e in entries
    )


def split_images(images: Sequence[S], method: SplitMethod, seed: int, dataset: str) -> tuple[S, ...]:
    """Return the images with their parts (and, for `grouped`, their groups) set by a method.

    Raises:
        DatasetError: `given`, and an image has no part; or there are too few images or groups.
    """
    if method == "given":
        if any(image.part is None for image in images):
            raise DatasetError(
                f'{dataset} brings no split: name a split file with split_file, or take split = "paper" '
                '(random 4:1) or split = "grouped" (near-duplicates stay together)'
            )
        return tuple(images)
    groups = joined_groups(images) if method == "grouped" else None
    test = test_fifth(_labels(images), groups, seed, dataset)
    names = [image.group for image in images] if groups is None else [str(g) for g in groups.tolist()]
    return tuple(
        replace(image, part="test" if held_out else "train", group=group)
        for image, held_out, group in zip(images, test.tolist(), names, strict=True)
    )


def joined_groups(images: Sequence[LabelledImage | AnnotatedImage | MaskedImage]) -> Ints:
    """Return (N,) groups: near-duplicates, and images whose data set gives them one group, share one."""
    found = group_numbers(len(images), find_near_duplicates([image.file for image in images]))
    given = np.unique([image.group or f"alone {i}" for i, image in enumerate(images)], return_inverse=True)[1]
    # Images are linked to the nodes of both their groups.
    count, nodes = len(images), len(images) + int(found.max()) + 1
    rows = np.concatenate([np.arange(count), np.arange(count)])
    columns = np.concatenate([count + found, nodes + given])
    size = nodes + int(given.max()) + 1
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    components = connected_components(links, directed=False)[1][:count]
    return np.unique(components, return_inverse=True)[1].astype(np.int64)


def test_fifth(labels: Ints, groups: Ints | None, seed: int, dataset: str) -> NDArray[np.bool_]:
    """Return (N,) whether an image is in the test part: a fifth, in the classes' shares, groups whole.

    Raises:
        DatasetError: There are fewer than five images of a class, or fewer than five groups.
    """
    units = np.arange(len(labels)) if groups is None else groups
    if len(labels) < FOLDS or len(np.unique(units)) < FOLDS or int(np.bincount(labels).max()) < FOLDS:
        raise DatasetError(
            f"{dataset} has too few images to split 4:1 ({len(labels)} images in {len(np.unique(units))} "
            f"groups, and at least {FOLDS} groups, and {FOLDS} images of a class, are needed): add "
            "images, or "
            "give a split file"
        )
    nothing = np.zeros(len(labels))
    if groups is None:
        if int(np.bincount(labels).min()) < FOLDS:
            raise DatasetError(
                f"{dataset} has a class of fewer than {FOLDS} images, which cannot be split 4:1: take the "
                "class out, or give a split file"
            )
        _, held_out = next(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(nothing, labels))
    else:
        grouped = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        _, held_out = next(grouped.split(nothing, labels, groups))
    test = np.zeros(len(labels), dtype=np.bool_)
    test[held_out] = True
    return test


def write_split(results: Path, dataset: str, split: str, data: AnyData) -> tuple[Path, str]:
    """Write RESULTS/splits/<dataset>-<split>-<digest>.csv; return it and its SHA-256.

    Its columns are file, class (empty but for classification), group, split and sha256 of the image's file.
    The digest in the name is the data set's: the same images in the same parts come to the same file.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "class", "group", "split", "sha256"])
    images: Sequence[LabelledImage | AnnotatedImage | MaskedImage] = data.images
    for image, content in zip(images, data.content, strict=True):
        label = image.label if isinstance(image, LabelledImage) else ""
        table.writerow([image.name, label, image.group or "", image.part, content])
    written = text.getvalue().encode()
    plain = re.sub(r"[^a-z0-9]+", "-", f"{dataset} {split}".lower()).strip("-")
    path = results / "splits" / f"{plain}-{data.digest[:12]}.csv"
    write_bytes(path, written)
    return path, hashlib.sha256(written).hexdigest()


def _labels(images: Sequence[LabelledImage | AnnotatedImage | MaskedImage]) -> Ints:
    names = [image.label if isinstance(image, LabelledImage) else "" for image in images]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
