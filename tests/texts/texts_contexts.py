"""Tiles as describers that ask a language model know them, made without a data set."""

from datetime import UTC, datetime
from typing import Any

from texts_synthetic import GSD_M, city, sea_with_ships

from fusar_klip.catalog import Task
from fusar_klip.geo.gazetteer import Neighbour, Place
from fusar_klip.texts import measure_tile
from fusar_klip.texts.measure.evidence_store import TileContext
from fusar_klip.texts.measure.geography import Geography

NORTH_UP = (GSD_M, 0.0, 380_000.0, 0.0, -GSD_M, 3_735_000.0)


def harbour() -> Geography:
    """San Pedro Bay with an airport in the north."""
    airport = Place("airport", "Long Beach Airport", "United States", -118.15, 33.82, "KLGB")
    port = Place("port", "Long Beach", "United States", -118.22, 33.75, "USLGB")
    return Geography(
        lon=-118.25,
        lat=33.74,
        half_km=0.6,
        place="San Pedro",
        country="United States",
        airport=Neighbour(airport, 12.6, 46.0),
        port=Neighbour(port, 3.0, 68.0),
        city=None,
    )


def nowhere() -> Geography:
    """A tile without coordinates."""
    return Geography(None, None, 0.6, None, None, None, None, None)


def make_context(task: Task = "marine_target", **changes: Any) -> TileContext:
    """Return a tile of 400 px at 3 m: three ships of about 150 m at sea, or a city."""
    ships = [
        (80.0, 80.0, 150.0, 24.0, 0.0),
        (300.0, 100.0, 150.0, 24.0, 90.0),
        (200.0, 320.0, 150.0, 24.0, 0.0),
    ]
    pixels = city() if task == "terrain" else sea_with_ships(ships)
    known: dict[str, Any] = {
        "tile_id": "scene_L_0000_0000",
        "scale": "large",
        "parent_id": None,
        "task": task,
        "path": "tiles/scene/scene_L_0000_0000.tif",
        "place": "San Pedro",
        "country": "United States",
        "lon": -118.25,
        "lat": 33.74,
        "platform": "Sentinel-1",
        "band": "C",
        "polarization": "VV",
        "mode": "IW",
        "product_type": "GRDH",
        "incidence_deg": 38.0,
        "look_side": "right",
        "orbit_direction": "descending",
        "acquired": datetime(2020, 11, 7, 13, 52, tzinfo=UTC),
        "looks": 4.4,
        "gsd_m": GSD_M,
        "extent_m": 1200.0,
        "width": 400,
        "height": 400,
        "north_up": True,
        "scene_type": None,
        "landform": None,
        "evidence": measure_tile(pixels, GSD_M, transform=NORTH_UP),
        "geography": harbour(),
        "known_places": {},
    }
    geography: Geography = changes.get("geography", known["geography"])
    known["airports"] = () if geography.airport is None else (geography.airport,)
    known["ports"] = () if geography.port is None else (geography.port,)
    assert set(changes) <= set(known), changes
    return TileContext(**(known | changes))
