"""A scene reduced to cells while it is streamed: what `density` and `pictures` look at."""

import math
from collections.abc import Iterable
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
    """Join the sums of strips, given from top to bottom; neighbours may share a row of cells."""
    joined: dict[str, list[NDArray[np.generic]]] = {name: [] for name in _SUMS}
    rows = 0
    for part in parts:
        shared = rows - part.first
        assert shared in (0, 1), "strips follow on each other"
        for name, blocks in joined.items():
            values = getattr(part, name)
            if shared:
                join = np.maximum if name == "peak" else np.add
                join(blocks[-1][-1], values[0], out=blocks[-1][-1])
            if len(values) > shared:
                blocks.append(values[shared:].copy())
        rows = part.first + len(part.count)
    count, total, square, peak = (np.concatenate(joined[name]) for name in _SUMS)
    mean = total / np.maximum(count, 1)
    return Overview(
        amplitude=mean.astype(np.float32),
        contrast=np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 0)).astype(np.float32),
        peak=peak.astype(np.float32),
        valid=(count / cell_px**2).astype(np.float32),
        cell_px=cell_px,
        gsd_m=gsd_m,
    )
