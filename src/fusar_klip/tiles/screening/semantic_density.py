"""The semantic density of a scene's cells, and isolated targets at sea (paper 3.1, step 1).

Four measures of a cell's neighbourhood, each set against what speckle alone would give, so that the same
thresholds serve one look at 0.2 m and four at 10 m, calibrated amplitude and 8 bits. One channel has its
limits: at 10 m, quiet suburbs and a patchwork of fields give the same figures.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fusar_klip.tiles.screening.overview import Overview

WEIGHTS = {"variation": 0.25, "scatterers": 0.35, "edges": 0.2, "entropy": 0.2}
"""How the measures join into the density. Man-made structure shows first in its bright scatterers."""
EDGE_RATIO = 1.5
NEIGHBOURHOOD_M = 256.0
"""The ground extent of the paper's smallest tile."""
_MIN_NEIGHBOURHOOD_CELLS = 5
_RAYLEIGH_CV = math.sqrt(4 / math.pi - 1)  # of the amplitude of one-look speckle
_TARGET_M = 500.0  # longer than any ship: what is around it is the sea
_DARK = 0.5  # 6 dB
_OPEN = 0.97  # ships are far apart, houses are not
_VARIED = 1.7  # 4.6 dB: swell and the fall of brightness with range stay under it


@dataclass(frozen=True)
class Measures:
    """What the density is made of: (h, w) float32 each, 0 to 1, over a neighbourhood of cells.

    Attributes:
        variation: Coefficient of variation of the pixels, over that of speckle.
        scatterers: Share of cells with a pixel that is far brighter than speckle makes it.
        edges: Share of neighbouring cells whose means differ by a factor of 1.5 or more (ratio detector).
        entropy: Of the cells' means in steps of 3 dB.
    """

    variation: NDArray[np.float32]
    scatterers: NDArray[np.float32]
    edges: NDArray[np.float32]
    entropy: NDArray[np.float32]


def speckle_cv_of(overview: Overview) -> float:
    """Return the coefficient of variation of a scene's speckle: that of the smoothest fifth of its cells.

    Between 0.15 and 0.75: what is smoother was averaged over the ground, so that what varies is the ground;
    what is rougher than one look (0.52) by half is a city without an even place.
    """
    valid = overview.full()
    cv = overview.contrast[valid] / overview.amplitude[valid]
    return float(np.clip(np.percentile(cv, 20), 0.15, 0.75))


def density_of(measures: Measures) -> NDArray[np.float32]:
    """Join the measures: (h, w) float32, 0 to 1."""
    density = sum(weight * getattr(measures, name) for name, weight in WEIGHTS.items())
    return np.asarray(density, np.float32)


def measure(overview: Overview, speckle_cv: float) -> Measures:
    """Measure the neighbourhood of each cell: 256 m, but at least 5 x 5 cells."""
    valid = overview.full()
    side_m = overview.cell_px * overview.gsd_m
    window = max(_MIN_NEIGHBOURHOOD_CELLS, 2 * round(NEIGHBOURHOOD_M / side_m / 2) + 1)
    cells = np.maximum(_box(valid, window), 1e-6)
    mean, cv = _moments(overview, valid, window)
    found = {
        "variation": _ramp(cv / speckle_cv, 1.5, 3.5),
        "scatterers": _ramp(_box(_scatterers(overview, valid, mean, speckle_cv), window) / cells, 0.1, 0.6),
        "edges": _ramp(_edge_share(overview.amplitude, valid, window), 0.0, 0.4),
        "entropy": _ramp(_entropy(overview.amplitude, valid, window), 0.8, 2.4),
    }
    return Measures(**{name: np.where(valid, values, 0).astype(np.float32) for name, values in found.items()})


def _ramp(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.float32]:
    ramp: NDArray[np.float32] = np.clip((values - low) / (high - low), 0, 1)
    return ramp


def _box(values: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Return the mean over side x side cells, with 0 outside of the scene."""
    box: NDArray[np.float32] = ndimage.uniform_filter(values.astype(np.float32), side, mode="constant")
    return box


def _moments(
    overview: Overview, valid: NDArray[np.bool_], window: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and coefficient of variation of the pixels in a neighbourhood."""
    weight = overview.valid * valid
    share = np.maximum(_box(weight, window), 1e-6)
    mean = np.maximum(_box(overview.amplitude * weight, window) / share, 1e-30)
    square = _box((overview.amplitude**2 + overview.contrast**2) * weight, window) / share
    return mean, np.sqrt(np.maximum(square - mean**2, 0)) / mean


def _peak_of_speckle(cell_px: int, speckle_cv: float) -> float:
    """Return how many means the brightest pixel of a cell of mere speckle exceeds in 1 of 100 cells."""
    one_look = math.sqrt(4 / math.pi * math.log(100 * cell_px**2))  # of Rayleigh's distribution
    return 1 + (one_look - 1) * speckle_cv / _RAYLEIGH_CV


def _scatterers(
    overview: Overview, valid: NDArray[np.bool_], mean: NDArray[np.float32], speckle_cv: float
) -> NDArray[np.bool_]:
    """Return which cells hold a pixel too bright for speckle, on the ground around or on the scene's land."""
    land = land_level(overview.amplitude[valid])
    ceiling = 0.99 * overview.peak.max()  # where the file saturates, the brightest is bright enough
    enough = np.minimum(_peak_of_speckle(overview.cell_px, speckle_cv) * np.maximum(land, mean), ceiling)
    scatterers: NDArray[np.bool_] = (overview.peak > enough) & valid
    return scatterers


def _edge_share(amplitude: NDArray[np.float32], valid: NDArray[np.bool_], window: int) -> NDArray[np.float32]:
    edges, pairs = np.zeros(valid.shape, np.float32), np.zeros(valid.shape, np.float32)
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        a, b = amplitude[first], amplitude[second]
        both = valid[first] & valid[second]
        edges[first] += both & (np.maximum(a, b) >= EDGE_RATIO * np.minimum(a, b))
        pairs[first] += both
    return _ratio(_box(edges, window), _box(pairs, window))


def _entropy(amplitude: NDArray[np.float32], valid: NDArray[np.bool_], window: int) -> NDArray[np.float32]:
    """Return the entropy in bits of the cells' means in steps of 3 dB: speckle hardly leaves a step."""
    steps = np.floor(2 * np.log2(np.maximum(amplitude, 1e-30))).astype(np.int32)
    low, high = np.percentile(steps[valid], (0.5, 99.5)).astype(int)
    steps = np.clip(steps, low, min(high, low + 40))
    cells = np.maximum(_box(valid, window), 1e-6)
    entropy = np.zeros(valid.shape, np.float32)
    for step in range(low, min(high, low + 40) + 1):
        share = np.clip(_box((steps == step) & valid, window) / cells, 1e-9, 1)
        entropy -= share * np.log2(share)
    return entropy


def isolated_targets(
    overview: Overview, density: NDArray[np.float32], speckle_cv: float, threshold: float
) -> NDArray[np.bool_]:
    """Find isolated bright targets on dark, even ground: ships at sea.

    One channel does not tell the sea from a dark plain. So the ground around must be even, and 6 dB darker
    than that of the scene's dense cells. In a scene of one level, all ground will do if nearly
    all is even (the open sea), and none if it is not (a town in the fields).

    Args:
        overview: Of the scene.
        density: (h, w) float32 of its cells.
        speckle_cv: As `speckle_cv_of` gives it.
        threshold: Least density of a dense cell.

    Returns:
        (h, w) bool, the cells that hold such a target.
    """
    amplitude, valid = overview.amplitude, overview.full()
    side_m = overview.cell_px * overview.gsd_m
    window = 2 * round(max(_TARGET_M / side_m, 8)) + 1
    ground = valid & (amplitude < 1.5 * mean_over(amplitude, valid, window))
    level = mean_over(amplitude, ground, window)
    even = valid & (amplitude < 1.6 * level) & (amplitude > level / 1.6)
    around = _box(even, window) > 0.85 * _box(valid, window)
    dense = valid & (density >= threshold)
    low, high = np.percentile(level[valid], (5, 95))
    if high < _VARIED * low:
        dark = math.inf if even[valid].mean() > _OPEN else 0.0
    else:
        dark = _DARK * float(np.median(level[dense])) if dense.any() else math.inf
    bright = valid & (overview.peak > 2 * _peak_of_speckle(overview.cell_px, speckle_cv) * level)
    targets: NDArray[np.bool_] = bright & around & (level < dark)
    return targets


def land_level(amplitude: NDArray[np.float32]) -> np.floating:
    """Return the median of some cells' amplitudes, (N,), without those dark enough to be water or shadow."""
    level: np.floating = np.median(amplitude[amplitude > 0.5 * np.percentile(amplitude, 75)])
    return level


def mean_over(values: NDArray[np.float32], among: NDArray[np.bool_], window: int) -> NDArray[np.float32]:
    """Return the mean over those of window x window cells, (h, w), that are `among`."""
    return _ratio(_box(values * among, window), _box(among, window))


def _ratio(sums: NDArray[np.float32], counts: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(sums, np.maximum(counts, 1e-6), dtype=np.float32)
