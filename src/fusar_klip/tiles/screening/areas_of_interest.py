"""Areas that are kept whatever their density: areas of interest, and known airports and ports."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from pyproj import Geod

from fusar_klip.errors import SettingsError
from fusar_klip.geo.gazetteer import PlaceKind, nearest
from fusar_klip.tiles.settings import ScreeningSettings

ToLonLat = Callable[[ArrayLike, ArrayLike], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Columns and rows in pixels to longitude and latitude in degrees, as `Scene.to_lonlat`."""

_WGS84 = Geod(ellps="WGS84")
_KINDS: tuple[PlaceKind, ...] = ("airport", "port")
_MOST_PLACES = 500


@dataclass(frozen=True)
class AreasOfInterest:
    """The areas and places in and around one scene.

    Attributes:
        to_lonlat: Where the scene's pixels lie.
        centre_lon: Longitude of the scene's centre. All longitudes here are within 180 degrees of it, so that
            a scene across the antimeridian is in one piece.
        areas: Areas of interest.
        places: Circles around airports and ports.
    """

    to_lonlat: ToLonLat
    centre_lon: float
    areas: shapely.STRtree
    places: shapely.STRtree

    def meets(self, top: int, left: int, height: int, width: int) -> Literal["area", "place"] | None:
        """Return whether a window of the scene's pixels meets an area, or else a place."""
        # The middles of the sides as well: a straight side on the map is a curve in degrees.
        cols = left + width * np.array([0, 0.5, 1, 1, 1, 0.5, 0, 0])
        rows = top + height * np.array([0, 0, 0, 0.5, 1, 1, 1, 0.5])
        ring = np.stack(self.to_lonlat(cols, rows), axis=-1)
        if not np.isfinite(ring).all():
            return None
        window = shapely.Polygon(_near(ring, self.centre_lon))
        if len(self.areas.query(window, predicate="intersects")):
            return "area"
        return "place" if len(self.places.query(window, predicate="intersects")) else None


def areas_of_interest(
    to_lonlat: ToLonLat, height: int, width: int, settings: ScreeningSettings
) -> AreasOfInterest | None:
    """Gather the areas of interest and the places of the gazetteer that matter for a scene.

    Args:
        to_lonlat: `Scene.to_lonlat`.
        height: The scene's rows.
        width: Its columns.
        settings: `areas` and `gazetteer`.

    Returns:
        None where there are neither, or where the scene has no coordinates.

    Raises:
        SettingsError: The file of areas is missing, no vector file, or has no CRS.
    """
    areas = _read(settings.areas) if settings.areas else np.array([], object)
    lon, lat = (float(value) for value in to_lonlat(width / 2, height / 2))
    if not (math.isfinite(lon) and math.isfinite(lat)):
        return None
    corners = [to_lonlat(col, row) for col in (0, width) for row in (0, height)]
    radius_km = max(_WGS84.inv(lon, lat, float(x), float(y))[2] for x, y in corners) / 1000
    circles = _circles(lon, lat, radius_km, settings.gazetteer) if settings.gazetteer else []
    near = [shape for shape in shapely.transform(areas, lambda xy: _near(xy, lon)) if _whole(shape)]
    if not near and not circles:
        return None
    return AreasOfInterest(to_lonlat, lon, shapely.STRtree(near), shapely.STRtree(circles))


def _read(path: Path) -> NDArray[np.object_]:
    """Read the geometries of a vector file in EPSG:4326."""
    if not path.exists():
        raise SettingsError(f"screening.areas: no such file: {path}")
    try:
        frame = gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path, columns=[])
    except (OSError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"screening.areas: {path} is no vector file that GDAL can read: give GeoJSON or GeoPackage"
        ) from error
    if not isinstance(frame, gpd.GeoDataFrame) or frame.crs is None:
        raise SettingsError(
            f"screening.areas: {path} does not say its coordinate reference system: give one, for example "
            "with ogr2ogr -a_srs EPSG:4326"
        )
    geometries = shapely.make_valid(frame.to_crs("EPSG:4326").geometry.to_numpy())
    there: NDArray[np.object_] = geometries[~(shapely.is_missing(geometries) | shapely.is_empty(geometries))]
    return there


def _near(xy: NDArray[np.float64], lon: float) -> NDArray[np.float64]:
    """Shift longitudes by whole turns to within 180 degrees of `lon`."""
    return np.column_stack([(xy[:, 0] - lon + 180) % 360 - 180 + lon, xy[:, 1]])


def _whole(shape: shapely.Geometry) -> bool:
    """Return False for a shape that was torn apart on the other side of the Earth."""
    west, _, east, _ = shapely.bounds(shape)
    return bool(east - west < 180)


def _circles(lon: float, lat: float, reach_km: float, radius_km: float) -> list[shapely.Geometry]:
    """Return circles in degrees around the airports and ports whose circles can reach a scene."""
    azimuths = np.arange(0.0, 360.0, 7.5)
    circles: list[shapely.Geometry] = []
    for kind in _KINDS:
        for found in nearest(kind, lon, lat, count=_MOST_PLACES, within_km=reach_km + radius_km):
            place, n = found.place, len(azimuths)
            x, y, _ = _WGS84.fwd([place.lon] * n, [place.lat] * n, azimuths, [radius_km * 1000] * n)
            circles.append(shapely.Polygon(_near(np.column_stack([x, y]), lon)))
    return circles
