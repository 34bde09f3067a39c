"""Builds a data set from scenes: tiles, `tiles.parquet`, the data card and `dataset.json`.

Each scene is decoded once. Pass 1 (`scene_statistics.py`) streams it strip by strip for its histogram and
overview; pass 2 (`tile_writer.py`) writes it large tile by large tile. Both are tasks of one Dask graph
(`dask_graph.py`), so memory holds a strip or a large tile per worker, whatever the size of the scene. This
module computes at the end what depends on the whole catalog (quality, groups, splits). A scene is in the
catalog completely or not at all.
"""

import fcntl
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import geopandas as gpd
import pandas as pd

from fusar_klip import __version__
from fusar_klip.catalog import (
    FORMAT_VERSION,
    SCALES,
    Split,
    read_footprints,
    read_manifest,
    write_manifest,
    write_tiles,
)
from fusar_klip.errors import DatasetError, SceneError
from fusar_klip.files import read_json
from fusar_klip.tiles.card.data_card import write_card
from fusar_klip.tiles.catalog_rows import counts
from fusar_klip.tiles.dask_graph import BuildRunner
from fusar_klip.tiles.plan import ScenePlan, settings_identity
from fusar_klip.tiles.scene.scene import open_scenes
from fusar_klip.tiles.scene_metadata import SceneManifest, read_scene_manifest
from fusar_klip.tiles.screening.quality import classify_quality, read_labels
from fusar_klip.tiles.settings import BuildSettings
from fusar_klip.tiles.split import ground_groups, split_of_ground

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildSummary:
    """The result of a build.

    Attributes:
        dataset: The data set's folder.
        scenes: Scenes in it.
        tiles: Tiles in it.
        kept: Tiles of good quality in dense regions.
        by_scale: Tiles by scale.
        by_split: Tiles by split.
        failed: Scenes that failed in this build, {"file": ..., "reason": ...}.
        seconds: Processor seconds of this build by stage, over all workers.
    """

    dataset: str
    scenes: int
    tiles: int
    kept: int
    by_scale: dict[str, int]
    by_split: dict[str, int]
    failed: list[dict[str, str]]
    seconds: dict[str, float]


@dataclass
class _Progress:
    """The state of a build: finished and failed scenes, and processor seconds."""

    built: dict[str, ScenePlan] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)

    def fail(self, path: Path, reason: str) -> None:
        log.info("%s", reason)
        self.failed.append({"file": path.name, "reason": reason})


def build(
    scenes: Sequence[Path],
    out: Path,
    settings: BuildSettings | None = None,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    manifest: Path | None = None,
) -> BuildSummary:
    """Cut `scenes` into the data set `out`, or add them to an existing one.

    Scenes that it already contains (same name and content) are not changed. Where some scenes fail, the good
    ones are kept, and the others are listed with the reason in `dataset.json` and in the summary. An
    interrupted build resumes when it is called again with the same arguments.

    Args:
        scenes: Raster files, or folders and archives of products.
        out: The data set's folder; created where it is missing.
        settings: Settings of reading, mapping, tiling, screening and splitting.
        workers: Strips or large tiles processed in parallel, in threads.
        scheduler: Address of a Dask scheduler whose workers are used instead. They need scenes and data set
            under the same paths: a shared file system.
        manifest: CSV or STAC item collection with scene metadata.

    Raises:
        SceneError: No scene could be built; nothing is changed.
        DatasetError: `out` contains other files, or a data set with other settings; another build writes to
            it; or there is no cluster.
        SettingsError: A file named in the settings cannot be read.
        OSError: The disk is full; the data set is unchanged.
    """
    settings, out = settings or BuildSettings(), out.absolute()
    facts = read_scene_manifest(manifest) if manifest is not None else None
    if settings.quality.labels is not None:  # used at the end, but checked now
        read_labels(settings.quality.labels)
    progress = _Progress()
    with _locked(out), BuildRunner(workers, scheduler) as runner:
        before = _existing(out, settings)
        known = {entry["scene_id"]: entry for entry in before.get("scenes", [])}
        plans = _plans(scenes, out, settings, facts, set(known), progress)
        for batch in runner.batches(plans):
            _run(runner, batch, progress)
        if not known and not progress.built:
            reasons = [failure["reason"] for failure in progress.failed]
            raise SceneError("; ".join(reasons or ["no scene was given: name at least one raster file"]))
        given = {path.name for path in scenes}
        failed = [failure for failure in before.get("failed", []) if failure["file"] not in given]
        return _publish(out, settings, known, failed, progress)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lock the data set: of two builds at the same time, one would lose the other's scenes.

    The folder itself is locked, so no lock file is needed, and the lock ends with the process. File systems
    that cannot lock folders (NFS) are not protected.

    Raises:
        DatasetError: Another build works on it.
    """
    if out.exists() and not out.is_dir():
        yield  # `_existing` raises the error
        return
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DatasetError(
                    f"another build writes to {out}: wait until it has ended, and run this one again"
                ) from None
        yield
    finally:
        if made:
            with suppress(OSError):  # only an empty folder is removed
                out.rmdir()
        os.close(folder)


def _plans(
    scenes: Sequence[Path],
    out: Path,
    settings: BuildSettings,
    facts: SceneManifest | None,
    known: set[str],
    progress: _Progress,
) -> Iterator[ScenePlan]:
    """Open scene after scene; yield the plans of those that are not in the data set yet."""
    seen = set(known)
    files: list[Path] = []  # of all scenes, which the manifest may list
    # The workers of a cluster have other working folders, so they need absolute paths.
    for path in dict.fromkeys(path.absolute() for path in scenes):
        try:
            opened = open_scenes(path, settings.scene, facts)
        except SceneError as error:
            progress.fail(path, str(error).replace(f"{path.parent}/", ""))
            continue
        finally:
            files.append(path)
        for scene in opened:
            files += scene.source.files
            if scene.scene_id in seen:
                log.info("%s is in the data set already", scene.scene_id)
                continue
            seen.add(scene.scene_id)
            try:
                plan = ScenePlan.of(scene, settings, out)
            except SceneError as error:
                progress.fail(path, f"{scene.path.name}: {error}")
                continue
            plan.prepare()
            yield plan
    if facts is not None and (unused := facts.unused(files)):
        log.warning("%s lists files that this build was not given: %s", facts.path.name, ", ".join(unused))


def _run(runner: BuildRunner, batch: Sequence[ScenePlan], progress: _Progress) -> None:
    try:
        outcomes = runner.run(batch)
    except OSError:  # most likely a full disk: free the scratch space
        for plan in batch:
            shutil.rmtree(plan.scratch.folder, ignore_errors=True)
        raise
    for plan, outcome in zip(batch, outcomes, strict=True):
        progress.seconds.update(outcome.seconds)
        if outcome.failure is not None:
            progress.fail(plan.scene.path, outcome.failure)
        else:
            progress.built[plan.scene.scene_id] = plan


def _publish(
    out: Path,
    settings: BuildSettings,
    known: dict[str, dict[str, Any]],
    failed_before: list[dict[str, str]],
    progress: _Progress,
) -> BuildSummary:
    """Write the catalog of old and new scenes, then the manifest; then remove the scenes' state."""
    new = [progress.built[scene_id] for scene_id in sorted(progress.built)]
    entries = known | {plan.scene.scene_id: read_json(plan.entry) for plan in new}
    frames = [gpd.read_parquet(plan.rows) for plan in new]
    if known:
        before = read_footprints(out)
        frames.append(before[before["scene_id"].isin(known)])
    tiles = pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)
    tiles = tiles.sort_values("tile_id", ignore_index=True)
    if len(tiles):
        quality, good = classify_quality(tiles, settings.quality)
        dense = tiles["dense"].astype("boolean").fillna(True).astype(bool)
        tiles = _with_splits(tiles.assign(quality=quality, kept=good & dense), settings)
    summary = BuildSummary(
        dataset=str(out),
        scenes=len(entries),
        tiles=len(tiles),
        kept=int(tiles["kept"].sum()),
        by_scale=counts(tiles["scale"], SCALES),
        by_split=counts(tiles["split"], get_args(Split)),
        failed=_sorted(progress.failed),
        seconds={stage: round(seconds, 3) for stage, seconds in sorted(progress.seconds.items())},
    )
    manifest = {
        "format_version": FORMAT_VERSION,
        "made_by": f"fusar-klip {__version__}",
        "settings": settings_identity(settings),
        **{key: value for key, value in asdict(summary).items() if key not in ("dataset", "seconds")},
        "failed": _sorted(failed_before + progress.failed),
        "scenes": [entries[scene_id] for scene_id in sorted(entries)],
    }
    write_tiles(out, tiles)
    write_card(out, tiles, manifest)
    for folder in (out, out / "screening"):  # left by crashed workers
        for partial in folder.glob(".*.partial"):
            partial.unlink(missing_ok=True)
    write_manifest(out, manifest)
    for scene_id in entries:
        shutil.rmtree(out / ".build" / scene_id, ignore_errors=True)
    if (out / ".build").is_dir() and not any((out / ".build").iterdir()):
        (out / ".build").rmdir()
    return summary


def _sorted(failed: list[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(failed, key=lambda failure: (failure["file"], failure["reason"]))


def _existing(out: Path, settings: BuildSettings) -> dict[str, Any]:
    """Return the manifest of the data set at `out`, or {} where there is none; refuse other folders."""
    if not out.exists():
        return {}
    if not out.is_dir():
        raise DatasetError(f"{out} is a file: give a folder for --out")
    if not (out / "dataset.json").exists():
        ours = ("tiles", "screening", "tiles.parquet", "dataset.md", "dataset.png")
        strangers = [p.name for p in out.iterdir() if p.name not in ours and not p.name.startswith(".")]
        if strangers:
            raise DatasetError(f"{out} contains other files ({strangers[0]}): give an empty folder for --out")
        return {}
    manifest = read_manifest(out)
    ours_now, theirs = settings_identity(settings), manifest.get("settings")
    if not isinstance(theirs, dict):
        raise DatasetError(f"{out / 'dataset.json'} has no settings: build the data set again")
    differing = sorted(
        f"{section}.{key}={value}"
        for section, values in theirs.items()
        for key, value in values.items()
        if ours_now.get(section, {}).get(key) != value
    )
    if differing:
        raise DatasetError(
            f"{out} was built with other settings ({', '.join(differing)}): use the same, or another --out"
        )
    return manifest


def _with_splits(tiles: gpd.GeoDataFrame, settings: BuildSettings) -> gpd.GeoDataFrame:
    """Fill ground_id and split of the whole catalog: a new scene can connect groups that were separate."""
    large = tiles[tiles["scale"] == "large"]
    groups = ground_groups(large["tile_id"].tolist(), large["scene_id"].tolist(), large.geometry.to_numpy())
    parents = dict(zip(tiles["tile_id"], tiles["parent_id"], strict=True))

    def large_tile_of(tile_id: str) -> str:
        while tile_id not in groups:
            tile_id = parents[tile_id]
        return tile_id

    ground = [groups[large_tile_of(tile_id)] for tile_id in tiles["tile_id"]]
    return tiles.assign(ground_id=ground, split=[split_of_ground(g, settings.split) for g in ground])
