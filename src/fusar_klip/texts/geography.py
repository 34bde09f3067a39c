"""Where a tile lies, in words: nearest airport, port and city from the offline gazetteer."""

import math
from dataclasses import dataclass

from fusar_klip.texts.wording import distance, listed, wind
from fusar_klip.tiles.gazetteer import Neighbour, nearest

_AT_KM = 1.5
_MENTION_KM = 60.0
_CITY_REGION_KM = 20.0


@dataclass(frozen=True)
class Geography:
    """What the gazetteer knows about a tile; every field is None where the tile has no coordinates.

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


def locate(
    lon: float | None, lat: float | None, half_km: float, place: str | None, country: str | None
) -> Geography:
    """Look up what lies near a tile; `place` and `country` come from the catalog."""
    if lon is None or lat is None:
        return Geography(None, None, half_km, None, None, None, None, None)
    airport, port, city = (
        next(iter(nearest(kind, lon, lat, within_km=_MENTION_KM)), None)
        for kind in ("airport", "port", "city")
    )
    return Geography(lon, lat, half_km, place, country, airport, port, city)


def name(neighbour: Neighbour) -> str:
    """Return a place's name as it stands in a sentence."""
    place = neighbour.place
    if place.kind == "port":
        return f"the port of {place.name}"
    return f"{place.name} ({place.code})" if place.kind == "airport" and place.code else place.name


def seen_from_tile(neighbour: Neighbour) -> str:
    """Return where a place lies as seen from the tile: "the port of X 3 km to the south-east"."""
    if neighbour.distance_km < 0.5:
        return f"{name(neighbour)} here"
    return f"{name(neighbour)} {distance(1000 * neighbour.distance_km)} to the {wind(neighbour.bearing_deg)}"


def whereabouts(geography: Geography) -> str:
    """Return the tile's place in words, without a full stop: a clause that can stand alone."""
    if geography.lon is None:
        return "the location of the tile on the ground is not known"
    where = "the tile lies on the open sea or far from any populated place"
    if geography.place is not None:
        country = f", {geography.country}" if geography.country else ""
        where = f"the tile lies near {geography.place}{country}"
    neighbours = [n for n in (geography.airport, geography.port, geography.city) if n is not None]
    if not neighbours:
        return f"{where}, with no airport, port or city within 60 km"
    return f"{where}, with {listed([seen_from_tile(n) for n in neighbours])}"
