"""Boxes in degrees on a round Earth: of footprints, of queries, and which of them touch.

A box is (west, south, east, north) in EPSG:4326. It runs eastwards from west to east, so that west > east
means that it crosses the antimeridian. Footprints that hold a pole are beyond a box in degrees, and are not
treated here.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from fusar_klip.errors import SearchError

BBox = tuple[float, float, float, float]
"""(west, south, east, north) in degrees, longitudes in [-180, 180], latitudes in [-90, 90]."""

Bounds = npt.NDArray[np.float64]
"""(N, 4) boxes; a row of NaN belongs to a tile without a footprint."""


def check_bbox(bbox: BBox) -> BBox:
    """Return `bbox` if it is a box on the Earth.

    Raises:
        SearchError: A number is out of range or not finite, or south > north.
    """
    west, south, east, north = bbox
    given = ",".join(f"{value:g}" for value in bbox)
    if not all(math.isfinite(lon) and -180 <= lon <= 180 for lon in (west, east)):
        raise SearchError(f"the longitudes W and E of the bounding box {given} must be within -180 and 180")
    if not all(math.isfinite(lat) and -90 <= lat <= 90 for lat in (south, north)):
        raise SearchError(f"the latitudes S and N of the bounding box {given} must be within -90 and 90")
    if south > north:
        raise SearchError(f"the bounding box {given} has S above N: give W,S,E,N in this order")
    return bbox


def footprint_bounds(footprints: Sequence[bytes | None]) -> Bounds:
    """Return the box of each footprint, given as WKB in EPSG:4326.

    No footprint is half an Earth wide: one whose longitudes span more than 180 degrees lies across the
    antimeridian, and its box then has west > east.
    """
    geometries = shapely.from_wkb(np.asarray(footprints, dtype=object))
    bounds: Bounds = shapely.bounds(geometries).reshape(-1, 4)
    with np.errstate(invalid="ignore"):
        across = bounds[:, 2] - bounds[:, 0] > 180
        # A footprint may run past +-180 unbroken (longitude 180.5): the same place, within the range.
        bounds[:, [0, 2]] = np.where(bounds[:, [0, 2]] > 180, bounds[:, [0, 2]] - 360, bounds[:, [0, 2]])
        bounds[:, [0, 2]] = np.where(bounds[:, [0, 2]] < -180, bounds[:, [0, 2]] + 360, bounds[:, [0, 2]])
    for row in np.flatnonzero(across):
        bounds[row, [0, 2]] = _west_and_east(geometries[row])
    return bounds


def touching(bounds: Bounds, bbox: BBox) -> npt.NDArray[np.bool_]:
    """Return (N,) bool: which of `bounds` share at least a point with `bbox`; a row of NaN never does."""
    west, south, east, north = bbox
    lats = (bounds[:, 1] <= north) & (bounds[:, 3] >= south)
    # Two arcs of a circle meet when one begins within the other; % 360 measures eastwards from a start.
    # A NaN bound compares as False in every term.
    box_width = 360.0 if east - west == 360 else (east - west) % 360
    tile_width = (bounds[:, 2] - bounds[:, 0]) % 360
    lons = ((bounds[:, 0] - west) % 360 <= box_width) | ((west - bounds[:, 0]) % 360 <= tile_width)
    inside: npt.NDArray[np.bool_] = lats & lons
    return inside


def _west_and_east(geometry: Any) -> tuple[float, float]:
    """Return the western and eastern edge of a footprint whose longitudes jump from 180 to -180."""
    lons = shapely.get_coordinates(geometry)[:, 0]
    return float(lons[lons > 0].min()), float(lons[lons < 0].max())
