"""Leakage of a split: test images with near-duplicates in the training part, and contradictory labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusar_klip.datasets.labelled_data import AnyImage, ImageWithLabel
from fusar_klip.datasets.near_duplicates.matching import Match, group_ids


@dataclass(frozen=True)
class LeakageReport:
    """The leakage of one split."""

    images: int
    groups: int
    """Number of groups: images linked by near-duplicates form one, an image without any forms its own."""
    largest_group: int
    test_images: int
    leaked_test_images: int
    """Test images whose group has an image in the training part."""
    leaked_names: tuple[str, ...]
    """The names of these test images."""
    contradictory_groups: tuple[tuple[str, ...], ...]
    """For each group with several labels (classification only), the name of one image per label."""

    @property
    def notes(self) -> list[str]:
        """The report in sentences; empty where nothing leaks."""
        notes = []
        if self.leaked_test_images:
            share = self.leaked_test_images / self.test_images
            notes.append(
                f"Leakage: {self.leaked_test_images} of {self.test_images} test images ({share:.0%}) have a "
                "near-duplicate (flips, turns, shifts, noise and other crops included) among the training "
                "images."
            )
        if self.contradictory_groups:
            notes.append(
                f"Labels: {len(self.contradictory_groups)} groups of near-duplicates carry more than one "
                "class, "
                f"such as {' and '.join(self.contradictory_groups[0][:2])}."
            )
        return notes


def leakage(images: Sequence[AnyImage], matches: Sequence[Match]) -> LeakageReport:
    """Return the leakage of the split of `images`.

    Args:
        images: The images of a data set, with their parts.
        matches: What `find_near_duplicates` returned for their files, in the same order.
    """
    groups = group_ids(len(images), matches)
    parts = np.array([image.part or "" for image in images])
    test, train = parts == "test", parts == "train"
    leaked = test & np.isin(groups, groups[train])
    return LeakageReport(
        images=len(images),
        groups=len(np.unique(groups)),
        largest_group=max(Counter(groups.tolist()).values(), default=0),
        test_images=int(test.sum()),
        leaked_test_images=int(leaked.sum()),
        leaked_names=tuple(images[index].name for index in np.flatnonzero(leaked).tolist()),
        contradictory_groups=_contradictions(images, groups),
    )


def _contradictions(images: Sequence[AnyImage], groups: NDArray[np.int64]) -> tuple[tuple[str, ...], ...]:
    """Return the name of one image per label of each group with several labels."""
    labels: dict[int, dict[str, str]] = {}
    for image, group in zip(images, groups.tolist(), strict=True):
        if isinstance(image, ImageWithLabel):
            labels.setdefault(group, {}).setdefault(image.label, image.name)
    return tuple(tuple(of_group.values()) for of_group in labels.values() if len(of_group) > 1)
