"""Stores metadata, evidence and geography of every tile on disk; prompts are composed from them.

`ensure_evidence` measures a data set into `DATASET/cache/evidence/`, one SQLite file named by the version of
the measurements and the checksum of the catalog. A second run, a run after an interruption, and a second
process reuse its rows. `EvidenceStore` reads one tile at a time, so that memory does not grow with the data
set. The folder can be deleted; the next run measures again.
"""

import csv
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from fusar_klip.catalog import Scale, Task, open_tiles
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.files import sha256
from fusar_klip.geo.gazetteer import Neighbour, PlaceKind, nearest
from fusar_klip.texts.measure.evidence import Evidence
from fusar_klip.texts.measure.geography import Geography
from fusar_klip.texts.measure.measure_dataset import MEASURE_VERSION, MeasuredTile, measure_dataset

if TYPE_CHECKING:
    from pydantic import TypeAdapter

log = logging.getLogger(__name__)

CONTEXT_FORMAT = "b13abfdf"
"""Part of the store's file name. Change it when the fields of `TileContext`, or of its parts, change; a test
compares them."""

_CATALOG_COLUMNS = (
    *("tile_id", "scale", "platform", "band", "polarization", "mode", "product_type", "orbit_direction"),
    *("look_side", "incidence_deg", "looks", "extent_m", "transform", "scene_type", "landform", "acquired"),
)
_TABLE = """
    CREATE TABLE IF NOT EXISTS tiles (
        place INTEGER PRIMARY KEY, tile_id TEXT UNIQUE NOT NULL, parent_id TEXT, context TEXT NOT NULL
    )
"""
_CONTEXT_OF = "SELECT context FROM tiles WHERE tile_id = ?"
_NEXT = "SELECT place, tile_id, parent_id FROM tiles WHERE place > ? ORDER BY place LIMIT ?"
_FINISHED = 1  # SQLite's user_version of a store that holds every kept tile
_WAIT_S = 120.0  # for another process to end its transaction; one takes milliseconds
_ROWS_PER_QUERY = 1000
_NORTH_UP_DEG = 10.0
_PLACES_OF_A_KIND = 3
_FURTHER = "further values"
_PLACES_WITHIN_KM = 30.0


@dataclass(frozen=True)
class TileContext:
    """Metadata, evidence and geography of one tile, from which prompts are composed; None = not known.

    Attributes:
        tile_id: The tile.
        scale: large, medium or small.
        parent_id: The next larger tile, if it is kept.
        task: The schema of its text.
        path: The tile's file, relative to the data set.
        place: Nearest populated place.
        country: Its country.
        lon: Longitude of the centre, degrees east.
        lat: Latitude of the centre, degrees north.
        platform: Satellite or other carrier.
        band: Letter of the radar band.
        polarization: Transmit and receive, such as "VH".
        mode: The operator's name of the imaging mode.
        product_type: The operator's name of the product.
        incidence_deg: Incidence angle at the scene's centre.
        look_side: "right" or "left" of the flight direction.
        orbit_direction: "ascending" or "descending".
        acquired: When, UTC.
        looks: Equivalent number of looks as the product states it.
        gsd_m: Ground spacing of a pixel.
        extent_m: Side of the tile on the ground.
        width: Columns of the tile.
        height: Rows of the tile.
        north_up: The tile's upper edge is its northern one, within 10 degrees; False where not known.
        scene_type: One of `catalog.SceneType`.
        landform: One of `catalog.Landform`.
        evidence: Measurements of the pixels.
        geography: Nearby places of the gazetteer.
        airports: The nearest airports, at most three, within 30 km of the tile.
        ports: The nearest ports, at most three, within 30 km of the tile; trade places inland are among them.
        known_places: Facts about airports and ports near the tile from the user's own file: {code: facts}.
    """

    tile_id: str
    scale: Scale
    parent_id: str | None
    task: Task
    path: str
    place: str | None
    country: str | None
    lon: float | None
    lat: float | None
    platform: str | None
    band: str | None
    polarization: str | None
    mode: str | None
    product_type: str | None
    incidence_deg: float | None
    look_side: str | None
    orbit_direction: str | None
    acquired: datetime | None
    looks: float | None
    gsd_m: float | None
    extent_m: float | None
    width: int
    height: int
    north_up: bool
    scene_type: str | None
    landform: str | None
    evidence: Evidence
    geography: Geography
    airports: tuple[Neighbour, ...]
    ports: tuple[Neighbour, ...]
    known_places: Mapping[str, tuple[str, ...]]


class EvidenceStore:
    """The measured tiles of one data set, read one at a time.

    Attributes:
        dataset: The data set's folder.
    """

    def __init__(self, dataset: Path, path: Path, known_places: Mapping[str, tuple[str, ...]]) -> None:
        self.dataset = dataset
        uri = f"{path.resolve().as_uri()}?mode=ro"
        self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        self._lock = Lock()  # prompts are made in several threads
        self._known_places = known_places

    def __len__(self) -> int:
        """Return the number of kept tiles."""
        with self._lock:
            (count,) = self._connection.execute("SELECT count(*) FROM tiles").fetchone()
        return int(count)

    def tile_ids(self) -> Iterator[str]:
        """Yield every kept tile, parents before their children, one pyramid after another."""
        for tile_id, _ in self.graph():
            yield tile_id

    def graph(self) -> Iterator[tuple[str, str | None]]:
        """Yield (tile_id, parent_id) of every kept tile in the order of `tile_ids`."""
        last = 0
        while rows := self._after(last):
            yield from ((tile_id, parent_id) for _, tile_id, parent_id in rows)
            last = rows[-1][0]

    def _after(self, place: int) -> list[tuple[int, str, str | None]]:
        with self._lock:
            return self._connection.execute(_NEXT, (place, _ROWS_PER_QUERY)).fetchall()

    def context(self, tile_id: str) -> TileContext:
        """Return metadata, evidence and geography of a tile.

        Raises:
            KeyError: It is not a kept tile of this data set.
        """
        with self._lock:
            found = self._connection.execute(_CONTEXT_OF, (tile_id,)).fetchone()
        if found is None:
            raise KeyError(tile_id)
        context = _contexts().validate_json(found[0])
        codes = [near.place.code or "" for near in (*context.airports, *context.ports)]
        known = {code: self._known_places[code] for code in codes if code in self._known_places}
        return replace(context, known_places=known)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def ensure_evidence(dataset: Path, workers: int = 1, *, known_places: Path | None = None) -> EvidenceStore:
    """Open the evidence of a data set; measure first the tiles that it does not hold.

    Args:
        dataset: The data set's folder.
        workers: Processes that measure.
        known_places: The user's own facts of airports and ports, as `read_known_places` takes them.

    Raises:
        DatasetError: There is no finished data set, it holds no kept tile, or a tile cannot be read.
        SettingsError: The file of known places cannot be read.
    """
    facts = read_known_places(known_places) if known_places else {}
    open_tiles(dataset)  # raises if the data set is not usable
    digest = sha256(dataset / "tiles.parquet")
    path = dataset / "cache" / "evidence" / f"{MEASURE_VERSION}_{CONTEXT_FORMAT}_{digest[:16]}.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_S)) as connection:
            if connection.execute("PRAGMA user_version").fetchone() != (_FINISHED,):
                _measure(dataset, connection, workers)
    except sqlite3.Error as error:
        raise DatasetError(f"{path} cannot be used ({error}): delete it and run the command again") from error
    for stale in path.parent.glob("*.sqlite"):
        if stale != path:
            log.info("removing the evidence of an older catalog: %s", stale.name)
            stale.unlink(missing_ok=True)
    return EvidenceStore(dataset, path, facts)


def read_known_places(path: Path) -> dict[str, tuple[str, ...]]:
    """Read the user's own facts of airports and ports: {code: ("column: value", ...)}.

    The file is a CSV with the column `code` (ICAO or UN/LOCODE) and any others, such as `runways` or
    `harbour size`: each value that is not empty is one fact. A code may stand in several rows.

    Raises:
        SettingsError: The file is missing, is no UTF-8 text, or has no column `code`.
    """
    facts: dict[str, tuple[str, ...]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, restkey=_FURTHER)
            if "code" not in (rows.fieldnames or ()):
                raise SettingsError(
                    f"{path} has no column code: rename the column of ICAO codes or UN/LOCODEs to code"
                )
            for row in rows:
                if _FURTHER in row:
                    raise SettingsError(
                        f"{path} has more values than columns in line {rows.line_num}: "
                        "put values with commas in quotes"
                    )
                code = (row.pop("code") or "").strip().upper()
                stated = tuple(f"{name}: {value}" for name, value in row.items() if value)
                if code and stated:
                    facts[code] = facts.get(code, ()) + stated
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path} cannot be read ({error}): give a CSV file in UTF-8") from error
    return facts


@cache
def _contexts() -> "TypeAdapter[TileContext]":
    from pydantic import TypeAdapter

    return TypeAdapter(TileContext)


def _measure(dataset: Path, connection: sqlite3.Connection, workers: int) -> None:
    """Fill the store pyramid by pyramid, without those that an earlier process has measured."""
    connection.execute(_TABLE)
    connection.commit()
    done = frozenset(tile_id for (tile_id,) in connection.execute("SELECT tile_id FROM tiles"))
    catalog = _catalog(dataset)
    for pyramid in measure_dataset(dataset, workers, done=done):
        rows = [
            (measured.tile.tile_id, measured.parent_id, _encoded(measured, catalog)) for measured in pyramid
        ]
        with connection:  # a pyramid is written completely or not at all
            connection.executemany(
                "INSERT OR IGNORE INTO tiles (tile_id, parent_id, context) VALUES (?, ?, ?)", rows
            )
    connection.execute(f"PRAGMA user_version = {_FINISHED}")
    connection.commit()


def _catalog(dataset: Path) -> pd.DataFrame:
    table = open_tiles(dataset).to_table(list(_CATALOG_COLUMNS))
    frame: pd.DataFrame = table.to_pandas().set_index("tile_id")
    return frame


def _encoded(measured: MeasuredTile, catalog: pd.DataFrame) -> str:
    return _contexts().dump_json(_context(measured, catalog)).decode()


def _context(measured: MeasuredTile, catalog: pd.DataFrame) -> TileContext:
    tile = measured.tile
    row = cast(dict[str, Any], catalog.loc[tile.tile_id].to_dict())
    transform = row.pop("transform")
    known: dict[str, Any] = {name: None if pd.isna(value) else value for name, value in row.items()}
    acquired = known.pop("acquired")
    return TileContext(
        tile_id=tile.tile_id,
        parent_id=measured.parent_id,
        task=measured.task,
        path=tile.path,
        place=tile.place,
        country=tile.country,
        lon=tile.lon,
        lat=tile.lat,
        gsd_m=tile.gsd_m,
        width=tile.width,
        height=tile.height,
        north_up=_north_up(transform),
        evidence=measured.evidence,
        geography=measured.geography,
        airports=_near("airport", measured),
        ports=_near("port", measured),
        known_places={},
        acquired=None if acquired is None else acquired.to_pydatetime(),
        **known,
    )


def _near(kind: PlaceKind, measured: MeasuredTile) -> tuple[Neighbour, ...]:
    """Return the nearest places of a kind; an airport at which the tile's targets stand comes first."""
    tile = measured.tile
    if tile.lon is None or tile.lat is None:
        return ()
    reach_km = _PLACES_WITHIN_KM + tile.half_m / 1000
    found = nearest(kind, tile.lon, tile.lat, count=_PLACES_OF_A_KIND, within_km=reach_km)
    first = measured.geography.airport if kind == "airport" else None
    if first is not None and first.distance_km <= reach_km:
        found = [first, *(near for near in found if near.place != first.place)]
    return tuple(found[:_PLACES_OF_A_KIND])


def _north_up(transform: Iterable[float] | None) -> bool:
    if transform is None:
        return False
    _, b, _, _, e, _ = transform
    return bool(e < 0 and abs(b) < np.tan(np.radians(_NORTH_UP_DEG)) * -e)
