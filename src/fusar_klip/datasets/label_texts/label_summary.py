"""What labels say of an image, as far as captions and questions tell of it: counts, regions, shares.

Letters: H and W an image's height and width, K landforms, R regions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusar_klip.datasets.labelled_data import IGNORED, ImageWithBoxes


@dataclass(frozen=True)
class TargetSummary:
    """The targets of an image."""

    targets: tuple[tuple[str, int], ...]
    """(category, region) of each; regions count row by row from 0."""
    side: int
    """The image has side x side regions."""


@dataclass(frozen=True)
class LandCoverSummary:
    """The landforms of an image."""

    names: tuple[str, ...]
    """All K of the data set."""
    shares: tuple[float, ...]
    """(K,) share of the labelled pixels, 0 to 1."""
    present: tuple[int, ...]
    """Which have at least the least share; the largest always."""
    main: int | None
    """The largest; None where two are of one size."""
    main_by_region: tuple[int | None, ...]
    """(R,) the largest of each region; None where two are of one size, or no pixel is labelled."""
    side: int
    """The image has side x side regions."""


def summarize_targets(image: ImageWithBoxes, side: int) -> TargetSummary:
    """Return the targets by category and region of their box's centre; difficult ones are left out."""
    found = []
    for box in image.boxes:
        if box.difficult:
            continue
        row, column = (box.y + box.height / 2) / image.height, (box.x + box.width / 2) / image.width
        place = side * _cell(row, side) + _cell(column, side)
        found.append((box.category, place))
    return TargetSummary(tuple(found), side)


def summarize_land_cover(
    mask: NDArray[np.uint8], names: tuple[str, ...], side: int, least_share: float
) -> LandCoverSummary | None:
    """Return the landforms of an (H, W) mask of indices into `names` or `IGNORED`; None without any label."""
    height, width = mask.shape
    counts = _counts(mask, len(names))
    if not counts.sum():
        return None
    shares = counts / counts.sum()
    rows, columns = (np.linspace(0, length, side + 1).round().astype(int) for length in (height, width))
    cells = [
        _counts(mask[rows[r] : rows[r + 1], columns[c] : columns[c + 1]], len(names))
        for r in range(side)
        for c in range(side)
    ]
    return LandCoverSummary(
        names,
        tuple(shares.tolist()),
        tuple(np.flatnonzero((shares >= min(least_share, shares.max())) & (counts > 0)).tolist()),
        _largest(counts),
        tuple(_largest(cell) for cell in cells),
        side,
    )


def _cell(position: float, side: int) -> int:
    return min(side - 1, max(0, int(side * position)))


def _counts(mask: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    return np.bincount(mask[mask != IGNORED], minlength=classes)[:classes].astype(np.int64)


def _largest(counts: NDArray[np.int64]) -> int | None:
    best = np.flatnonzero(counts == counts.max())
    return int(best[0]) if len(best) == 1 else None
