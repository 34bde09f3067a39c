"""Footprints of tiles on the globe, in EPSG:4326: cut at the antimeridian, closed over a pole.

RFC 7946 (3.1.9) and GeoParquet want a footprint that crosses the antimeridian in two parts, so that no part
spans the globe; which is what a plain ring from 179.9 to -179.9 degrees would do.
"""

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import translate


def footprints(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return the area inside each ring of positions.

    Args:
        lon: (N, P) longitude in degrees, -180 to 180, of N rings of P corners, the first not repeated.
        lat: (N, P) latitude in degrees.

    Returns:
        (N,) shapely polygons, or multipolygons of two parts where a ring crosses the antimeridian.
    """
    steps = np.diff(lon, axis=1, append=lon[:, :1])
    turns = np.rint(steps / 360)
    plain = ~turns.any(axis=1)
    areas = np.empty(len(lon), object)
    if plain.any():
        areas[plain] = shapely.polygons(np.stack([lon[plain], lat[plain]], axis=-1))
    for i in np.flatnonzero(~plain):
        areas[i] = _across(lon[i] - 360 * np.cumsum(np.r_[0, turns[i, :-1]]), lat[i], turns[i].sum())
    return areas


def _across(lon: NDArray[np.float64], lat: NDArray[np.float64], turns: float) -> shapely.Geometry:
    """Return the area inside one ring of unwrapped longitudes, cut into what lies in -180..180.

    A ring that goes once around the globe (`turns` is not 0) holds a pole: it is closed along that.
    """
    ring = np.stack([lon, lat], axis=-1)
    if turns:
        pole = 90.0 if lat.mean() > 0 else -90.0
        end = [lon[0] - 360 * turns, lat[0]]
        ring = np.vstack([ring, end, [end[0], pole], [lon[0], pole]])
    area = shapely.make_valid(shapely.Polygon(ring))
    parts = []
    for shift in (-360.0, 0.0, 360.0):
        inside = shapely.intersection(area, shapely.box(-180 - shift, -90, 180 - shift, 90))
        parts += [
            translate(part, shift)
            for part in shapely.get_parts(inside)
            if part.geom_type == "Polygon" and not part.is_empty
        ]
    return shapely.union_all(parts)
