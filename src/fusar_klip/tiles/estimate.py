"""`fusar-klip build --dry-run`: estimates tiles, bytes and time from samples; writes nothing.

The grid gives the tiles that a scene can have. The share with enough valid pixels, their compressed size and
the time are measured: a few large tiles, distributed over the scene, are read, mapped, measured and encoded
in memory as in a build. Where the samples are the whole scene, the counts are exact. The time does not
include the disk; sparse regions that a build would drop count as dense.
"""

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusar_klip.catalog import SCALES, Scale
from fusar_klip.errors import SceneError
from fusar_klip.progress import track
from fusar_klip.tiles.dask_graph import gdal_environment
from fusar_klip.tiles.grid import GridTile, kept_tiles, valid_fractions
from fusar_klip.tiles.plan import ScenePlan
from fusar_klip.tiles.scene.radiometry import IDENTITY, AmplitudeHistogram, fit_mapping, to_levels
from fusar_klip.tiles.scene.scene import open_scenes
from fusar_klip.tiles.scene_metadata import read_scene_manifest
from fusar_klip.tiles.scene_statistics import SceneStatistics, no_data
from fusar_klip.tiles.screening.texture_features import tile_features
from fusar_klip.tiles.settings import BuildSettings
from fusar_klip.tiles.tile_writer import encode_tile

_SAMPLES = 9
_SAMPLE_BYTES = 256 << 20


@dataclass(frozen=True)
class SceneEstimate:
    """What is ahead for one scene.

    Attributes:
        scene_id: The scene.
        tiles: Expected tiles by scale.
        tiles_at_most: Tiles of the whole grid by scale, if all pixels are valid.
        tile_bytes: Expected size of the tiles on disk.
        scratch_bytes: Disk space that its build takes meanwhile.
        seconds: Expected time on the given number of workers.
    """

    scene_id: str
    tiles: dict[str, int]
    tiles_at_most: dict[str, int]
    tile_bytes: int
    scratch_bytes: int
    seconds: float


@dataclass(frozen=True)
class BuildEstimate:
    """What is ahead: sums over the scenes, each scene, and the scenes that cannot be built."""

    tiles: int
    tile_bytes: int
    scratch_bytes: int
    seconds: float
    workers: int
    free_bytes: int
    scenes: list[SceneEstimate]
    failed: list[dict[str, str]]


def estimate(
    scenes: Sequence[Path],
    out: Path,
    settings: BuildSettings | None = None,
    *,
    workers: int = 1,
    manifest: Path | None = None,
) -> BuildEstimate:
    """Tell what `build` with the same arguments has ahead of it, without writing anything.

    Args:
        scenes: As of `build`.
        out: As of `build`; asked for its free space only.
        settings: As of `build`.
        workers: As of `build`.
        manifest: As of `build`.

    Raises:
        SceneError: None of the scenes can be built.
    """
    settings = settings or BuildSettings()
    facts = read_scene_manifest(manifest) if manifest is not None else None
    found: dict[str, SceneEstimate] = {}
    failed: list[dict[str, str]] = []
    for path in track(list(dict.fromkeys(path.absolute() for path in scenes)), "Sampling"):
        try:
            for scene in open_scenes(path, settings.scene, facts):
                if scene.scene_id not in found:
                    found[scene.scene_id] = _estimate_scene(ScenePlan.of(scene, settings, out), workers)
        except SceneError as error:
            failed.append({"file": path.name, "reason": str(error).replace(f"{path.parent}/", "")})
    if not found:
        raise SceneError("; ".join(failure["reason"] for failure in failed) or "no scene was given")
    return BuildEstimate(
        tiles=sum(sum(scene.tiles.values()) for scene in found.values()),
        tile_bytes=sum(scene.tile_bytes for scene in found.values()),
        scratch_bytes=max(scene.scratch_bytes for scene in found.values()),
        seconds=sum(scene.seconds for scene in found.values()),
        workers=workers,
        free_bytes=_free_bytes(out),
        scenes=list(found.values()),
        failed=failed,
    )


def _estimate_scene(plan: ScenePlan, workers: int) -> SceneEstimate:
    grid, scene = plan.grid, plan.scene
    places = grid.large_tiles()
    block_bytes = grid.side("large") ** 2 * np.dtype(scene.dtype).itemsize
    count = max(1, min(_SAMPLES, len(places), _SAMPLE_BYTES // block_bytes))
    chosen = np.unique(np.linspace(0, len(places) - 1, count).round().astype(int))
    samples = [places[i] for i in chosen]
    started = time.perf_counter()
    with gdal_environment():
        blocks = _sample(plan, samples)
        statistics = _fit(plan, blocks, whole=len(samples) == len(places))
        kept: Counter[Scale] = Counter()
        size = 0
        for large, block in zip(samples, blocks, strict=True):
            tiles, encoded = _cut(plan, statistics, large, block)
            kept.update(tile.scale for tile in tiles)
            size += encoded
    share = len(places) / len(samples)
    at_most = Counter(tile.scale for large in places for tile in grid.family(large))
    expected = {scale: round(kept[scale] * share) for scale in SCALES}
    return SceneEstimate(
        scene_id=scene.scene_id,
        # At least the fullest small tile stands for the scene.
        tiles={scale: max(1, expected[scale]) for scale in SCALES},
        tiles_at_most={scale: at_most[scale] for scale in SCALES},
        tile_bytes=round(size * share),
        scratch_bytes=scene.height * scene.width * np.dtype(scene.dtype).itemsize,
        seconds=round((time.perf_counter() - started) * share / workers, 1),
    )


def _sample(plan: ScenePlan, samples: Sequence[GridTile]) -> list[NDArray[np.generic]]:
    """Read the amplitude of some large tiles; 0 where they overhang the scene."""
    blocks = []
    side = plan.grid.side("large")
    with plan.scene.reader() as reader:
        for large in samples:
            row, col = plan.grid.corner(large)
            height, width = min(side, plan.scene.height - row), min(side, plan.scene.width - col)
            block = np.zeros((side, side), plan.scene.dtype)
            block[:height, :width] = reader.read(row, col, height, width)
            blocks.append(block)
    return blocks


def _fit(plan: ScenePlan, blocks: Sequence[NDArray[np.generic]], *, whole: bool) -> SceneStatistics:
    scene = plan.scene
    histogram = AmplitudeHistogram.empty(scene.dtype)
    for block in blocks:
        histogram.add(block)
    if whole and histogram.count == 0:
        raise no_data(scene)
    unmapped = scene.eight_bit or histogram.count == 0
    mapping = IDENTITY if unmapped else fit_mapping(histogram, plan.settings.mapping)
    return SceneStatistics(mapping, mapping.lookup_table(scene.dtype), None, None)


def _cut(
    plan: ScenePlan, statistics: SceneStatistics, large: GridTile, block: NDArray[np.generic]
) -> tuple[list[GridTile], int]:
    """Do what a build does with one large tile, but for writing; return what is kept and its bytes."""
    levels = to_levels(block, statistics.mapping, statistics.lookup_table)
    fractions = valid_fractions(levels > 0, plan.grid, large)
    tiles = kept_tiles(fractions, plan.settings.tiling.min_valid_fraction)
    windows = [plan.grid.window(tile, large) for tile in tiles]
    if windows:
        tile_features(levels, windows, plan.settings.quality)
    size = 0
    for tile, (top, left, side) in zip(tiles, windows, strict=True):
        window = (slice(top, top + side), slice(left, left + side))
        size += len(encode_tile(levels[window], plan, statistics, tile))
        if plan.settings.mapping.keep_float:
            size += len(encode_tile(block[window].astype(np.float32), plan, statistics, tile))
    return tiles, size


def _free_bytes(out: Path) -> int:
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize
