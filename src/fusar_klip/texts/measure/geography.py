"""Nearest airport, port and city of a tile from the offline gazetteer, and phrases for them."""

import math
from dataclasses import dataclass

from fusar_klip.geo.gazetteer import Neighbour, nearest
from fusar_klip.texts.phrases import compass_point, distance

_AT_KM = 1.5
_MENTION_KM = 60.0
_CITY_REGION_KM = 20.0
_PORT_REGION_KM = 15.0  # a port farther away says little about a tile
_MAX_NAME_WORDS = 5
_MAX_WORDS = 18  # of all places together: two of usual names fit


@dataclass(frozen=True)
class Geography:
    """Places of the gazetteer near a tile; None if the tile has no coordinates or no such place is near.

    Attributes:
        lon: Longitude of the tile's centre, degrees east.
        lat: Latitude of the tile's centre, degrees north.
        half_km: Half the tile's side on the ground.
        place: Nearest populated place.
        country: Its country.
        airport: Nearest airport within 60 km.
        port: Nearest port within 60 km.
        city: Nearest city of over 50,000 inhabitants within 60 km.
    """

    lon: float | None
    lat: float | None
    half_km: float
    place: str | None
    country: str | None
    airport: Neighbour | None
    port: Neighbour | None
    city: Neighbour | None

    @property
    def at_airport(self) -> Neighbour | None:
        """The airport whose reference point lies within the tile or 1.5 km of its centre."""
        return self.airport if self._is_at(self.airport) else None

    @property
    def at_port(self) -> Neighbour | None:
        """The port whose point lies within the tile or 1.5 km of its centre."""
        return self.port if self._is_at(self.port) else None

    @property
    def settled(self) -> bool:
        """A city lies within 20 km: strong texture is then more likely built up than rugged."""
        return self.city is not None and self.city.distance_km <= _CITY_REGION_KM + self.half_km

    def _is_at(self, neighbour: Neighbour | None) -> bool:
        if neighbour is None:
            return False
        east = neighbour.distance_km * abs(math.sin(math.radians(neighbour.bearing_deg)))
        north = neighbour.distance_km * abs(math.cos(math.radians(neighbour.bearing_deg)))
        return max(east, north) <= self.half_km or neighbour.distance_km <= _AT_KM


def look_up_geography(
    lon: float | None, lat: float | None, half_km: float, place: str | None, country: str | None
) -> Geography:
    """Return the places near a tile; `place` and `country` come from the catalog."""
    if lon is None or lat is None:
        return Geography(None, None, half_km, None, None, None, None, None)
    airport, port, city = (
        next(iter(nearest(kind, lon, lat, within_km=_MENTION_KM)), None)
        for kind in ("airport", "port", "city")
    )
    return Geography(lon, lat, half_km, place, country, airport, port, city)


def place_name(neighbour: Neighbour) -> str:
    """Return the name of a place in a sentence; an airport with a very long name is named by its code."""
    place = neighbour.place
    if place.kind == "airport" and place.code and len(place.name.split()) > _MAX_NAME_WORDS:
        return f"airport {place.code}"
    return f"port of {place.name}" if place.kind == "port" else place.name


def direction_phrase(neighbour: Neighbour) -> str:
    """Return the position of a place relative to the tile: "port of X 3 km to the south-east"."""
    if neighbour.distance_km < 0.5:
        return f"{place_name(neighbour)} here"
    away = distance(1000 * neighbour.distance_km)
    return f"{place_name(neighbour)} {away} to the {compass_point(neighbour.bearing_deg)}"


def nearby_places(geography: Geography, count: int) -> str:
    """Return a phrase for nearby places: a port within 15 km first, then airport and city by distance."""
    others = [n for n in (geography.airport, geography.city) if n is not None]
    others.sort(key=lambda n: n.distance_km)
    port = geography.port
    near_port = [port] if port is not None and port.distance_km <= _PORT_REGION_KM else []
    clauses = [direction_phrase(n) for n in (near_port + others)[:count]]
    if clauses:
        text = ", ".join(clauses)
        return text if len(text.split()) <= _MAX_WORDS else clauses[0]
    if geography.lon is None:
        return "place not known"
    country = f", {geography.country}" if geography.country else ""
    return f"near {geography.place}{country}" if geography.place else "far from any port, airport or city"
