"""The end of a scene's build: its rows for the catalog, its entry for the manifest, its picture."""

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
from affine import Affine
from numpy.typing import NDArray

from fusar_klip.catalog import FEATURES, SCALES, TILE_SCHEMA
from fusar_klip.files import replaced, write_json
from fusar_klip.geo.gazetteer import place_and_country
from fusar_klip.tiles.card.screening_map import save_map
from fusar_klip.tiles.footprints import footprints
from fusar_klip.tiles.grid import GridTile
from fusar_klip.tiles.plan import ScenePlan, Stopwatch, section_identity
from fusar_klip.tiles.scene.scene import crs_name
from fusar_klip.tiles.scene_statistics import SceneStatistics
from fusar_klip.tiles.screening.landform import classify
from fusar_klip.tiles.tile_writer import float_path, recorded_tiles, remove_unlisted_files


def finish_scene(plan: ScenePlan, statistics: SceneStatistics) -> dict[str, float]:
    """Leave rows and entry of a scene whose large tiles are all cut, and remove the rest of its state.

    Returns:
        Processor seconds by stage.

    Raises:
        OSError: The disk is full.
    """
    watch = Stopwatch()
    if plan.entry.exists():
        return {}
    with watch.stage("list"):
        listed = recorded_tiles(plan, statistics)
        tiles = [GridTile(tile["scale"], tile["row"], tile["col"]) for tile in listed]
        rows = _rows(plan, tiles, listed)
        files = [plan.dataset / path for path in rows["path"]]
        if plan.settings.mapping.keep_float:
            files += [float_path(path) for path in files]
        remove_unlisted_files(plan, [path.name for path in files])
        if statistics.screening is not None and statistics.overview is not None:
            dense = [tile for tile, row in zip(tiles, listed, strict=True) if row["dense"]]
            windows = [
                (*plan.grid.corner(t), plan.grid.side(t.scale), plan.grid.side(t.scale)) for t in dense
            ]
            picture = plan.dataset / "screening" / f"{plan.scene.scene_id}.png"
            save_map(picture, statistics.overview, statistics.screening, windows, title=plan.scene.path.name)
        with replaced(plan.rows) as partial:
            rows.to_parquet(partial)
    write_json(plan.entry, _entry(plan, statistics, tiles))
    shutil.rmtree(plan.scratch.folder, ignore_errors=True)
    return dict(watch.seconds)


def _rows(plan: ScenePlan, tiles: Sequence[GridTile], listed: Sequence[dict[str, Any]]) -> gpd.GeoDataFrame:
    """Return the catalog's rows of a scene, but for what follows from the catalog as a whole."""
    scene, grid, facts = plan.scene, plan.grid, asdict(plan.scene.facts)
    px = np.array([grid.side(tile.scale) for tile in tiles], np.int64)
    corners = np.array([grid.corner(tile) for tile in tiles], np.int64).reshape(-1, 2)
    top, left = corners[:, 0], corners[:, 1]
    lon, lat, gsd_m, areas, names = _on_the_ground(plan, top, left, px)
    ids = [tile.tile_id(scene.scene_id) for tile in tiles]
    columns: dict[str, Any] = {
        "tile_id": ids,
        "scene_id": scene.scene_id,
        "ground_id": "",
        "scale": [tile.scale for tile in tiles],
        "parent_id": [p.tile_id(scene.scene_id) if (p := tile.parent()) else None for tile in tiles],
        "path": [f"tiles/{scene.scene_id}/{tile_id}.tif" for tile_id in ids],
        **facts,
        "gsd_m": gsd_m,
        "extent_m": gsd_m * px,
        "width": px,
        "height": px,
        "crs": crs_name(scene.crs) if scene.crs is not None else None,
        "transform": [
            list(scene.transform @ Affine.translation(int(c), int(r)))[:6]
            for r, c in zip(top, left, strict=True)
        ],
        "lon": lon,
        "lat": lat,
        "place": [facts["place"] or place for place, _ in names],
        "country": [facts["country"] or country for _, country in names],
        "landform": None,
        "split": "",
        **{
            name: [tile[name] for tile in listed]
            for name in ("valid_fraction", "density", "water_fraction", "dense", *FEATURES)
        },
        "quality": None,
        "kept": True,
    }
    typed = {
        field.name: pa.array(columns[field.name], field.type, from_pandas=True).to_pandas()
        if isinstance(columns[field.name], list | np.ndarray)
        else columns[field.name]
        for field in TILE_SCHEMA
    }
    rows = gpd.GeoDataFrame(typed, geometry=areas, crs="EPSG:4326", index=range(len(tiles)))
    return classify(rows) if len(rows) else rows


def _on_the_ground(
    plan: ScenePlan, top: NDArray[np.int64], left: NDArray[np.int64], px: NDArray[np.int64]
) -> tuple[Any, Any, NDArray[np.float64], NDArray[np.object_], list[tuple[str | None, str | None]]]:
    """Return lon, lat, gsd_m, footprints, and (place, country) of tiles; null but for gsd_m without a CRS."""
    scene, none = plan.scene, np.full(len(px), None, object)
    if scene.crs is None or len(px) == 0:
        return none, none, np.full(len(px), scene.gsd_m), none, [(None, None)] * len(px)
    lon, lat = scene.to_lonlat(left + px / 2, top + px / 2)
    gsd_m = scene.ground_spacing_m(left + px / 2, top + px / 2)
    ring_cols = np.stack([left, left + px, left + px, left], axis=1)
    ring_rows = np.stack([top, top, top + px, top + px], axis=1)
    areas = footprints(*scene.to_lonlat(ring_cols, ring_rows))
    names = [place_and_country(float(x), float(y)) for x, y in zip(lon, lat, strict=True)]
    return lon, lat, gsd_m, areas, names


def _entry(plan: ScenePlan, statistics: SceneStatistics, tiles: Sequence[GridTile]) -> dict[str, Any]:
    scene = plan.scene
    return {
        "scene_id": scene.scene_id,
        "file": scene.path.name,
        "sha256": scene.digest,
        "settings": section_identity(plan.settings.scene),
        "kind": scene.kind,
        "raster_band": scene.band_index,
        "crs": crs_name(scene.crs) if scene.crs is not None else None,
        "geocoding": asdict(scene.geocoding) if scene.geocoding is not None else None,
        "gsd_m": scene.gsd_m,
        "mapping": asdict(statistics.mapping),
        "tile_px": {scale: plan.grid.side(scale) for scale in SCALES},
        "step_px": {scale: plan.grid.step(scale) for scale in SCALES},
        "tiles": counts((tile.scale for tile in tiles), SCALES),
    }


def counts(values: Iterable[str], order: Sequence[str]) -> dict[str, int]:
    """Count `values`, in the given order and with zeros."""
    found = Counter(values)
    return {value: found[value] for value in order}
