"""Train/test splits: the data set's own, a random 80/20, or an 80/20 of whole groups of near-duplicates.

- `given`: the data set's own parts, or those of a split file.
- `paper`: a random fifth of each class is the test part, by seed (paper 4.3). Near-duplicates may be in both
  parts.
- `grouped`: near-duplicates (found by `near_duplicates`), and images of one group of the data set, stay in
  one part; about a fifth of the images is the test part, with about the data set's class shares.

A generated split is written as a CSV, which can be given as `split_file`.
"""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from fusar_klip.config import Settings
from fusar_klip.datasets.labelled_data import (
    AnyImage,
    ClassificationData,
    DetectionData,
    ImageT,
    ImageWithLabel,
    SegmentationData,
    read_csv,
)
from fusar_klip.datasets.near_duplicates import find_near_duplicates, group_ids
from fusar_klip.errors import DatasetError
from fusar_klip.files import write_bytes

SplitMethod = Literal["given", "paper", "grouped"]
FOLDS = 5
"""One of so many equal shares is the test part: 80/20."""

Ints = NDArray[np.int64]
AnyData = ClassificationData | DetectionData | SegmentationData


class LabelledSplitSettings(Settings):
    """How a data set is split into a training and a test part."""

    split: str = Field(min_length=1)
    """The split's name in the results; "paper" and "grouped" also select how it is made."""
    split_file: str = "split.csv"
    """A CSV below the data set's folder with the columns file, split (train or test), class (for the readers
    of class folders) and, where images belong together, group. It is not needed if the data set has parts of
    its own or a split is made."""
    split_by: SplitMethod | None = None
    """`given`: the data set's parts or the split file's; `paper`: random 80/20; `grouped`: 80/20 of whole
    groups of near-duplicates. Without it, `split = "paper"` makes that split, `split = "grouped"` makes one
    where the data set has no parts, and every other name stands for `given`."""
    split_seed: int = Field(default=0, ge=0)
    """Fixes a split that is made, apart from the seed of the training."""


def apply_split(
    images: Sequence[ImageT], settings: LabelledSplitSettings, path: Path, dataset: str
) -> tuple[ImageT, ...]:
    """Return the images of the data set at `path`, split as the settings say.

    Raises:
        DatasetError: There is no split, it cannot be made, or a part is empty.
    """
    method = split_method(settings, has_parts=all(image.part is not None for image in images))
    split = split_images(images, method, settings.split_seed, dataset)
    for part in ("train", "test"):
        if not any(image.part == part for image in split):
            parts = ", ".join(sorted({str(image.part) for image in split})) or "none"
            raise DatasetError(
                f"{dataset} at {path} has no {part} images: check its split (its parts: {parts}), name "
                'another split_file, or have a split made with split_by = "paper" or "grouped"'
            )
    return split


def split_method(settings: LabelledSplitSettings, has_parts: bool) -> SplitMethod:
    """Return how a data set is split; `has_parts`: it has parts of its own.

    Without `split_by`, `split = "paper"` is always made, and "grouped" where the data set has no parts.
    """
    if settings.split_by is not None:
        return settings.split_by
    if settings.split == "paper":
        return "paper"
    return "grouped" if settings.split == "grouped" and not has_parts else "given"


def apply_split_file(images: Sequence[ImageT], split_file: Path) -> tuple[ImageT, ...]:
    """Return the images that a split file lists, with its parts and groups; columns file, split, maybe group.

    Rows of other parts than train and test, and images that the file does not list, are left out.

    Raises:
        DatasetError: A column is missing, a file is listed twice, or is no image of the data set.
    """
    columns, rows = read_csv(split_file)
    if missing := {"file", "split"} - set(columns):
        raise DatasetError(f"{split_file} has no column {', '.join(sorted(missing))}: add it")
    entries = [entry for entry in rows if entry["split"] in ("train", "test")]
    if repeated := [name for name, count in Counter(e["file"] for e in entries).items() if count > 1]:
        raise DatasetError(f"{split_file} lists {repeated[0]} more than once: keep one row for each file")
    by_name = {image.name: image for image in images}
    if missing_files := [entry["file"] for entry in entries if entry["file"] not in by_name]:
        raise DatasetError(
            f"{split_file} lists {len(missing_files)} files that the data set does not hold, the first "
            f"{missing_files[0]}: complete the data set, or remove them from the list"
        )
    return tuple(
        replace(
            by_name[e["file"]],
            part="train" if e["split"] == "train" else "test",
            group=e.get("group") or by_name[e["file"]].group,
        )
        for e in entries
    )


def split_images(
    images: Sequence[ImageT], method: SplitMethod, seed: int, dataset: str
) -> tuple[ImageT, ...]:
    """Return the images with their parts (and, for `grouped`, their groups) set by a method.

    Raises:
        DatasetError: `given`, and an image has no part; or there are too few images or groups.
    """
    if method == "given":
        if any(image.part is None for image in images):
            raise DatasetError(
                f"{dataset} has no split of its own: name a split file with split_file, or set "
                'split = "paper" (random 80/20) or split = "grouped" (near-duplicates stay together)'
            )
        return tuple(images)
    groups = near_duplicate_groups(images) if method == "grouped" else None
    test = draw_test_part(_labels(images), groups, seed, dataset)
    names = [image.group for image in images] if groups is None else [str(g) for g in groups.tolist()]
    return tuple(
        replace(image, part="test" if in_test else "train", group=group)
        for image, in_test, group in zip(images, test.tolist(), names, strict=True)
    )


def near_duplicate_groups(images: Sequence[AnyImage]) -> Ints:
    """Return (N,) groups: near-duplicates, and images that the data set gives one group, share one."""
    found = group_ids(len(images), find_near_duplicates([image.file for image in images]))
    given = np.unique([image.group or f"alone {i}" for i, image in enumerate(images)], return_inverse=True)[1]
    # Images are linked to the nodes of both their groups.
    count, nodes = len(images), len(images) + int(found.max()) + 1
    rows = np.concatenate([np.arange(count), np.arange(count)])
    columns = np.concatenate([count + found, nodes + given])
    size = nodes + int(given.max()) + 1
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    components = connected_components(links, directed=False)[1][:count]
    return np.unique(components, return_inverse=True)[1].astype(np.int64)


def draw_test_part(labels: Ints, groups: Ints | None, seed: int, dataset: str) -> NDArray[np.bool_]:
    """Return (N,) whether an image is in the test part: a fifth, with the classes' shares, groups whole.

    Raises:
        DatasetError: There are fewer than five images or groups, no class has five images, or, without
            groups, some class has fewer.
    """
    units = np.arange(len(labels)) if groups is None else groups
    if len(labels) < FOLDS or len(np.unique(units)) < FOLDS or int(np.bincount(labels).max()) < FOLDS:
        raise DatasetError(
            f"{dataset} has too few images to split 80/20 ({len(labels)} images in {len(np.unique(units))} "
            f"groups, and at least {FOLDS} groups, and {FOLDS} images of a class, are needed): add images, "
            "or give a split file"
        )
    nothing = np.zeros(len(labels))
    if groups is None:
        if int(np.bincount(labels).min()) < FOLDS:
            raise DatasetError(
                f"{dataset} has a class of fewer than {FOLDS} images, which cannot be split 80/20: remove "
                "the class, or give a split file"
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
    The digest in the name is the data set's: the same images in the same parts have the same file.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "class", "group", "split", "sha256"])
    images: Sequence[AnyImage] = data.images
    for image, content in zip(images, data.content, strict=True):
        label = image.label if isinstance(image, ImageWithLabel) else ""
        table.writerow([image.name, label, image.group or "", image.part, content])
    written = text.getvalue().encode()
    plain = re.sub(r"[^a-z0-9]+", "-", f"{dataset} {split}".lower()).strip("-")
    path = results / "splits" / f"{plain}-{data.digest[:12]}.csv"
    write_bytes(path, written)
    return path, hashlib.sha256(written).hexdigest()


def _labels(images: Sequence[AnyImage]) -> Ints:
    names = [image.label if isinstance(image, ImageWithLabel) else "" for image in images]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
