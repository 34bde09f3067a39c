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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from fusar_klip.benchmark.datasets.samples import (
    AnnotatedImage,
    ClassificationData,
    DetectionData,
    LabelledImage,
    MaskedImage,
    SegmentationData,
)
from fusar_klip.benchmark.leaks import find_near_duplicates, group_numbers
from fusar_klip.errors import DatasetError
from fusar_klip.files import write_bytes

SplitMethod = Literal["given", "paper", "grouped"]
FOLDS = 5
"""One of so many equal shares is the test part: 4:1."""

Ints = NDArray[np.int64]
S = TypeVar("S", LabelledImage, AnnotatedImage, MaskedImage)
AnyData = ClassificationData | DetectionData | SegmentationData


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
