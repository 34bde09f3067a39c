"""Build a data set: scenes in; tiles, `tiles.parquet`, the card and `dataset.json` out.

Each scene is decoded once: pass 1 (`streaming`) streams it strip by strip for its histogram and overview,
pass 2 (`cutting`) cuts it large tile by large tile, both as tasks of one Dask graph (`runner`), so that
memory holds a strip or a large tile per worker whatever the size of the scene. What follows from the catalog
as a whole (quality, groups, splits) is done here, at the end. A scene is in the catalog whole or not at all.
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
    """What a build made.

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
    """What a build has learnt of its scenes so far."""

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
    """Cut `scenes` into the data set `out`, or add them to the one that is there.

    Scenes that are in it already (same name and content) are left as they are. Where some scenes fail, the
    good ones are kept, and the others stand with their reason in `dataset.json` and in the summary. A build
    that was killed goes on where it was when it is called again in the same way.

    Args:
        scenes: Raster files, or folders and archives of products.
        out: The data set's folder; made where it is missing.
        settings: How to read, map, cut, screen and split.
        workers: Strips or large tiles worked on at the same time, in threads.
        scheduler: Address of a Dask scheduler whose workers do the work instead. They see scenes and data
            set under the same paths: a shared file system.
        manifest: CSV or STAC item collection with facts of the scenes.

    Raises:
        SceneError: No scene could be built; nothing was changed.
        DatasetError: `out` holds something else, or a data set with other settings; another build works on
            it; or there is no cluster.
        SettingsError: A file that the settings name cannot be read.
        OSError: The disk is full; the data set is as it was.
    """
    settings, out = settings or BuildSettings(), out.absolute()
    facts = read_scene_manifest(manifest) if manifest is not None else None
    if settings.quality.labels is not None:  # used at the very end, but its mistakes are told now
        read_labels(settings.quality.labels)
    progress = _Progress()
    with _held(out), BuildRunner(workers, scheduler) as runner:
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
def _held(out: Path) -> Iterator[None]:
    """Keep other builds out of the data set: of two at the same time, one would lose the other's scenes.

    The folder itself is locked, so that no file is left behind, and the lock ends with the process. Where the
    file system cannot lock folders (NFS), nobody is kept out.

    Raises:
        DatasetError: Another build works on it.
    """
    if out.exists() and not out.is_dir():
        yield  # `_existing` has a sentence for it
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
                    f"another build works on {out}: wait until it has ended, and run this one again"
                ) from None
        yield
    finally:
        if made:
            with suppress(OSError):  # only an empty folder goes
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
    files: list[Path] = []  # of all scenes, by which the manifest may name them
    # A cluster's workers have their own working folder; no file of the data set tells the place of another.
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
    except OSError:  # most likely a full disk, which the scratch of a dead build should not keep full
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
    """Join old and new scenes into the catalog; the manifest goes last, and then the scenes' state."""
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
    for folder in (out, out / "screening"):  # left by workers that were killed
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
    """Return the manifest of the data set at `out`, {} where there is none yet, or refuse to touch `out`."""
    if not out.exists():
        return {}
    if not out.is_dir():
        raise DatasetError(f"{out} is a file: give a folder for --out")
    if not (out / "dataset.json").exists():
        ours = ("tiles", "screening", "tiles.parquet", "dataset.md", "dataset.png")
        strangers = [p.name for p in out.iterdir() if p.name not in ours and not p.name.startswith(".")]
        if strangers:
            raise DatasetError(f"{out} holds other files ({strangers[0]}): give an empty folder for --out")
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
    """Fill ground_id and split of the whole catalog: a new scene can join groups that were apart before."""
    large = tiles[tiles["scale"] == "large"]
    groups = ground_groups(large["tile_id"].tolist(), large["scene_id"].tolist(), large.geometry.to_numpy())
    parents = dict(zip(tiles["tile_id"], tiles["parent_id"], strict=True))

    def large_tile_of(tile_id: str) -> str:
        while tile_id not in groups:
            tile_id = parents[tile_id]
        return tile_id

    ground = [groups[large_tile_of(tile_id)] for tile_id in tiles["tile_id"]]
    return tiles.assign(ground_id=ground, split=[split_of_ground(g, settings.split) for g in ground])
