"""Which cells of a scene are open water: dark against its structured land, even, and wider than a runway.

One channel of backscatter does not tell calm water from other smooth ground. So an area must be larger than
car parks and wider than a runway (at a known airport: than its runways together), and must end in a step of
5 dB, which fields seldom do. Two kinds of mistakes remain: dark fields and ash with such an edge count as
water; rivers under two cells wide, harbour basins next to an airport, and rough or patchy water do not.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fusar_klip.geo.gazetteer import distance_km
from fusar_klip.tiles.screening.areas_of_interest import ToLonLat
from fusar_klip.tiles.screening.overview import Overview
from fusar_klip.tiles.screening.semantic_density import land_level, mean_over

EVEN: Final = 0.1
"""Density under which ground is even: open water has under 0.05, short grass 0.1 and more."""
STRUCTURED: Final = 0.25
"""Density from which a cell counts for the level of a scene's structured land."""
WATER_LEVEL: Final = 0.5
"""Of the amplitude of the structured land: 6 dB under it."""
_LAND_SHARE: Final = 0.02  # of a scene's cells that must be structured
_UNEVEN_CV: Final = 1.5  # of speckle's coefficient of variation
_UNEVEN_SHARE: Final = 0.1  # of structured cells: 0.3 to 0.6 in towns and fields, 0.03 around ships
_SWELL: Final = 10 ** (2.5 / 20)  # swell and wind are up to 2.5 dB brighter than a water's median
_BRIGHTEST: Final = 10 ** (-4.5 / 20)  # short grass is at 4 dB under structured land
_STEP: Final = 10 ** (-5 / 20)  # shore to water: 5 to 12 dB; field to field, or to dark ash: 3 to 5 dB
_EVEN_CV: Final = 2.25  # of speckle's coefficient of variation; flooded fields have up to 2.2
_WIDTH_M: Final = 100.0  # runways are up to 60 m wide, 75 m with shoulders
_AREA_M2: Final = 1e5  # larger than car parks
_SHIP_M2: Final = 6e4  # 400 x 60 m, blurred by the cells around it
_PAVEMENT_M: Final = 700.0  # the width of two runways and their taxiways, joined
_AIRPORT_KM: Final = 3.0  # from its reference point to the end of its runways


def water_cells(
    overview: Overview,
    density: NDArray[np.float32],
    speckle_cv: float,
    to_lonlat: ToLonLat | None = None,
) -> NDArray[np.bool_] | None:
    """Find the cells of open water.

    Args:
        overview: Of the scene.
        density: (h, w) float32 of its cells, 0 to 1.
        speckle_cv: As `density.speckle_cv_of` gives it.
        to_lonlat: `Scene.to_lonlat`. None for a scene without coordinates: no airport is asked.

    Returns:
        (h, w) bool; ships count as water. None where nothing in the scene tells water from land: it is even
        nearly all over, or only ships stand out.
    """
    land = _land_level(overview, density, speckle_cv)
    if land is None:
        return None
    valid, side_m = overview.full(), overview.cell_px * overview.gsd_m
    level = mean_over(overview.amplitude, valid, 3)
    sure = valid & (level < WATER_LEVEL * land)
    if not sure.any():
        return sure
    most = np.clip(_SWELL * np.median(level[sure]), WATER_LEVEL * land, _BRIGHTEST * land)
    dark = _wide(valid & (level < most), valid, side_m, _WIDTH_M)
    if to_lonlat is not None:
        beside = ~_at_airport(dark, overview, to_lonlat)
        dark &= beside | _wide(dark, valid, side_m, _PAVEMENT_M)
    areas, count = ndimage.label(dark)
    numbers = np.arange(1, count + 1)
    cv = overview.contrast / np.maximum(overview.amplitude, 1e-30)
    accepted = (
        (np.bincount(areas.ravel(), minlength=count + 1)[1:] * side_m**2 >= _AREA_M2)
        & np.asarray(ndimage.maximum(sure, areas, numbers), bool)
        & (np.asarray(ndimage.median(cv, areas, numbers)) < _EVEN_CV * speckle_cv)
        & (ndimage.median(level, areas, numbers) < _STEP * _shore_level(level, valid, areas, count))
    )
    water: NDArray[np.bool_] = np.concatenate([[False], accepted])[areas]
    return _with_ships(water, valid, side_m)


def _land_level(overview: Overview, density: NDArray[np.float32], speckle_cv: float) -> float | None:
    """Return the median amplitude of the scene's structured land, None where there is none to speak of."""
    valid = overview.full()
    structured = valid & (density >= STRUCTURED)
    if structured.sum() < max(_LAND_SHARE * valid.sum(), 1):
        return None
    # The density is of a neighbourhood: structured cells around a ship, or at a shore, are water themselves.
    amplitude = overview.amplitude[structured]
    uneven = overview.contrast[structured] > _UNEVEN_CV * speckle_cv * amplitude
    if uneven.mean() < _UNEVEN_SHARE:
        return None
    return float(land_level(amplitude))


def _shore_level(
    level: NDArray[np.float32], valid: NDArray[np.bool_], areas: NDArray[np.integer], count: int
) -> NDArray[np.float64]:
    """Return the median level around each area, (count,): that of its cells at a distance of two."""
    beyond = valid & (ndimage.grey_dilation(areas, (3, 3)) == 0)
    around = np.where(beyond, ndimage.grey_dilation(areas, (5, 5)), 0)
    return np.asarray(ndimage.median(level, around, np.arange(1, count + 1)))


def _wide(
    dark: NDArray[np.bool_], valid: NDArray[np.bool_], side_m: float, width_m: float
) -> NDArray[np.bool_]:
    """Leave those dark cells that lie in a square of dark cells, `width_m` but at least two cells wide."""
    side = max(2, round(width_m / side_m))
    # No data, and what is around the scene, may be water too.
    padded = np.pad(dark | ~valid, side, constant_values=True)
    wide = ndimage.binary_opening(padded, np.ones((side, side), bool))[side:-side, side:-side]
    return np.asarray(wide & dark)


def _at_airport(dark: NDArray[np.bool_], overview: Overview, to_lonlat: ToLonLat) -> NDArray[np.bool_]:
    """Return which of the dark cells may be an airport's pavement; (h, w) bool."""
    rows, cols = np.nonzero(dark)
    lon, lat = to_lonlat((cols + 0.5) * overview.cell_px, (rows + 0.5) * overview.cell_px)
    near = np.zeros(dark.shape, bool)
    near[rows, cols] = distance_km("airport", lon, lat) < _AIRPORT_KM
    return near


def _with_ships(water: NDArray[np.bool_], valid: NDArray[np.bool_], side_m: float) -> NDArray[np.bool_]:
    """Add the holes in the water that are no larger than a ship, or one cell and its neighbours."""
    holes, count = ndimage.label(valid & ~water)
    cells = np.bincount(holes.ravel(), minlength=count + 1)
    small = cells <= max(9, _SHIP_M2 / side_m**2)
    small[0] = False
    return np.asarray(water | small[holes])
