"""Land cover from local mean and texture: water, dark smooth ground, open land, built-up land.

Classification uses cells of about 16 m. The levels that separate the classes come from the whole scene
(`SceneReference`), because a single tile may be all water or all city; a tile that is measured alone is its
own scene. One 8-bit channel separates no more classes: smooth water and smooth ground look alike, and so do
vegetation and low houses at coarse spacing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fusar_klip.texts.measure.evidence import COVER_CLASSES, Cover, CoverClass

CELL_M = 16.0
"""Side of a cell; three by three of them average over the speckle of the coarsest sensors."""
NO_DATA = 0
AIRFIELD_RADIUS_M = 3_000.0
"""How far from its reference point an airport reaches at most: its size is not known."""
APRON_RADIUS_M = 2_000.0
"""How far from an airport's reference point a bright target may still be taken for one on its apron."""
COVER_CODES: dict[CoverClass, int] = {name: code for code, name in enumerate(COVER_CLASSES, start=1)}

_LEVEL_EDGES = np.arange(0.0, 8.01, 0.1)  # log2 of the grey level
_CV_EDGES = np.arange(0.0, 2.01, 0.02)
_LEVEL_CELLS = 3
_TEXTURE_CELLS = 7
# Water is smoother than land: at least 0.8 octaves (4.8 dB of amplitude) lie between the two modes.
_MIN_MODE_GAP = 0.8
_MAX_VALLEY = 0.85
_MIN_DARK_SHARE = 0.003
# A scene without two modes is one surface if its levels vary no more than by speckle and swell.
_MAX_UNIFORM_SPREAD = 1.7
# Share of cells (48 m means) on the wrong side of the level; the minimum width of water removes single ones.
_MAX_MISCLASSIFIED = 0.25
_MIN_SEPARATED_CELLS = 2_000  # half a square kilometre
_STRONG = 1.5
_BUILT_UP_DENSITY = 0.1
_BUILT_UP_CV = 2.3
_BUILT_UP_LEVEL = 1.35
_MIN_WATER_RADIUS_M = 45.0  # wider than roads and runways
_MIN_WATER_M2 = 30_000.0
MAX_TARGET_M2 = 80_000.0  # a ship of 400 x 60 m, widened by 50 m on each side by cells and smoothing
_MAX_HOLE_SHARE = 4.0  # of that, with the dark water around it that is cut off: 45 m on each side
_MIN_PATCH_M2 = 5_000.0


@dataclass(frozen=True)
class Cells:
    """Block statistics of a tile: arrays of (rows, cols) cells.

    Attributes:
        level: float32, mean over 3 x 3 cells, 0 to 255; 0 where nothing is valid.
        cv: float32, coefficient of variation of the pixels in 3 x 3 cells.
        valid: bool, at least half of the cell's pixels are valid.
        count: float32, valid pixels of the cell itself.
        total: float32, sum of the cell's pixels.
        square: float32, sum of their squares.
        side_px: Pixels along one side of a cell.
        side_m: Metres along one side of a cell.
    """

    level: NDArray[np.float32]
    cv: NDArray[np.float32]
    valid: NDArray[np.bool_]
    count: NDArray[np.float32]
    total: NDArray[np.float32]
    square: NDArray[np.float32]
    side_px: int
    side_m: float

    def window(self, top: int, left: int, rows: int, cols: int) -> "Cells":
        """Return some of the cells, with what was measured of them beside all the others."""
        at = (slice(top, top + rows), slice(left, left + cols))
        arrays = (self.level, self.cv, self.valid, self.count, self.total, self.square)
        level, cv, valid, count, total, square = (array[at] for array in arrays)
        return Cells(level, cv, valid, count, total, square, self.side_px, self.side_m)  # type: ignore[arg-type]


@dataclass(frozen=True)
class CellHistograms:
    """Counts of cells: levels in 80 bins of 0.1 octaves, `cvs` in 100 bins of 0.02.

    Attributes:
        levels: Of all valid cells.
        cvs: Of all valid cells.
        water: Levels of those in tiles that screening found to be open water all over.
        land: Levels of those in tiles in which screening found no open water.
    """

    levels: NDArray[np.int64]
    cvs: NDArray[np.int64]
    water: NDArray[np.int64]
    land: NDArray[np.int64]

    def __add__(self, other: Self) -> "CellHistograms":
        """Return the histograms of both together."""
        water, land = self.water + other.water, self.land + other.land
        return CellHistograms(self.levels + other.levels, self.cvs + other.cvs, water, land)


@dataclass(frozen=True)
class SceneReference:
    """Levels of a scene that separate its land-cover classes.

    Attributes:
        dark_below: Grey level under which a 50 m mean counts as dark: water or smooth ground. 0: nothing is
            dark. 256: everything is, because the scene is one uniform surface.
        land_level: Median 50 m mean of what is not dark.
        speckle_cv: Coefficient of variation of homogeneous areas, which is that of speckle.
    """

    dark_below: float
    land_level: float
    speckle_cv: float


def block_sum(pixels: NDArray[np.generic], side: int) -> NDArray[np.float32]:
    """Sum over side x side blocks of a (H, W) array; the last ones are filled up with 0."""
    if side == 1:
        return pixels.astype(np.float32)
    height, width = pixels.shape
    padded = np.pad(pixels, ((0, -height % side), (0, -width % side)))
    rows, cols = padded.shape[0] // side, padded.shape[1] // side
    sums: NDArray[np.float64] = padded.reshape(rows, side, cols, side).sum(axis=(1, 3), dtype=np.float64)
    return sums.astype(np.float32)


def connected(mask: NDArray[np.bool_], *, diagonal: bool = False) -> NDArray[np.int32]:
    """Number the connected areas of a mask from 1, 0 outside."""
    numbers = np.empty(mask.shape, np.int32)
    ndimage.label(mask, ndimage.generate_binary_structure(2, 2 if diagonal else 1), output=numbers)
    return numbers


def measure_cells(pixels: NDArray[np.uint8], spacing_m: float) -> Cells:
    """Reduce a tile, (H, W) uint8 with 0 = no data, to cells of about 16 m."""
    side = max(1, round(CELL_M / spacing_m))
    sums = (
        block_sum(pixels > 0, side),
        block_sum(pixels, side),
        block_sum(pixels.astype(np.uint16) ** 2, side),
    )
    mean, cv = _moments(*sums, np.ones(sums[0].shape, bool), _LEVEL_CELLS)
    return Cells(mean, cv, sums[0] >= side * side / 2, *sums, side, side * spacing_m)


def cell_histograms(
    cells: Cells, water: NDArray[np.bool_] | None = None, land: NDArray[np.bool_] | None = None
) -> CellHistograms:
    """Count the valid cells of a tile, to be added up over a scene.

    Args:
        cells: Of the tile.
        water: (rows, cols) bool, cells in which screening found nothing but open water; None: not known.
        land: (rows, cols) bool, cells in which it found none.
    """

    def levels(among: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        chosen = cells.level[cells.valid & among] if among is not None else np.zeros(0)
        counts, _ = np.histogram(np.log2(np.maximum(chosen, 1)), _LEVEL_EDGES)
        return counts.astype(np.int64)

    cvs, _ = np.histogram(np.minimum(cells.cv[cells.valid], 1.99), _CV_EDGES)
    return CellHistograms(levels(cells.valid), cvs.astype(np.int64), levels(water), levels(land))


def scene_reference(histograms: CellHistograms) -> SceneReference:
    """Find the levels that separate dark from land in the summed histograms of a scene's tiles.

    The darkest pair of modes with a valley between them gives the threshold. Without such a pair, what
    screening found to be water does, if its levels differ from those of the rest. Else the scene is one
    uniform surface (taken for water) or land without water.
    """
    total = int(histograms.levels.sum())
    if total == 0:
        return SceneReference(0.0, 128.0, 0.25)
    speckle_cv = _percentile(histograms.cvs, _CV_EDGES, 10)
    dark = _valley_level(histograms.levels)
    if dark is None:
        dark = _separating_level(histograms.water, histograms.land)
    if dark is None:
        low, high = (2 ** _percentile(histograms.levels, _LEVEL_EDGES, q) for q in (5, 90))
        typical_cv = _percentile(histograms.cvs, _CV_EDGES, 50)
        uniform = high / low < _MAX_UNIFORM_SPREAD and typical_cv < 1.5 * speckle_cv
        level = 2 ** _percentile(histograms.levels, _LEVEL_EDGES, 50)
        return SceneReference(256.0 if uniform else 0.0, level, speckle_cv)
    land = histograms.levels * (_LEVEL_EDGES[:-1] >= dark)
    return SceneReference(2**dark, 2 ** _percentile(land, _LEVEL_EDGES, 50), speckle_cv)


def classify(
    cells: Cells,
    pixels: NDArray[np.uint8],
    reference: SceneReference,
    airports_rc: Sequence[tuple[float, float]] = (),
) -> NDArray[np.uint8]:
    """Return the class of each cell: (rows, cols) uint8, 0 = no data, else `COVER_CODES`.

    Args:
        cells: Of the same tile.
        pixels: (H, W) uint8, 0 = no data.
        reference: Of the tile's scene.
        airports_rc: Row and column (pixels) of the reference points of airports in or near the tile. Dark
            areas around them are aprons and runways, which backscatter does not tell from water.
    """
    dark = cells.valid & (cells.level < reference.dark_below)
    water = _opened(dark | ~cells.valid, cells.side_m) & cells.valid
    water = _without_small_areas(water, _MIN_WATER_M2 / cells.side_m**2)
    if airports_rc:
        water &= ~_near_airports(water, airports_rc, cells)
    water |= _ships_in(water, dark, cells)
    land = cells.valid & ~dark & ~water
    built_up = land & _built_up(cells, pixels, reference, land)
    codes = np.full(cells.level.shape, COVER_CODES["open_land"], np.uint8)
    codes[dark] = COVER_CODES["smooth"]
    codes[built_up] = COVER_CODES["built_up"]
    codes[water & cells.valid] = COVER_CODES["water"]
    codes[~cells.valid] = NO_DATA
    return codes


def _built_up(
    cells: Cells, pixels: NDArray[np.uint8], reference: SceneReference, land: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Many strong scatterers, strong texture, or a high mean over about 110 m."""
    # Speckle alone hardly reaches this: one-look amplitude passes 2.8 medians in 0.4 % of the pixels.
    bright = pixels > min(254.0, reference.land_level * (1 + 3.5 * reference.speckle_cv))
    scatterers = _box_mean(block_sum(bright, cells.side_px) * land, _TEXTURE_CELLS)
    density = scatterers / np.maximum(_box_mean(cells.count * land, _TEXTURE_CELLS), 1e-6)
    mean, texture = _moments(cells.count, cells.total, cells.square, land, _TEXTURE_CELLS)
    textured = texture > _BUILT_UP_CV * reference.speckle_cv + 0.05
    votes = (density > _BUILT_UP_DENSITY) | textured | (mean > _BUILT_UP_LEVEL * reference.land_level)
    return _box_mean(votes.astype(np.float32), 5) > 0.5


def summarise_cover(codes: NDArray[np.uint8], cells: Cells, reference: SceneReference) -> Cover:
    """Return the shares of the classes in the tile and in its 3 x 3 regions."""
    thirds = [
        _fractions(region)
        for band in np.array_split(codes, 3, axis=0)
        for region in np.array_split(band, 3, axis=1)
    ]
    strong = cells.valid & (cells.level > _STRONG * reference.land_level) & (codes != COVER_CODES["water"])
    built_up = _without_small_areas(codes == COVER_CODES["built_up"], _MIN_PATCH_M2 / cells.side_m**2)
    return Cover(
        fractions=_fractions(codes),
        by_region=tuple(thirds),
        strong_fraction=float(strong.sum() / max(cells.valid.sum(), 1)),
        patches=int(connected(built_up).max(initial=0)),
    )


def _fractions(codes: NDArray[np.uint8]) -> dict[CoverClass, float]:
    counts = np.bincount(codes.ravel(), minlength=len(COVER_CLASSES) + 1)[1:]
    total = max(int(counts.sum()), 1)
    return {name: float(n) / total for name, n in zip(COVER_CLASSES, counts, strict=True)}


def _box_mean(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    box: NDArray[np.float32] = ndimage.uniform_filter(values, side, mode="constant")
    return box


def _moments(
    count: NDArray[np.float32],
    total: NDArray[np.float32],
    square: NDArray[np.float32],
    among: NDArray[np.bool_],
    window: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and coefficient of variation of the pixels of window x window cells, of those in `among` only."""
    n = _box_mean(count * among, window)
    mean = _box_mean(total * among, window) / np.maximum(n, 1e-6)
    variance = _box_mean(square * among, window) / np.maximum(n, 1e-6) - mean**2
    cv = np.sqrt(np.maximum(variance, 0)) / np.maximum(mean, 1e-6)
    counted = among & (count > 0)
    return np.where(counted, mean, 0).astype(np.float32), np.where(counted, cv, 0).astype(np.float32)


def _percentile(counts: NDArray[np.int64], edges: NDArray[np.float64], percent: float) -> float:
    cumulative = np.concatenate([[0], np.cumsum(counts)])
    return float(np.interp(percent / 100 * cumulative[-1], cumulative, edges))


def _valley_level(levels: NDArray[np.int64]) -> float | None:
    """Return log2 of the level between the darkest two modes of a histogram, or None."""
    smooth = ndimage.gaussian_filter1d(levels.astype(np.float64), 1.5, mode="constant")
    share = np.cumsum(smooth) / smooth.sum()
    lowest = int(np.searchsorted(share, 1e-4))
    for at in range(lowest + 1, len(smooth) - 1):
        if not smooth[at - 1] >= smooth[at] < smooth[at + 1]:
            continue
        left, right = int(np.argmax(smooth[:at])), at + int(np.argmax(smooth[at:]))
        gap = _LEVEL_EDGES[right] - _LEVEL_EDGES[left]
        deep = smooth[at] < _MAX_VALLEY * min(smooth[left], smooth[right])
        if deep and gap >= _MIN_MODE_GAP and share[at] >= _MIN_DARK_SHARE and share[at] <= 0.997:
            return float((_LEVEL_EDGES[at] + _LEVEL_EDGES[at + 1]) / 2)
    return None


def _separating_level(water: NDArray[np.int64], land: NDArray[np.int64]) -> float | None:
    """Return log2 of the level that parts water from land with the fewest mistakes, both counted alike."""
    if min(water.sum(), land.sum()) < _MIN_SEPARATED_CELLS:
        return None
    missed = 1 - np.cumsum(water) / water.sum()
    taken = np.cumsum(land) / land.sum()
    at = int(np.argmin(missed + taken))
    if max(missed[at], taken[at]) > _MAX_MISCLASSIFIED:
        return None
    return float(_LEVEL_EDGES[at + 1])


def _opened(mask: NDArray[np.bool_], side_m: float) -> NDArray[np.bool_]:
    """Open a mask by a disk of 45 m; the tile is padded with its edge values."""
    radius = _MIN_WATER_RADIUS_M / side_m
    margin = int(np.ceil(2 * radius)) + 1
    padded = np.pad(mask, margin, mode="edge")
    core = ndimage.distance_transform_edt(padded) >= radius
    if not core.any():
        return np.zeros_like(mask)
    near = ndimage.distance_transform_edt(~core) <= 1.3 * radius
    opened: NDArray[np.bool_] = (padded & near)[margin:-margin, margin:-margin]
    return opened


def _without_small_areas(mask: NDArray[np.bool_], min_cells: float) -> NDArray[np.bool_]:
    labels = connected(mask)
    large = np.bincount(labels.ravel()) >= min_cells
    large[0] = False
    kept: NDArray[np.bool_] = large[labels]
    return kept


def small_holes(mask: NDArray[np.bool_], max_cells: float) -> NDArray[np.bool_]:
    """Return the areas outside `mask` that are small enough for a ship."""
    return ~mask & ~_without_small_areas(~mask, max_cells)


def _ships_in(water: NDArray[np.bool_], dark: NDArray[np.bool_], cells: Cells) -> NDArray[np.bool_]:
    """Return the holes in water that are ships: what is not dark in them is small enough for one.

    The opening takes dark cells around a ship, and between it and the brighter spots of the sea beside it:
    those do not count, but a hole must be small all the same.
    """
    most = MAX_TARGET_M2 / cells.side_m**2
    holes = small_holes(water | ~cells.valid, _MAX_HOLE_SHARE * most)
    labels = connected(holes)
    large = _without_small_areas(holes & ~dark, most)
    with_land = np.zeros(int(labels.max(initial=0)) + 1, bool)
    with_land[labels[large]] = True
    ships: NDArray[np.bool_] = holes & ~with_land[labels]
    return ships


def near_any(points_rc: Sequence[tuple[float, float]], radius_m: float, cells: Cells) -> NDArray[np.bool_]:
    """Return which cells, (rows, cols) bool, lie within a radius of a point (row and column in pixels)."""
    rows, cols = np.indices(cells.valid.shape)
    near = np.zeros(cells.valid.shape, bool)
    for row, col in points_rc:
        near |= np.hypot(rows - row / cells.side_px, cols - col / cells.side_px) * cells.side_m <= radius_m
    return near


def _near_airports(
    water: NDArray[np.bool_], airports_rc: Sequence[tuple[float, float]], cells: Cells
) -> NDArray[np.bool_]:
    """Return those connected dark areas whose greater part lies within 3 km of an airport."""
    near = near_any(airports_rc, AIRFIELD_RADIUS_M, cells)
    labels = connected(water)
    mostly = np.bincount(labels.ravel(), weights=near.ravel()) > 0.5 * np.bincount(labels.ravel())
    mostly[0] = False
    around: NDArray[np.bool_] = mostly[labels]
    return around
