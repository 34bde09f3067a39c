"""Measures every kept tile of a data set, one tile pyramid at a time.

A first pass finds the levels of every scene from its largest tiles, a second one measures each pyramid: a
large tile
with all tiles inside it. Tiles that are not kept are read too, because the levels of a scene cannot be found
without its open sea, which screening drops. Memory holds a few pyramids per process. `describe` writes the
sentences of the measured tiles; `evidence_store` stores their evidence for prompts.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd

from fusar_klip.catalog import SCALES, Task, read_tiles
from fusar_klip.errors import DatasetError
from fusar_klip.geo.gazetteer import Neighbour, nearest
from fusar_klip.progress import track
from fusar_klip.texts.measure.evidence import Evidence
from fusar_klip.texts.measure.geography import Geography, look_up_geography
from fusar_klip.texts.measure.land_cover import (
    AIRFIELD_RADIUS_M,
    CellHistograms,
    SceneReference,
    cell_histograms,
    measure_cells,
    scene_reference,
)
from fusar_klip.texts.measure.measure_tile import ASSUMED_SPACING_M, image_to_ground
from fusar_klip.texts.measure.sentences import compose
from fusar_klip.texts.measure.tile_pyramid import (
    AdjacentTile,
    CatalogTile,
    PyramidTile,
    adjacent_tiles,
    measure_child_tile,
    measure_root_tile,
    offset_in,
    read_tile,
)

T = TypeVar("T")

MEASURE_VERSION = "measure-4"
"""Version of the measurements and of the sentences composed from them."""

_COLUMNS = (
    *("tile_id", "scene_id", "parent_id", "path", "height", "width"),
    *("gsd_m", "lon", "lat", "place", "country", "water_fraction", "kept"),
)
# Enough that no process waits for the next pyramid, few enough that results do not pile up in memory.
_PYRAMIDS_PER_WORKER = 4
_ALL_WATER = 0.99  # share of water by screening above which all cells of the tile count as water


@dataclass(frozen=True)
class MeasuredTile:
    """Measurements, geography and rule-based text of one tile.

    Attributes:
        tile: Its row of the catalog.
        evidence: Measurements of its pixels.
        geography: Places of the gazetteer; for targets at an airport, its airport is that one.
        task: The schema of its text.
        fields: The rule-based sentences by field, in the order of `catalog.FIELDS`.
        parent_id: The next larger tile, with whose text this one's has to agree; None if it is not kept.
    """

    tile: CatalogTile
    evidence: Evidence
    geography: Geography
    task: Task
    fields: dict[str, str]
    parent_id: str | None


def measure_dataset(
    dataset: Path, workers: int, *, done: frozenset[str] = frozenset()
) -> Iterator[list[MeasuredTile]]:
    """Measure every kept tile, one pyramid at a time: a tile without a kept parent, then all tiles inside it.

    Pyramids come in the order of the catalog, parents before their children, whatever the number of workers.

    Args:
        dataset: The data set's folder.
        workers: Processes that measure.
        done: Tiles that are measured already; a pyramid without other tiles is skipped.

    Raises:
        DatasetError: There is no finished data set, it holds no kept tile, or a tile cannot be read.
    """
    pyramids = _pyramids(_catalog_tiles(dataset))
    wanted = [pyramid for pyramid in pyramids if not done.issuperset(t.tile_id for t in pyramid if t.kept)]
    scenes = {pyramid[0].scene_id for pyramid in wanted}
    with _executor(min(workers, len(wanted))) as executor:
        pyramids = [pyramid for pyramid in pyramids if pyramid[0].scene_id in scenes]
        references = _references(dataset, pyramids, executor)
        roots: dict[str, list[CatalogTile]] = {}
        for pyramid in pyramids:
            roots.setdefault(pyramid[0].scene_id, []).append(pyramid[0])
        jobs: deque[Future[list[list[MeasuredTile]]]] = deque()
        try:
            for pyramid in track(wanted, "measuring"):
                scene_id = pyramid[0].scene_id
                adjacent = adjacent_tiles(pyramid[0], roots[scene_id])
                reference = references[scene_id]
                jobs.append(executor.submit(_measure_pyramid, dataset, pyramid, adjacent, reference))
                if len(jobs) >= _PYRAMIDS_PER_WORKER * workers:
                    yield from jobs.popleft().result()
            while jobs:
                yield from jobs.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)


def _catalog_tiles(dataset: Path) -> list[CatalogTile]:
    """Read all tiles, large before medium before small; at least one is kept."""
    catalog = read_tiles(dataset, (*_COLUMNS, "transform", "scale"))
    if not catalog["kept"].any():
        raise DatasetError(f"{dataset} holds no kept tile: build it from scenes with more valid pixels")
    order = {scale: place for place, scale in enumerate(SCALES)}
    catalog = catalog.assign(_place=catalog["scale"].map(order)).sort_values(["_place", "tile_id"])
    return [_tile(row) for row in cast(list[dict[str, Any]], catalog.to_dict("records"))]


def _tile(row: Mapping[str, Any]) -> CatalogTile:
    transform = row["transform"]
    known: dict[str, Any] = {key: None if pd.isna(row[key]) else row[key] for key in _COLUMNS}
    return CatalogTile(**known, transform=None if transform is None else tuple(map(float, transform)))


def _pyramids(tiles: Iterable[CatalogTile]) -> list[list[CatalogTile]]:
    """Group tiles with their parents; the first tile of a pyramid has no parent in the catalog."""
    return _grouped(tiles, lambda tile: (tile.tile_id, tile.parent_id))


def _grouped(items: Iterable[T], ids: Callable[[T], tuple[str, str | None]]) -> list[list[T]]:
    """Group items, parents before their children, by the first ancestor that is among them."""
    group_of: dict[str, list[T]] = {}
    groups = []
    for item in items:
        own, parent = ids(item)
        group = group_of.get(parent) if parent is not None else None
        if group is None:
            group = []
            groups.append(group)
        group.append(item)
        group_of[own] = group
    return groups


class _InProcess(Executor):
    """Runs a job in this process when it is submitted, for one worker."""

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


def _references(
    dataset: Path, pyramids: Iterable[Sequence[CatalogTile]], executor: Executor
) -> dict[str, SceneReference]:
    """Find the levels of each scene from its root tiles."""
    sums: dict[str, CellHistograms] = {}
    jobs = [(pyramid[0].scene_id, executor.submit(_histograms, dataset, pyramid)) for pyramid in pyramids]
    for scene_id, job in track(jobs, "reading the levels of scenes"):
        found = job.result()
        sums[scene_id] = sums[scene_id] + found if scene_id in sums else found
    return {scene_id: scene_reference(histograms) for scene_id, histograms in sums.items()}


def _histograms(dataset: Path, pyramid: Sequence[CatalogTile]) -> CellHistograms:
    """Count the cells of a root tile, and of its tiles that screening classified as all water or all land."""
    root = pyramid[0]
    cells = measure_cells(read_tile(dataset, root), root.gsd_m or ASSUMED_SPACING_M)
    water, land = (np.zeros(cells.valid.shape, bool) for _ in range(2))
    for tile in pyramid:
        offset = offset_in(root, tile)
        if tile.water_fraction is None or offset is None:
            continue
        ends = (offset[0] + tile.height, offset[1] + tile.width)
        window = tuple(
            slice(max(start, 0) // cells.side_px, max(end, 0) // cells.side_px)
            for start, end in zip(offset, ends, strict=True)
        )
        water[window] |= tile.water_fraction >= _ALL_WATER
        land[window] |= tile.water_fraction == 0
    return cell_histograms(cells, water & ~land, land & ~water)


def _needed(pyramid: Sequence[CatalogTile]) -> list[CatalogTile]:
    """Return the kept tiles of a pyramid and their parents, in its order."""
    needed: set[str] = set()
    for tile in reversed(pyramid):  # children before their parents
        if tile.kept or tile.tile_id in needed:
            needed |= {tile.tile_id} if tile.parent_id is None else {tile.tile_id, tile.parent_id}
    return [tile for tile in pyramid if tile.tile_id in needed]


def _measure_pyramid(
    dataset: Path, pyramid: list[CatalogTile], adjacent: Sequence[AdjacentTile], reference: SceneReference
) -> list[list[MeasuredTile]]:
    """Measure a root tile and all tiles inside it, and return the pyramids of those that are kept."""
    done: dict[str, PyramidTile] = {}
    measured = []
    for tile in _needed(pyramid):
        parent = done.get(tile.parent_id) if tile.parent_id is not None else None
        airports = _airports(tile)
        points = [rc for _, rc in airports]
        if parent is None:
            pyramid_tile = measure_root_tile(dataset, tile, adjacent, reference, points)
        else:
            pyramid_tile = measure_child_tile(dataset, tile, parent, reference, points)
        done[tile.tile_id] = pyramid_tile
        geography = look_up_geography(tile.lon, tile.lat, tile.half_m / 1000, tile.place, tile.country)
        if (airport := _airport_of_targets(pyramid_tile.evidence, airports)) is not None:
            geography = replace(geography, airport=airport)
        task, fields = compose(pyramid_tile.evidence, geography, parent.evidence if parent else None)
        parent_id = parent.tile.tile_id if parent and parent.tile.kept else None
        measured.append(MeasuredTile(tile, pyramid_tile.evidence, geography, task, fields, parent_id))
    return _grouped((m for m in measured if m.tile.kept), lambda m: (m.tile.tile_id, m.parent_id))


def _airports(tile: CatalogTile) -> list[tuple[Neighbour, tuple[float, float]]]:
    """Return the airports that may extend into the tile, with row and column of their reference points."""
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
    """Return the airport nearest to a target on dark ground; a different one may be nearest to the tile."""
    distances = [
        (math.hypot(target.row - row, target.col - col), place)
        for target in evidence.targets
        if target.setting == "dark_ground"
        for place, (_, (row, col)) in enumerate(airports)
    ]
    return airports[min(distances)[1]][0] if distances else None
