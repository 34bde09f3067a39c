"""Bounding boxes of footprints and of queries in degrees, and which of them intersect.

A box is (west, south, east, north) in EPSG:4326. It runs eastwards from west to east, so west > east means
that it crosses the antimeridian. Footprints that contain a pole have no such box, and are not supported.
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
"""(N, 4) float64 boxes; a tile without a footprint has a row of NaN."""


def check_bbox(bbox: BBox) -> BBox:
    """Return `bbox` if it is valid.

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
    """Return the bounding box of each footprint, given as WKB in EPSG:4326.

    A footprint whose longitudes span more than 180 degrees is taken to cross the antimeridian, because no
    tile is that wide; its box has west > east.
    """
    geometries = shapely.from_wkb(np.asarray(footprints, dtype=object))
    bounds: Bounds = shapely.bounds(geometries).reshape(-1, 4)
    with np.errstate(invalid="ignore"):
        across = bounds[:, 2] - bounds[:, 0] > 180
        # A footprint may exceed +-180 (longitude 180.5): wrap it into the range.
        bounds[:, [0, 2]] = np.where(bounds[:, [0, 2]] > 180, bounds[:, [0, 2]] - 360, bounds[:, [0, 2]])
        bounds[:, [0, 2]] = np.where(bounds[:, [0, 2]] < -180, bounds[:, [0, 2]] + 360, bounds[:, [0, 2]])
    for row in np.flatnonzero(across):
        bounds[row, [0, 2]] = _west_and_east(geometries[row])
    return bounds


def intersects(bounds: Bounds, bbox: BBox) -> npt.NDArray[np.bool_]:
    """Return (N,) bool: which of `bounds` share at least a point with `bbox`. A row of NaN never does."""
    west, south, east, north = bbox
    lats = (bounds[:, 1] <= north) & (bounds[:, 3] >= south)
    # Two arcs of a circle intersect if one begins within the other; % 360 is the distance eastwards.
    # A NaN bound compares as False in every term.
    box_width = 360.0 if east - west == 360 else (east - west) % 360
    tile_width = (bounds[:, 2] - bounds[:, 0]) % 360
    lons = ((bounds[:, 0] - west) % 360 <= box_width) | ((west - bounds[:, 0]) % 360 <= tile_width)
    intersecting: npt.NDArray[np.bool_] = lats & lons
    return intersecting


def _west_and_east(geometry: Any) -> tuple[float, float]:
    """Return the western and eastern edge of a footprint that crosses the antimeridian."""
    lons = shapely.get_coordinates(geometry)[:, 0]
    return float(lons[lons > 0].min()), float(lons[lons < 0].max())
