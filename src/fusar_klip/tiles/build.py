"""Build a data set: scenes in; tiles, `tiles.parquet` and `dataset.json` out.

Each scene is read twice: once for its histogram (8-bit scenes skip that), and once large tile by large
tile, from which the medium and small tiles inside it are cut, so that memory holds one large tile per worker
whatever the size of the scene. A scene is in the catalog whole or not at all.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray

from fusar_klip import __version__
from fusar_klip.catalog import (
    SCALES,
    TILE_SCHEMA,
    Scale,
    Split,
    read_manifest,
    write_manifest,
    write_tiles,
)
from fusar_klip.errors import DatasetError, SceneError
from fusar_klip.files import write_bytes
from fusar_klip.progress import track
from fusar_klip.tiles.gazetteer import place_and_country
from fusar_klip.tiles.grid import (
    GridTile,
    kept_tiles,
    large_tiles,
    small_valid_fractions,
    tile_sizes,
)
from fusar_klip.tiles.radiometry import IDENTITY, Mapping, amplitude_statistics, fit_mapping
from fusar_klip.tiles.scene import Scene, crs_name, open_scene
from fusar_klip.tiles.settings import BuildSettings, MappingSettings
from fusar_klip.tiles.split import ground_groups, split_of_ground

FORMAT_VERSION = 1
_TIFF_BLOCK_PX = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildSummary:
    """What a build made: tiles by scale and split, and the scenes that failed with their reasons."""

    dataset: str
    scenes: int
    tiles: int
    by_scale: dict[str, int]
    by_split: dict[str, int]
    failed: list[dict[str, str]]


def build(
    scenes: Sequence[Path], out: Path, settings: BuildSettings | None = None, *, workers: int = 1
) -> BuildSummary:
    """Cut `scenes` into the data set `out`, or add them to the one that is there.

    Scenes that are in it already (same name and content) are left as they are. Where some scenes fail, the
    good ones are kept, and the others stand with their reason in `dataset.json` and in the summary.

    Args:
        scenes: Raster files.
        out: The data set's folder; made where it is missing.
        settings: How to read, map, cut and split.
        workers: Large tiles worked on at the same time, in threads.

    Raises:
        SceneError: No scene could be built; nothing was changed.
        DatasetError: `out` holds something else, or a data set with other settings.
        OSError: The disk is full; the data set is as it was.
    """
    settings = settings or BuildSettings()
    entries = {entry["scene_id"]: entry for entry in _existing(out, settings).get("scenes", [])}
    frames = [_read_catalog(out)] if entries else []
    built, failed = _build_missing(scenes, out, settings, set(entries), workers)
    for rows, entry in built:
        frames.append(rows)
        entries[entry["scene_id"]] = entry
    if not entries:
        reasons = list(failed.values()) or ["no scene was given: name at least one raster file"]
        raise SceneError("; ".join(reasons))

    tiles = pd.concat(frames, ignore_index=True)
    tiles = _with_splits(tiles[tiles["scene_id"].isin(entries)], settings)
    summary = BuildSummary(
        dataset=str(out),
        scenes=len(entries),
        tiles=len(tiles),
        by_scale=_counts(tiles["scale"], SCALES),
        by_split=_counts(tiles["split"], get_args(Split)),
        failed=[{"file": name, "reason": reason} for name, reason in sorted(failed.items())],
    )
    write_tiles(out, tiles)
    write_manifest(
        out,
        {
            "format_version": FORMAT_VERSION,
            "made_by": f"fusar-klip {__version__}",
            "settings": settings.model_dump(mode="json", exclude={"scene"}),
            **{key: value for key, value in asdict(summary).items() if key != "dataset"},
            "scenes": [entries[scene_id] for scene_id in sorted(entries)],
        },
    )
    return summary


def _build_missing(
    scenes: Sequence[Path], out: Path, settings: BuildSettings, known: Set[str], workers: int
) -> tuple[list[tuple[gpd.GeoDataFrame, dict[str, Any]]], dict[str, str]]:
    """Build the scenes that are not known; return their rows and entries, and the failures' reasons."""
    built: dict[str, tuple[gpd.GeoDataFrame, dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    for path in dict.fromkeys(scenes):
        try:
            scene = open_scene(path, settings.scene)
            if scene.scene_id in known or scene.scene_id in built:
                log.info("%s is in the data set already", path.name)
                continue
            built[scene.scene_id] = _build_scene(scene, out, settings, workers)
        except SceneError as error:
            log.info("%s", error)
            failed[path.name] = str(error)
    return list(built.values()), failed


def _read_catalog(out: Path) -> gpd.GeoDataFrame:
    return gpd.read_parquet(out / "tiles.parquet").drop(columns="bbox", errors="ignore")


def _existing(out: Path, settings: BuildSettings) -> dict[str, Any]:
    """Return the manifest of the data set at `out`, {} where there is none yet, or refuse to touch `out`."""
    if not out.exists():
        return {}
    if not out.is_dir():
        raise DatasetError(f"{out} is a file: give a folder for --out")
    if not (out / "dataset.json").exists():
        strangers = [p.name for p in out.iterdir() if p.name != "tiles" and not p.name.startswith(".")]
        if strangers and "tiles.parquet" not in strangers:
            raise DatasetError(f"{out} holds other files ({strangers[0]}): give an empty folder for --out")
        return {}
    manifest = read_manifest(out)
    if manifest.get("format_version", 0) > FORMAT_VERSION:
        raise DatasetError(
            f"{out} was made by a newer version ({manifest.get('made_by')}): upgrade fusar-klip"
        )
    ours = settings.model_dump(mode="json", exclude={"scene"})
    theirs = manifest["settings"]
    differing = sorted(
        f"{section}.{key}={value}"
        for section, values in theirs.items()
        for key, value in values.items()
        if ours.get(section, {}).get(key) != value
    )
    if differing:
        raise DatasetError(
            f"{out} was built with other settings ({', '.join(differing)}): use the same, or another --out"
        )
    return manifest


def _build_scene(
    scene: Scene, out: Path, settings: BuildSettings, workers: int
) -> tuple[gpd.GeoDataFrame, dict[str, Any]]:
    """Write the tiles of one scene; return its catalog rows, without splits, and its manifest entry."""
    sizes = tile_sizes(scene.gsd_m, settings.tiling)
    places = list(large_tiles(scene.height, scene.width, sizes["large"]))
    mapping = IDENTITY if scene.eight_bit else _fit(scene, places, sizes["large"], settings.mapping)
    folder = out / "tiles" / scene.scene_id
    shutil.rmtree(folder, ignore_errors=True)  # what a killed build left behind

    def cut_all(least: float) -> dict[GridTile, float]:
        with ThreadPoolExecutor(workers) as pool:
            parts = pool.map(
                lambda place: _cut_large_tile(scene, mapping, folder, place, sizes, least), places
            )
            return {
                t: f
                for part in track(parts, f"Cutting {scene.path.name}", len(places))
                for t, f in part.items()
            }

    kept = cut_all(settings.tiling.min_valid_fraction)
    if not kept:  # a scene far smaller than a tile, or nearly empty: its fullest small tile stands for it
        kept = cut_all(_largest_valid_fraction(scene, places, sizes))
    rows = _catalog_rows(scene, kept, sizes)
    entry = {
        "scene_id": scene.scene_id,
        "file": scene.path.name,
        "sha256": scene.digest,
        "settings": settings.scene.model_dump(mode="json"),
        "kind": scene.kind,
        "raster_band": scene.band_index,
        "crs": crs_name(scene.crs),
        "warped": scene.warped,
        "gsd_m": scene.gsd_m,
        "mapping": asdict(mapping),
        "tile_px": sizes,
        "tiles": _counts(rows["scale"], SCALES),
    }
    return rows, entry


def _fit(scene: Scene, places: Sequence[tuple[int, int]], side: int, settings: MappingSettings) -> Mapping:
    """Stream the scene once for its histogram, and fit its mapping."""
    statistics = amplitude_statistics(_blocks(scene, places, side))
    if statistics.count == 0:
        raise _no_data(scene)
    return fit_mapping(statistics, settings)


def _largest_valid_fraction(
    scene: Scene, places: Sequence[tuple[int, int]], sizes: dict[Scale, int]
) -> float:
    blocks = _blocks(scene, places, sizes["large"])
    largest = max(float(small_valid_fractions(block > 0, sizes["small"]).max()) for block in blocks)
    if largest == 0:
        raise _no_data(scene)
    return largest


def _no_data(scene: Scene) -> SceneError:
    return SceneError(f"every pixel of {scene.path.name} is no data: give a scene with an image in it")


def _blocks(scene: Scene, places: Sequence[tuple[int, int]], side: int) -> Iterator[NDArray[np.float32]]:
    with scene.reader() as reader:
        for row, col in track(places, f"Reading {scene.path.name}", len(places)):
            yield reader.amplitude(col * side, row * side, side)


def _cut_large_tile(
    scene: Scene,
    mapping: Mapping,
    folder: Path,
    place: tuple[int, int],
    sizes: dict[Scale, int],
    least: float,
) -> dict[GridTile, float]:
    """Read one large tile, write it and the tiles inside it; return those kept with their valid fractions."""
    (row, col), side = place, sizes["large"]
    with scene.reader() as reader:
        levels = mapping.apply(reader.amplitude(col * side, row * side, side))
    kept = kept_tiles(levels > 0, row, col, sizes["small"], least)
    for tile in kept:
        px = sizes[tile.scale]
        top, left = tile.row * px - row * side, tile.col * px - col * side
        name = f"{tile.tile_id(scene.scene_id)}.tif"
        content = _geotiff(
            levels[top : top + px, left : left + px], scene, mapping, tile.col * px, tile.row * px
        )
        write_bytes(folder / name, content)
    return kept


def _geotiff(levels: NDArray[np.uint8], scene: Scene, mapping: Mapping, col: int, row: int) -> bytes:
    """Encode a tile in memory, so that a full disk can only fail the plain write of its bytes."""
    height, width = levels.shape
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            height=height,
            width=width,
            count=1,
            dtype="uint8",
            crs=scene.crs,
            transform=scene.transform @ Affine.translation(col, row),
            nodata=0,
            tiled=True,
            blockxsize=_TIFF_BLOCK_PX,
            blockysize=_TIFF_BLOCK_PX,
            compress="deflate",
        ) as raster:
            raster.write(levels, 1)
            raster.update_tags(**mapping.tags())
        return bytes(memory.read())


def _catalog_rows(scene: Scene, kept: dict[GridTile, float], sizes: dict[Scale, int]) -> gpd.GeoDataFrame:
    tiles = list(kept)
    px = np.array([sizes[tile.scale] for tile in tiles])
    left, top = np.array([tile.col for tile in tiles]) * px, np.array([tile.row for tile in tiles]) * px
    lon, lat = scene.to_lonlat(left + px / 2, top + px / 2)
    gsd_m = scene.ground_spacing_m(left + px / 2, top + px / 2)
    ring_cols = np.stack([left, left + px, left + px, left, left], axis=1)
    ring_rows = np.stack([top, top, top + px, top + px, top], axis=1)
    footprints = shapely.polygons(np.stack(scene.to_lonlat(ring_cols, ring_rows), axis=-1))
    names = [place_and_country(*position) for position in zip(lon, lat, strict=True)]
    transforms = [
        list(scene.transform @ Affine.translation(*corner))[:6] for corner in zip(left, top, strict=True)
    ]
    columns: dict[str, Any] = {
        "tile_id": [tile.tile_id(scene.scene_id) for tile in tiles],
        "scene_id": scene.scene_id,
        "ground_id": None,
        "scale": [tile.scale for tile in tiles],
        "parent_id": [p.tile_id(scene.scene_id) if (p := tile.parent()) else None for tile in tiles],
        "path": [f"tiles/{scene.scene_id}/{tile.tile_id(scene.scene_id)}.tif" for tile in tiles],
        **asdict(scene.facts),
        "gsd_m": gsd_m,
        "extent_m": gsd_m * px,
        "width": px,
        "height": px,
        "crs": crs_name(scene.crs),
        "transform": transforms,
        "lon": lon,
        "lat": lat,
        "place": [place for place, _ in names],
        "country": [country for _, country in names],
        "scene_type": None,
        "landform": None,
        "split": None,
        "valid_fraction": list(kept.values()),
        "quality": None,
        "kept": True,
    }
    return gpd.GeoDataFrame(columns, geometry=footprints, crs="EPSG:4326")[[*TILE_SCHEMA.names, "geometry"]]


def _with_splits(tiles: gpd.GeoDataFrame, settings: BuildSettings) -> gpd.GeoDataFrame:
    """Fill ground_id and split of the whole catalog: a new scene can join groups that were apart before."""
    large = tiles[tiles["scale"] == "large"]
    groups = ground_groups(large["tile_id"].tolist(), large.geometry.to_numpy())
    parents = dict(zip(tiles["tile_id"], tiles["parent_id"], strict=True))

    def large_tile_of(tile_id: str) -> str:
        while tile_id not in groups:
            tile_id = parents[tile_id]
        return tile_id

    ground = [groups[large_tile_of(tile_id)] for tile_id in tiles["tile_id"]]
    return tiles.assign(ground_id=ground, split=[split_of_ground(g, settings.split) for g in ground])


def _counts(values: "pd.Series[str]", order: Sequence[str]) -> dict[str, int]:
    found = Counter(values)
    return {value: found[value] for value in order}
