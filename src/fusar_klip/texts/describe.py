"""The verb `describe`: reads the kept tiles of a data set and writes its first text version.

Two passes: the levels of every scene from its largest tiles, then each large tile with all that lies inside
it, one family at a time, so that children keep to their parent's land cover (paper eqs. 1 to 3). Memory holds
one family a process.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from fusar_klip.catalog import SCALES, TEXT_SCHEMA, read_tiles, text_versions, write_texts
from fusar_klip.errors import DatasetError, NotInThisVersionError
from fusar_klip.progress import track
from fusar_klip.texts.evidence import Evidence
from fusar_klip.texts.geography import locate
from fusar_klip.texts.landcover import (
    AIRFIELD_RADIUS_M,
    CellHistograms,
    SceneReference,
    cell_histograms,
    classify,
    measure_cells,
    scene_reference,
)
from fusar_klip.texts.measure import ASSUMED_SPACING_M, image_to_ground, measure_tile
from fusar_klip.texts.sentences import compose
from fusar_klip.texts.settings import DescribeSettings
from fusar_klip.tiles.gazetteer import Neighbour, nearest

PROMPT_VERSION = "measure-2"
VERSION = "v000"
DEFAULTS = DescribeSettings()
_COLUMNS = (
    *("tile_id", "scene_id", "parent_id", "path", "height", "width"),
    *("gsd_m", "lon", "lat", "place", "country"),
)


@dataclass(frozen=True)
class DescribeSummary:
    """What `describe` made.

    Attributes:
        dataset: The data set's folder.
        version: Name of the text version.
        path: Its file.
        tiles: Number of described tiles.
        texts: Number of sentences, eight a tile.
        by_task: Number of tiles by task.
    """

    dataset: str
    version: str
    path: str
    tiles: int
    texts: int
    by_task: dict[str, int]


@dataclass(frozen=True)
class _Tile:
    """One row of the catalog, as far as describing needs it; what is not known is None."""

    tile_id: str
    scene_id: str
    parent_id: str | None
    path: str
    height: int
    width: int
    gsd_m: float | None
    transform: tuple[float, ...] | None
    lon: float | None
    lat: float | None
    place: str | None
    country: str | None

    @property
    def half_m(self) -> float:
        return max(self.height, self.width) * (self.gsd_m or ASSUMED_SPACING_M) / 2


@dataclass(frozen=True)
class _Described:
    """What a child takes over from its parent."""

    tile: _Tile
    evidence: Evidence
    codes: NDArray[np.uint8]
    side_px: int


def describe(dataset: Path, settings: DescribeSettings = DEFAULTS) -> DescribeSummary:
    """Write `texts/v000.parquet`: eight sentences for every kept tile.

    Raises:
        NotInThisVersionError: The provider is known, but not built yet.
        DatasetError: There is no finished data set, it holds no kept tile or has texts already, or a tile
            cannot be read.
    """
    if settings.provider != "measure":
        raise NotInThisVersionError(
            f"the provider {settings.provider} is not in this version: use --provider measure"
        )
    families = _families(_kept_tiles(dataset))
    roots = [family[0] for family in families]
    with _executor(min(settings.workers, len(families))) as executor:
        references = _references(dataset, roots, executor)
        jobs = [executor.submit(_describe_family, dataset, f, references[f[0].scene_id]) for f in families]
        rows = [row for job in track(jobs, "describing") for row in job.result()]
    texts = pd.DataFrame(rows).assign(
        source="measure", prompt_version=PROMPT_VERSION, verdict="original", previous=None
    )
    texts = texts.assign(delta_itc=np.nan, delta_itm=np.nan, itm_score=np.nan)[TEXT_SCHEMA.names]
    maker = {"verb": "describe", "provider": settings.provider, "prompt_version": PROMPT_VERSION}
    path = write_texts(dataset, VERSION, texts, parent=None, maker=maker)
    by_task = texts.drop_duplicates("tile_id")["task"].value_counts().sort_index()
    return DescribeSummary(
        dataset=str(dataset),
        version=VERSION,
        path=str(path),
        tiles=int(texts["tile_id"].nunique()),
        texts=len(texts),
        by_task={str(task): int(count) for task, count in by_task.items()},
    )


def _kept_tiles(dataset: Path) -> list[_Tile]:
    """Read the kept tiles, large before medium before small, and see that they have no texts yet."""
    catalog = read_tiles(dataset)
    if VERSION in text_versions(dataset):
        raise DatasetError(
            f"{dataset} has texts {VERSION} already, and a text version is never edited: remove "
            f"{dataset / 'texts'} to describe all tiles anew"
        )
    catalog = catalog[catalog["kept"]]
    if catalog.empty:
        raise DatasetError(f"{dataset} holds no kept tile: build it from scenes with more valid pixels")
    order = {scale: place for place, scale in enumerate(SCALES)}
    catalog = catalog.assign(_place=catalog["scale"].map(order)).sort_values(["_place", "tile_id"])
    return [_tile(row) for row in cast(list[dict[str, Any]], catalog.to_dict("records"))]


def _tile(row: Mapping[str, Any]) -> _Tile:
    transform = row["transform"]
    known: dict[str, Any] = {key: None if pd.isna(row[key]) else row[key] for key in _COLUMNS}
    return _Tile(**known, transform=None if transform is None else tuple(map(float, transform)))


def _families(tiles: Iterable[_Tile]) -> list[list[_Tile]]:
    """Group tiles with their ancestors; the first of a family is the one whose parent is not kept."""
    family_of: dict[str, list[_Tile]] = {}
    families = []
    for tile in tiles:
        family = family_of.get(tile.parent_id) if tile.parent_id is not None else None
        if family is None:
            family = []
            families.append(family)
        family.append(tile)
        family_of[tile.tile_id] = family
    return families


class _InProcess(Executor):
    """Runs a job when it is submitted: one worker needs no second process."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except DatasetError as error:
            future.set_exception(error)
        return future


def _executor(workers: int) -> Executor:
    # Spawned, not forked: GDAL and BLAS threads of the parent do not survive a fork.
    return ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else _InProcess()


def _references(dataset: Path, roots: Iterable[_Tile], executor: Executor) -> dict[str, SceneReference]:
    """Find the levels of each scene from the tiles that no other tile holds."""
    sums: dict[str, CellHistograms] = {}
    jobs = [(tile.scene_id, executor.submit(_histograms, dataset, tile)) for tile in roots]
    for scene_id, job in track(jobs, "reading the scenes' levels"):
        found = job.result()
        sums[scene_id] = sums[scene_id] + found if scene_id in sums else found
    return {scene_id: scene_reference(histograms) for scene_id, histograms in sums.items()}


def _histograms(dataset: Path, tile: _Tile) -> CellHistograms:
    return cell_histograms(measure_cells(_read(dataset, tile), tile.gsd_m or ASSUMED_SPACING_M))


def _describe_family(dataset: Path, family: list[_Tile], reference: SceneReference) -> list[dict[str, str]]:
    """Describe a tile and all that lies inside it; parents come before children."""
    done: dict[str, _Described] = {}
    rows = []
    for tile in family:
        parent = done.get(tile.parent_id) if tile.parent_id is not None else None
        airports = _airports(tile)
        described = _measure(tile, _read(dataset, tile), reference, parent, [rc for _, rc in airports])
        done[tile.tile_id] = described
        geography = locate(tile.lon, tile.lat, tile.half_m / 1000, tile.place, tile.country)
        if (airport := _airport_of_targets(described.evidence, airports)) is not None:
            geography = replace(geography, airport=airport)
        task, fields = compose(described.evidence, geography, parent.evidence if parent else None)
        rows += [
            {"tile_id": tile.tile_id, "task": task, "field": field, "text": text}
            for field, text in fields.items()
        ]
    return rows


def _measure(
    tile: _Tile,
    pixels: NDArray[np.uint8],
    reference: SceneReference,
    parent: _Described | None,
    airports_rc: Sequence[tuple[float, float]],
) -> _Described:
    cells = measure_cells(pixels, tile.gsd_m or ASSUMED_SPACING_M)
    codes = None if parent is None else _inherited(parent, tile, cells.valid, cells.side_px)
    if codes is None:
        codes = classify(cells, pixels, reference, airports_rc)
    evidence = measure_tile(
        pixels,
        tile.gsd_m,
        transform=tile.transform,
        reference=reference,
        airports_rc=airports_rc,
        cells=cells,
        codes=codes,
    )
    return _Described(tile, evidence, codes, cells.side_px)


def _inherited(
    parent: _Described, tile: _Tile, valid: NDArray[np.bool_], side_px: int
) -> NDArray[np.uint8] | None:
    """Cut a child's land cover out of its parent's, or return None where the two grids do not agree."""
    outer, inner = parent.tile.transform, tile.transform
    if outer is None or inner is None or not np.allclose(np.delete(outer, [2, 5]), np.delete(inner, [2, 5])):
        return None
    origin = np.array([inner[2] - outer[2], inner[5] - outer[5]])
    col, row = np.linalg.solve([[outer[0], outer[1]], [outer[3], outer[4]]], origin)
    rows, cols = (
        np.floor((start + (np.arange(count) + 0.5) * side_px) / parent.side_px).astype(int)
        for start, count in ((row, valid.shape[0]), (col, valid.shape[1]))
    )
    # The last cell of a tile may reach over its border by less than a cell.
    if min(rows[0], cols[0]) < 0 or rows[-1] > parent.codes.shape[0] or cols[-1] > parent.codes.shape[1]:
        return None
    height, width = parent.codes.shape
    cut = parent.codes[np.ix_(np.minimum(rows, height - 1), np.minimum(cols, width - 1))]
    return np.where(valid, cut, 0).astype(np.uint8)


def _airports(tile: _Tile) -> list[tuple[Neighbour, tuple[float, float]]]:
    """Return the airports whose grounds may reach into the tile, with row and column of their points."""
    if tile.lon is None or tile.lat is None or tile.transform is None or tile.gsd_m is None:
        return []
    reach_km = (AIRFIELD_RADIUS_M + tile.half_m * math.sqrt(2)) / 1000
    found = []
    for airport in nearest("airport", tile.lon, tile.lat, count=8, within_km=reach_km):
        bearing = math.radians(airport.bearing_deg)
        ground = np.array([math.sin(bearing), math.cos(bearing)]) * airport.distance_km * 1000 / tile.gsd_m
        col, row = np.linalg.solve(image_to_ground(tile.transform), ground)
        found.append((airport, (tile.height / 2 + float(row), tile.width / 2 + float(col))))
    return found


def _airport_of_targets(
    evidence: Evidence, airports: Sequence[tuple[Neighbour, tuple[float, float]]]
) -> Neighbour | None:
    """Return the airport nearest to a target on dark ground; another one may be nearest to the tile."""
    distances = [
        (math.hypot(target.row - row, target.col - col), place)
        for target in evidence.targets
        if target.setting == "dark_ground"
        for place, (_, (row, col)) in enumerate(airports)
    ]
    return airports[min(distances)[1]][0] if distances else None


def _read(dataset: Path, tile: _Tile) -> NDArray[np.uint8]:
    path = dataset / tile.path
    mend = f"build {dataset} again"
    try:
        with rasterio.open(path) as file:
            pixels: NDArray[np.uint8] = file.read(1)
    except RasterioError as error:
        raise DatasetError(f"the tile {path} cannot be read ({error}): {mend}") from error
    if pixels.shape != (tile.height, tile.width) or pixels.dtype != np.uint8:
        raise DatasetError(f"the tile {path} is not the one in the catalog (size or type differs): {mend}")
    return pixels
