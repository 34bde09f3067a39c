"""Pass 2 of a build: writes the GeoTIFFs, features and record of one large tile at a time.

A tile is compressed once, in memory, and written under its final name only when it is complete. The record of
a large tile is written after its tiles: an interrupted build resumes after the last record.
"""

import math
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from fusar_klip.files import read_json, write_bytes, write_json
from fusar_klip.tiles.grid import GridTile, kept_tiles, valid_fractions, with_ancestors
from fusar_klip.tiles.plan import ScenePlan, Stopwatch
from fusar_klip.tiles.scene.radiometry import to_levels
from fusar_klip.tiles.scene_statistics import SceneStatistics
from fusar_klip.tiles.screening.texture_features import tile_features

_TIFF_BLOCK_PX = 256


def write_large_tile(
    plan: ScenePlan, statistics: SceneStatistics, large: GridTile, least: float | None = None
) -> dict[str, float]:
    """Write a large tile and the tiles inside it that are kept, then their record, unless it exists.

    Args:
        plan: The scene's plan; pass 1 has been over all its strips.
        statistics: Of the whole scene, from pass 1.
        large: The tile.
        least: Least share of valid pixels, in place of that of the settings; an existing record is then
            replaced.

    Returns:
        Processor seconds by stage.

    Raises:
        OSError: The disk is full.
    """
    record = plan.record(large)
    if least is None and record.exists():
        return {}
    watch = Stopwatch()
    grid, scene_id = plan.grid, plan.scene.scene_id
    with watch.stage("scratch"):
        amplitude = plan.scratch.read(*grid.corner(large), grid.side("large"))
    with watch.stage("map"):
        levels = to_levels(amplitude, statistics.mapping, statistics.lookup_table)
        fractions = valid_fractions(levels > 0, grid, large)
    chosen = kept_tiles(fractions, plan.settings.tiling.min_valid_fraction if least is None else least)
    regions = {tile: _region(plan, statistics, tile) for tile in chosen}
    if plan.settings.screening.mode == "drop":
        chosen = with_ancestors(fractions, {tile for tile in chosen if regions[tile]["dense"]})
    windows = [grid.window(tile, large) for tile in chosen]
    with watch.stage("features"):
        features = tile_features(levels, windows, plan.settings.quality) if windows else []
    for tile, (top, left, side) in zip(chosen, windows, strict=True):
        path = plan.tiles / f"{tile.tile_id(scene_id)}.tif"
        window = (slice(top, top + side), slice(left, left + side))
        with watch.stage("encode"):
            content = encode_tile(levels[window], plan, statistics, tile)
        with watch.stage("write"):
            write_bytes(path, content)
        if plan.settings.mapping.keep_float:
            content = encode_tile(amplitude[window].astype(np.float32), plan, statistics, tile)
            write_bytes(float_path(path), content)
    listed = [
        {"row": tile.row, "col": tile.col, "scale": tile.scale, "valid_fraction": fractions[tile]}
        | regions[tile]
        | {name: _finite(value) for name, value in measured.items()}
        for tile, measured in zip(chosen, features, strict=True)
    ]
    with watch.stage("write"):
        write_json(record, {"fullest": max(fractions.values()), "tiles": listed})
    return dict(watch.seconds)


def recorded_tiles(plan: ScenePlan, statistics: SceneStatistics) -> list[dict[str, Any]]:
    """Return what the records list of each tile: its place, valid_fraction, what `_region` tells, features.

    Where no tile has enough valid pixels, because the scene is far smaller than a tile or nearly empty, its
    fullest small tiles stand for it.
    """
    places = plan.grid.large_tiles()
    records: list[dict[str, Any]] = [read_json(plan.record(large)) for large in places]
    if max(record["fullest"] for record in records) < plan.settings.tiling.min_valid_fraction:
        fullest = max(record["fullest"] for record in records)
        for i, large in enumerate(places):
            if records[i]["fullest"] == fullest:
                write_large_tile(plan, statistics, large, fullest)
                records[i] = read_json(plan.record(large))
    return [tile for record in records for tile in record["tiles"]]


def float_path(tile: Path) -> Path:
    """Return where the float32 amplitude of a tile lies, if it is kept: TILE_ID.float.tif, beside it."""
    return tile.with_name(f"{tile.stem}.float.tif")


def _region(plan: ScenePlan, statistics: SceneStatistics, tile: GridTile) -> dict[str, Any]:
    """Return density, water_fraction and dense of a tile; null where regions are not screened."""
    if statistics.screening is None:
        return {"density": None, "water_fraction": None, "dense": None}
    side = plan.grid.side(tile.scale)
    window = (*plan.grid.corner(tile), side, side)
    return {
        "density": _finite(statistics.screening.density_of(*window)),
        "water_fraction": statistics.screening.water_fraction_of(*window),
        "dense": bool(statistics.screening.dense(*window)),
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def encode_tile(
    pixels: NDArray[np.generic], plan: ScenePlan, statistics: SceneStatistics, tile: GridTile
) -> bytes:
    """Encode a tile as GeoTIFF in memory, so that a full disk can only fail the plain write of its bytes.

    Args:
        pixels: (side, side) uint8 levels or float32 amplitude; 0 = no data.
        plan: The scene's plan.
        statistics: The scene's mapping, for the tags.
        tile: Its place in the grid.
    """
    scene = plan.scene
    row, col = plan.grid.corner(tile)
    with rasterio.MemoryFile() as memory, warnings.catch_warnings():
        # Without a CRS, GDAL takes a spacing of 1 at the origin for no transform.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(
            driver="GTiff",
            height=pixels.shape[0],
            width=pixels.shape[1],
            count=1,
            dtype=pixels.dtype,
            crs=None if scene.crs is None else _gdal_crs(scene.crs.to_wkt()),
            transform=scene.transform @ Affine.translation(col, row),
            nodata=0,
            tiled=True,
            blockxsize=_TIFF_BLOCK_PX,
            blockysize=_TIFF_BLOCK_PX,
            compress="deflate",
            **({"predictor": 3} if pixels.dtype == np.float32 else {}),
        ) as raster:
            raster.write(pixels, 1)
            raster.update_tags(**_tags(plan, statistics))
        return bytes(memory.read())


@cache
def _gdal_crs(wkt: str) -> rasterio.CRS:
    return rasterio.CRS.from_wkt(wkt)


def _tags(plan: ScenePlan, statistics: SceneStatistics) -> dict[str, str]:
    """Return the tags that describe the scene in every tile."""
    scene = plan.scene
    facts = {"PLATFORM": scene.facts.platform, "POLARIZATION": scene.facts.polarization}
    return {
        "SCENE_ID": scene.scene_id,
        **{key: value for key, value in facts.items() if value},
        **_geocoding_tags(scene.geocoding),
        **statistics.mapping.tags(),
    }


def _geocoding_tags(geocoding: Any) -> dict[str, str]:
    if geocoding is None:
        return {}
    return {
        "GEOCODING": geocoding.method,
        "TERRAIN_CORRECTED": "yes" if geocoding.terrain_corrected else "no",
    }


def remove_unlisted_files(plan: ScenePlan, names: Sequence[str]) -> None:
    """Remove files that are not among `names` from the scene's folder of tiles: crashed workers left them."""
    wanted = set(names)
    for path in plan.tiles.iterdir() if plan.tiles.is_dir() else ():
        if path.name not in wanted:
            path.unlink(missing_ok=True)
