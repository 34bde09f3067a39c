"""A scene reduced to cells while it is streamed: what `density` and `pictures` look at."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_CELL_PX = 8
"""64 pixels: fewer would not tell texture from speckle."""
_CELL_M = 20.0
_MAX_CELLS = 1 << 21
_SUMS = ("count", "total", "square", "peak")


def cell_px_of(height: int, width: int, gsd_m: float) -> int:
    """Return the side of a cell in pixels: the power of two next to 20 m, at least 8.

    Doubled until the overview has at most 2 million cells, so that its memory is bounded (a power of two, so
    that strips of whole file blocks mostly hold whole cells).
    """
    side: int = max(MIN_CELL_PX, 2 ** round(math.log2(_CELL_M / gsd_m)))
    while math.ceil(height / side) * math.ceil(width / side) > _MAX_CELLS:
        side *= 2
    return side


@dataclass(frozen=True)
class CellSums:
    """Sums over the pixels of one strip's cells.

    Attributes:
        first: The scene's row of cells that the arrays begin with.
        count: (rows, cols) int64, valid pixels.
        total: (rows, cols) float64, sum of the amplitude.
        square: (rows, cols) float64, sum of its squares.
        peak: (rows, cols) float32, the largest; 0 without valid pixels.
    """

    first: int
    count: NDArray[np.int64]
    total: NDArray[np.float64]
    square: NDArray[np.float64]
    peak: NDArray[np.float32]


def summarise(strip: NDArray[np.generic], cell_px: int, row: int = 0) -> CellSums:
    """Reduce a strip of a scene to cells.

    Args:
        strip: (rows, W) amplitude of any real type, 0 = no data, over the scene's whole width.
        cell_px: Side of a cell in pixels.
        row: The scene's row that the strip begins with; it need not be the first of a cell.
    """
    first, end = row // cell_px, -(-(row + len(strip)) // cell_px)
    starts = np.arange(0, strip.shape[1], cell_px)
    shape = (end - first, len(starts))
    sums = CellSums(
        first, np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape), np.zeros(shape, np.float32)
    )
    for index in range(shape[0]):
        top = (first + index) * cell_px - row
        lines = strip[max(top, 0) : top + cell_px].astype(np.float32)
        # Rows first: that way memory is read in its order.
        valid = np.full(lines.shape[1], len(lines)) if lines.all() else np.count_nonzero(lines, axis=0)
        sums.count[index] = np.add.reduceat(valid, starts)
        sums.total[index] = np.add.reduceat(lines.sum(axis=0).astype(np.float64), starts)
        sums.square[index] = np.add.reduceat(np.einsum("ij,ij->j", lines, lines).astype(np.float64), starts)
        sums.peak[index] = np.maximum.reduceat(lines.max(axis=0), starts)
    return sums


@dataclass(frozen=True)
class Overview:
    """A scene by cells of cell_px x cell_px pixels; those at its right and lower border may overhang it.

    Attributes:
        amplitude: (h, w) float32, mean of the valid pixels; 0 where there is none.
        contrast: (h, w) float32, their standard deviation.
        peak: (h, w) float32, the largest of them.
        valid: (h, w) float32, their share of the cell, 0 to 1.
        cell_px: Side of a cell in pixels.
        gsd_m: Ground spacing of a pixel in metres.
    """

    amplitude: NDArray[np.float32]
    contrast: NDArray[np.float32]
    peak: NDArray[np.float32]
    valid: NDArray[np.float32]
    cell_px: int
    gsd_m: float

    def full(self) -> NDArray[np.bool_]:
        """Return the cells, (h, w) bool, of which at least half has data."""
        return self.valid >= 0.5


def overview_of(parts: Iterable[CellSums], cell_px: int, gsd_m: float) -> Overview:
    """Join the sums of strips, given from top to bottom; neighbours may share a row of cells.

    A part is let go once the next one is there: their sums together would take more than the overview does.
    """
    blocks = [_averaged(part, cell_px) for part in _without_shared_rows(parts)]
    amplitude, contrast, peak, valid = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
    return Overview(amplitude, contrast, peak, valid, cell_px, gsd_m)


def _without_shared_rows(parts: Iterable[CellSums]) -> Iterator[CellSums]:
    """Yield the parts, a row of cells that two of them share only in the latter."""
    pending: CellSums | None = None
    for part in parts:
        if pending is not None:
            shared = pending.first + len(pending.count) - part.first
            assert shared in (0, 1), "strips follow on each other"
            if shared:
                for name in _SUMS:
                    join = np.maximum if name == "peak" else np.add
                    first = getattr(part, name)[0]
                    join(getattr(pending, name)[-1], first, out=first)
            yield CellSums(
                pending.first, *(getattr(pending, n)[: len(pending.count) - shared] for n in _SUMS)
            )
        pending = part
    if pending is not None:
        yield pending


def _averaged(part: CellSums, cell_px: int) -> tuple[NDArray[np.float32], ...]:
    """Return amplitude, contrast, peak and valid share of a part's cells, as `Overview` has them."""
    count = np.maximum(part.count, 1)
    mean = part.total / count
    contrast = np.sqrt(np.maximum(part.square / count - mean**2, 0))
    return tuple(a.astype(np.float32) for a in (mean, contrast, part.peak, part.count / cell_px**2))
