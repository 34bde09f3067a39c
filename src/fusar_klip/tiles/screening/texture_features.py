"""Texture and statistics of tiles (paper 3.1, step 5): one pass for all tiles that lie in one block.

Everything that is measured adds up: histograms, co-occurrence counts and sums of differences of a large tile
are those of the small tiles in it, and of the pairs of pixels that cross their borders. So each pixel is
counted once, whatever the number of scales, and each window's figures are exactly those of the window cut
out and measured alone. Pixels without data (0), and pairs with one, never count.

`catalog.FEATURES` by name; null (None) where a figure is not defined (the skewness of a constant tile):

- mean, std, cv (std / mean), skewness, kurtosis (of Fisher: 0 for a normal distribution), all of the
  population of valid pixels; entropy of the 256 levels in bits; dynamic_range, the distance in levels from
  the 1st to the 99th percentile.
- enl, the equivalent number of looks: (mean / std)^2 of the intensity (level squared) over the tile as a
  whole. Texture counts as speckle here, so on structured ground this is less than the product's looks.
- edge_density, the share of neighbouring cells of 8 x 8 px whose means differ by a factor of 1.5 or more: the
  ratio detector, whose rate of false alarms does not depend on the level under multiplicative speckle
  (Touzi et al., 1988). The cells are counted from the tile's upper left corner.
- striping, 0 to 1: the share of the energy of differences between neighbouring rows (or columns, whichever is
  more) that is the same all along them. Real ground has under 0.1; stripes that halve every other line, 0.4.
- nodata_fraction, the share of pixels without data.
- glcm_*: Haralick's properties of the grey-level co-occurrence matrix (32 levels, symmetric, normalised; 4
  directions; distances of 1, 2 and 4 px, rounded to whole pixels along the diagonals as scikit-image does),
  the mean over directions and distances. Energy is the root of the angular second moment; entropy is in bits.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from skimage.feature import graycomatrix

from fusar_klip.tiles.settings import QualitySettings

EDGE_CELL_PX = 8
"""Side of a cell of edge_density: 64 pixels take speckle of one look down to 6 % of the mean."""
EDGE_RATIO = 1.5
_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_LEVELS = np.arange(256, dtype=np.float64)

Features = dict[str, float | None]


def tile_features(
    levels: NDArray[np.uint8],
    windows: Sequence[tuple[int, int, int]],
    settings: QualitySettings | None = None,
) -> list[Features]:
    """Measure square windows of a block.

    Args:
        levels: (H, W) uint8, 0 = no data.
        windows: (top, left, side) in pixels, inside the block. They may nest or overlap at will; the fewer
            different rows and columns they begin and end at, the more work they share.
        settings: Levels and distances of the co-occurrence matrices.

    Returns:
        {name of `catalog.FEATURES`: value, None where it is not defined} for each window.
    """
    if not windows:
        return []
    settings = settings or QualitySettings()
    grid = _Grid(levels.shape, windows)
    histograms = _histograms(levels, grid)
    texture = _texture(levels, grid, settings)
    striping = _striping(levels, grid, windows)
    return [
        {
            **_statistics(histogram, side * side),
            "edge_density": _edge_density(levels[top : top + side, left : left + side]),
            "striping": stripes,
            **glcm,
        }
        for (top, left, side), histogram, stripes, glcm in zip(
            windows, histograms, striping, texture, strict=True
        )
    ]


class _Grid:
    """The patches into which the borders of all windows cut a block; a window is a rectangle of patches."""

    def __init__(self, shape: tuple[int, ...], windows: Sequence[tuple[int, int, int]]) -> None:
        height, width = shape
        assert all(min(t, c, s - 1) >= 0 and max(t + s - height, c + s - width) <= 0 for t, c, s in windows)
        self.rows = sorted({edge for top, _, side in windows for edge in (top, top + side)})
        self.cols = sorted({edge for _, left, side in windows for edge in (left, left + side)})
        row_at = {edge: i for i, edge in enumerate(self.rows)}
        col_at = {edge: i for i, edge in enumerate(self.cols)}
        self.spans = [
            (slice(row_at[t], row_at[t + s]), slice(col_at[c], col_at[c + s])) for t, c, s in windows
        ]
        """The rows and columns of patches of each window."""
        self.needed = np.zeros((len(self.rows) - 1, len(self.cols) - 1), bool)
        """Whether a patch is in any window."""
        for span in self.spans:
            self.needed[span] = True

    def patches(self) -> Iterator[tuple[int, int, slice, slice]]:
        """Yield row and column of each needed patch, and its pixels."""
        for i, j in np.argwhere(self.needed).tolist():
            yield i, j, slice(*self.rows[i : i + 2]), slice(*self.cols[j : j + 2])


def _histograms(levels: NDArray[np.uint8], grid: _Grid) -> list[NDArray[np.int64]]:
    """Return the (256,) counts of each window."""
    counts = np.zeros((*grid.needed.shape, 256), np.int64)
    for i, j, rows, cols in grid.patches():
        counts[i, j] = np.bincount(levels[rows, cols].ravel(), minlength=256)
    return [counts[span].sum(axis=(0, 1)) for span in grid.spans]


def _statistics(histogram: NDArray[np.int64], pixels: int) -> Features:
    """Compute the statistics of a window from its (256,) counts."""
    empty = int(histogram[0])
    count = pixels - empty
    known: Features = dict.fromkeys(
        ("mean", "std", "cv", "skewness", "kurtosis", "entropy", "dynamic_range", "enl")
    )
    known["nodata_fraction"] = empty / pixels
    if count == 0:
        return known
    share = histogram.astype(np.float64) / count
    share[0] = 0.0
    mean = float(share @ _LEVELS)
    deviation = _LEVELS - mean
    variance = float(share @ deviation**2)
    std = math.sqrt(variance)
    intensity = float(share @ _LEVELS**2)
    intensity_variance = float(share @ (_LEVELS**2 - intensity) ** 2)
    present = share[share > 0]
    cumulative = np.cumsum(histogram[1:])
    low, high = 1 + np.searchsorted(cumulative, [0.01 * count, 0.99 * count])
    varied = len(present) > 1
    return known | {
        "mean": mean,
        "std": std,
        "cv": std / mean,
        "skewness": float(share @ deviation**3) / variance**1.5 if varied else None,
        "kurtosis": float(share @ deviation**4) / variance**2 - 3 if varied else None,
        "entropy": float(-(present @ np.log2(present))) if varied else 0.0,
        "dynamic_range": float(high - low),
        "enl": intensity**2 / intensity_variance if varied else None,
    }


def _edge_density(tile: NDArray[np.uint8]) -> float | None:
    """Return the share of pairs of neighbouring cells whose means differ by `EDGE_RATIO`."""
    side = EDGE_CELL_PX
    rows, cols = tile.shape[0] // side, tile.shape[1] // side
    if rows < 1 or cols < 1:
        return None
    cells = tile[: rows * side, : cols * side].reshape(rows, side, cols * side)
    total = _cell_sums(cells.sum(axis=1, dtype=np.uint16), side)
    count = _cell_sums((cells > 0).sum(axis=1, dtype=np.uint16), side)
    valid = count >= side * side / 2
    mean = total / np.maximum(count, 1)
    edges = pairs = 0
    for first, second in (
        (np.s_[:-1, :], np.s_[1:, :]),
        (np.s_[:, :-1], np.s_[:, 1:]),
    ):
        a, b = mean[first], mean[second]
        both = valid[first] & valid[second]
        pairs += int(both.sum())
        edges += int((both & (np.maximum(a, b) >= EDGE_RATIO * np.minimum(a, b))).sum())
    return edges / pairs if pairs else None


def _cell_sums(rows: NDArray[np.uint16], side: int) -> NDArray[np.float32]:
    sums: NDArray[np.float32] = rows.reshape(len(rows), -1, side).sum(axis=2, dtype=np.float32)
    return sums


def _striping(
    levels: NDArray[np.uint8], grid: _Grid, windows: Sequence[tuple[int, int, int]]
) -> list[float | None]:
    """Return striping of each window, None where it has no pair of valid neighbours."""
    by_rows = _common_differences(levels, grid.cols, axis=0)
    by_cols = _common_differences(levels, grid.rows, axis=1)
    return [
        _most(
            _common_share(by_rows[:, cols, top : top + side - 1].sum(axis=1), side),
            _common_share(by_cols[:, rows, left : left + side - 1].sum(axis=1), side),
        )
        for (top, left, side), (rows, cols) in zip(windows, grid.spans, strict=True)
    ]


def _common_share(lines: NDArray[np.int64], side: int) -> float | None:
    """Return the common share of (3, lines) counts, sums and sums of squares of differences."""
    count, total, square = lines[:, lines[0] >= side / 2]  # a line of which little is valid says nothing
    if not len(count):
        return None
    return float((total**2 / count).sum() / max(int(square.sum()), 1))


def _most(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _common_differences(levels: NDArray[np.uint8], edges: list[int], axis: int) -> NDArray[np.int64]:
    """Sum up the differences of each line from the one before it, by spans along the lines.

    Args:
        levels: (H, W) uint8, 0 = no data.
        edges: Where the spans begin, and where the last one ends.
        axis: 0: the lines are rows; 1: columns.

    Returns:
        (3, spans, lines - 1) int64: how many pairs of valid pixels, the sum of their differences, and that of
        their squares.
    """
    lines = levels if axis == 0 else levels.T
    sums = np.zeros((3, len(edges) - 1, len(lines) - 1), np.int64)
    for span, (start, end) in enumerate(pairwise(edges)):
        before, after = lines[:-1, start:end], lines[1:, start:end]
        both = (after > 0) & (before > 0)
        difference = np.subtract(after, before, dtype=np.int32)
        difference *= both
        sums[0, span] = np.count_nonzero(both, axis=1)
        sums[1, span] = difference.sum(axis=1, dtype=np.int32)
        sums[2, span] = np.einsum("ij,ij->i", difference, difference)  # 255^2 * 33,000 px still fits
    return sums


def _texture(levels: NDArray[np.uint8], grid: _Grid, settings: QualitySettings) -> list[Features]:
    """Return the GLCM properties of each window."""
    bins = settings.glcm_levels
    counts = _pair_counts(levels, grid, settings.glcm_distances, bins)
    both_ways = counts + counts.swapaxes(-1, -2)  # symmetric
    return _properties(both_ways.reshape(*counts.shape[:2], bins * bins), bins)


def _pair_counts(
    levels: NDArray[np.uint8], grid: _Grid, distances: Sequence[int], bins: int
) -> NDArray[np.int64]:
    """Count the pairs of valid pixels in each window: (windows, offsets, bins, bins), one way."""
    scaled = np.arange(-1, 255).clip(0) * bins // 255
    scaled[0] = bins  # no data is a level of its own, whose pairs are dropped in the end
    binned = scaled.astype(np.uint8).take(levels)
    offsets = len(distances) * len(_ANGLES)
    inside = np.zeros((*grid.needed.shape, offsets, bins, bins), np.int64)
    for i, j, rows, cols in grid.patches():
        pairs: NDArray[np.uint32] = graycomatrix(binned[rows, cols], distances, _ANGLES, levels=bins + 1)
        inside[i, j] = pairs[:bins, :bins].reshape(bins, bins, offsets).transpose(2, 0, 1)
    windows = []
    for span in grid.spans:
        row_edges = grid.rows[span[0].start : span[0].stop + 1]
        col_edges = grid.cols[span[1].start : span[1].stop + 1]
        window = inside[span].sum(axis=(0, 1))
        if len(row_edges) > 2 or len(col_edges) > 2:
            window += _crossing_pairs(binned, row_edges, col_edges, distances, bins)
        windows.append(window)
    return np.stack(windows)


def _crossing_pairs(
    binned: NDArray[np.uint8], rows: list[int], cols: list[int], distances: Sequence[int], bins: int
) -> NDArray[np.int64]:
    """Count the pairs of a window, (offsets, bins, bins), whose pixels lie in different patches of it.

    Args:
        binned: (H, W) uint8, `bins` = no data.
        rows: The rows at which its patches begin, and the one after its last.
        cols: The same of its columns.
        distances: In pixels.
        bins: How many levels there are.
    """
    window = binned[rows[0] : rows[-1], cols[0] : cols[-1]]
    height, width = window.shape
    counts = []
    for down, right in (_rounded(distance, angle) for distance in distances for angle in _ANGLES):
        # First and second pixel of all pairs; sin is never negative here, cos can be.
        first = window[: height - down, max(-right, 0) : width - max(right, 0)]
        second = window[down:, max(right, 0) : width + min(right, 0)]
        between_rows = _steps_over(rows, down)
        between_cols = _steps_over(cols, abs(right))
        codes = [
            _code(first[part], second[part], bins).ravel()
            for part in (np.s_[between_rows], np.ix_(~between_rows, between_cols))
        ]
        both = np.bincount(np.concatenate(codes), minlength=(bins + 1) ** 2)
        counts.append(both.reshape(bins + 1, bins + 1)[:bins, :bins])
    return np.stack(counts)


def _rounded(distance: int, angle: float) -> tuple[int, int]:
    """Return the rows and columns of an offset, rounded as scikit-image's `graycomatrix` rounds them."""
    return round(math.sin(angle) * distance), round(math.cos(angle) * distance)


def _steps_over(edges: list[int], distance: int) -> NDArray[np.bool_]:
    """Return for each line of a window whether the line `distance` further lies in another patch."""
    patch = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    steps: NDArray[np.bool_] = patch[: max(len(patch) - distance, 0)] != patch[distance:]
    return steps


def _code(first: NDArray[np.uint8], second: NDArray[np.uint8], bins: int) -> NDArray[np.uint32]:
    return first.astype(np.uint32) * (bins + 1) + second


@cache
def _by_difference(bins: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the order that sorts a flat co-occurrence matrix by |i - j|, and where each |i - j| begins."""
    i, j = np.divmod(np.arange(bins * bins), bins)
    difference = abs(i - j)
    return np.argsort(difference, kind="stable"), np.searchsorted(np.sort(difference), np.arange(bins))


def _properties(counts: NDArray[np.int64], bins: int) -> list[Features]:
    """Compute Haralick's properties from symmetric counts (windows, offsets, bins * bins).

    All sums are of whole numbers, and so exact in any order, except that of the entropy.
    """
    total = counts.sum(axis=2)
    n = np.maximum(total, 1).astype(np.float64)
    order, starts = _by_difference(bins)
    apart = np.add.reduceat(counts[..., order], starts, axis=2)  # how many pairs are |i - j| apart
    marginal = counts.reshape(*counts.shape[:2], bins, bins).sum(axis=3)
    step = np.arange(bins)
    contrast = (apart * step**2).sum(axis=2) / n
    variance = (marginal * step**2).sum(axis=2) / n - ((marginal * step).sum(axis=2) / n) ** 2
    logs = np.log2(np.maximum(counts, 1))
    by_name = {
        "glcm_contrast": contrast,
        "glcm_dissimilarity": (apart * step).sum(axis=2) / n,
        "glcm_homogeneity": (apart / (1.0 + step**2)).sum(axis=2) / n,
        "glcm_energy": np.sqrt((counts**2).sum(axis=2)) / n,
        # E[ij] = E[i^2] - contrast / 2, as the matrix is symmetric.
        "glcm_correlation": 1 - contrast / np.where(variance > 1e-12, 2 * variance, np.nan),
        "glcm_entropy": np.log2(n) - (counts * logs).sum(axis=2) / n,
    }
    return [
        {name: _mean_of(values[window][total[window] > 0]) for name, values in by_name.items()}
        for window in range(len(counts))
    ]


def _mean_of(values: NDArray[np.float64]) -> float | None:
    """Return the mean over the offsets at which a property is defined."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None
