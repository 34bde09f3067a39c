"""Summaries of an image's labels, from which captions and questions are generated: counts, regions, shares.

Letters: H and W an image's height and width, K land cover classes, R = grid x grid regions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusar_klip.datasets.labelled_data import IGNORED, ImageWithBoxes


@dataclass(frozen=True)
class TargetSummary:
    """The targets of an image."""

    targets: tuple[tuple[str, int], ...]
    """(category, region) of each; regions are numbered row by row from 0."""
    grid: int
    """The image has grid x grid regions."""


@dataclass(frozen=True)
class LandCoverSummary:
    """The land cover of an image."""

    names: tuple[str, ...]
    """All K classes of the data set."""
    shares: tuple[float, ...]
    """(K,) share of the labelled pixels, 0 to 1."""
    present: tuple[int, ...]
    """The classes with at least the least share, and the largest class."""
    main: int | None
    """The largest class; None where two are equally large."""
    main_by_region: tuple[int | None, ...]
    """(R,) the largest class of each region; None where two are equally large, or no pixel is labelled."""
    grid: int
    """The image has grid x grid regions."""


def summarize_targets(image: ImageWithBoxes, grid: int) -> TargetSummary:
    """Return the targets by category and region of their box's centre; difficult ones are omitted."""
    targets = []
    for box in image.boxes:
        if box.difficult:
            continue
        row, column = (box.y + box.height / 2) / image.height, (box.x + box.width / 2) / image.width
        region = grid * _cell(row, grid) + _cell(column, grid)
        targets.append((box.category, region))
    return TargetSummary(tuple(targets), grid)


def summarize_land_cover(
    mask: NDArray[np.uint8], names: tuple[str, ...], grid: int, least_share: float
) -> LandCoverSummary | None:
    """Return the land cover of an (H, W) mask of indices into `names` or `IGNORED`; None without labels."""
    height, width = mask.shape
    counts = _counts(mask, len(names))
    if not counts.sum():
        return None
    shares = counts / counts.sum()
    rows, columns = (np.linspace(0, length, grid + 1).round().astype(int) for length in (height, width))
    cells = [
        _counts(mask[rows[r] : rows[r + 1], columns[c] : columns[c + 1]], len(names))
        for r in range(grid)
        for c in range(grid)
    ]
    return LandCoverSummary(
        names,
        tuple(shares.tolist()),
        tuple(np.flatnonzero((shares >= min(least_share, shares.max())) & (counts > 0)).tolist()),
        _largest(counts),
        tuple(_largest(cell) for cell in cells),
        grid,
    )


def _cell(position: float, grid: int) -> int:
    return min(grid - 1, max(0, int(grid * position)))


def _counts(mask: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    return np.bincount(mask[mask != IGNORED], minlength=classes)[:classes].astype(np.int64)


def _largest(counts: NDArray[np.int64]) -> int | None:
    best = np.flatnonzero(counts == counts.max())
    return int(best[0]) if len(best) == 1 else None
