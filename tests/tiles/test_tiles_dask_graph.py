"""The same data set, byte for byte: killed and restarted builds, and a cluster that loses a worker."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.typing import NDArray
from rasterio.transform import Affine

from fusar_klip.errors import DatasetError
from fusar_klip.tiles import BuildSettings, build
from fusar_klip.tiles.dask_graph import BuildRunner
from fusar_klip.tiles.grid import Grid
from fusar_klip.tiles.plan import ScenePlan
from fusar_klip.tiles.scene.scene import open_scenes

WriteScene = Callable[..., Path]
Speckle = Callable[..., NDArray[np.uint16]]
QUICK = BuildSettings.model_validate(
    {"tiling": {"small_extent_m": 320.0, "min_pixels": 32}, "mapping": {"keep_float": True}}
)

BUILD_AND_DIE = """
import os, signal, sys
from pathlib import Path
from fusar_klip.tiles import BuildSettings, build
left, replace = int(sys.argv[1]), Path.replace
def replace_until_killed(path, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)
Path.replace = replace_until_killed
settings = BuildSettings.model_validate_json(sys.argv[3])
build([Path(p) for p in sys.argv[4:]], Path(sys.argv[2]), settings, workers=2)
"""


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def three_scenes(write_scene: WriteScene, speckle: Speckle) -> list[Path]:
    apart = Affine(10, 0, 480_000, 0, -10, 3_735_000)
    decibel = 20 * np.log10(speckle(150, 260, seed=2).astype(np.float32))
    tiled = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    return [
        write_scene(speckle(300, 200, seed=1), "first.tif", **tiled),
        write_scene(decibel - 80, "second.tif", transform=apart),
        write_scene((speckle(200, 200, seed=3) % 256).astype(np.uint8), "third.tif"),
    ]


@pytest.mark.slow
def test_a_build_killed_again_and_again_ends_as_an_undisturbed_one(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = three_scenes(write_scene, speckle)
    writes, replace = [0], Path.replace

    def count(path: Path, target: Path) -> Path:
        writes[0] += 1
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", count)
        build(scenes, tmp_path / "undisturbed", QUICK)
    random = np.random.default_rng(0)
    # Each run does what is left of the work; 0 to 2 files survive shortly before the end, or at the start.
    points = [*random.integers(0, writes[0] // 3, 4), 3, 2, 1, 0]
    for survived in points:
        arguments = [str(survived), str(tmp_path / "killed"), QUICK.model_dump_json(), *map(str, scenes)]
        ended = subprocess.run([sys.executable, "-c", BUILD_AND_DIE, *arguments], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert not (tmp_path / "killed" / "dataset.json").exists()
    assert (tmp_path / "killed" / ".build").is_dir()
    build(scenes, tmp_path / "killed", QUICK)
    assert all_bytes(tmp_path / "killed") == all_bytes(tmp_path / "undisturbed")


def test_what_a_killed_build_has_done_is_not_done_again(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = three_scenes(write_scene, speckle)
    (first,) = open_scenes(scenes[0], QUICK.scene)
    plan = ScenePlan.of(first, QUICK, tmp_path / "ds")
    plan.prepare()
    with BuildRunner(1) as runner:
        runner.run([plan])
    cut: list[str] = []

    def note(plan: ScenePlan, *_: object) -> dict[str, float]:
        cut.append(plan.scene.path.name)
        return real(plan, *_)  # type: ignore[arg-type]

    from fusar_klip.tiles import dask_graph as module

    real = module.write_large_tile
    monkeypatch.setattr(module, "write_large_tile", note)
    build(scenes, tmp_path / "ds", QUICK)
    assert set(cut) == {"second.tif", "third.tif"}
    build(scenes, tmp_path / "undisturbed", QUICK)
    assert all_bytes(tmp_path / "ds") == all_bytes(tmp_path / "undisturbed")


def test_state_of_other_settings_is_not_gone_on_with(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    (scene,) = open_scenes(write_scene(speckle(128, 128)), QUICK.scene)
    other = QUICK.model_copy(update={"mapping": QUICK.mapping.model_copy(update={"multiple": 9.0})})
    before = ScenePlan.of(scene, other, tmp_path / "ds")
    before.prepare()
    with BuildRunner(1) as runner:
        runner.run([before])
    build([scene.path], tmp_path / "ds", QUICK)
    build([scene.path], tmp_path / "undisturbed", QUICK)
    assert all_bytes(tmp_path / "ds") == all_bytes(tmp_path / "undisturbed")


def test_strips_are_whole_blocks_and_are_read_once(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusar_klip.tiles import plan as module
    from fusar_klip.tiles.scene.scene import AmplitudeReader

    monkeypatch.setattr(module, "_STRIP_BYTES", 64 << 10)
    source = write_scene(speckle(700, 300), tiled=True, blockxsize=64, blockysize=64)
    windows: list[tuple[int, int, int, int]] = []
    read = AmplitudeReader.read

    def note(self: AmplitudeReader, *window: int) -> NDArray[np.generic]:
        windows.append(window)  # type: ignore[arg-type]
        return read(self, *window)

    monkeypatch.setattr(AmplitudeReader, "read", note)
    build([source], tmp_path / "ds", QUICK)
    assert sorted(windows) == [(row, 0, min(64, 700 - row), 300) for row in range(0, 700, 64)]


def test_batches_keep_workers_busy_within_bounded_scratch(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    (scene,) = open_scenes(write_scene(speckle(64, 64)), QUICK.scene)
    few = ScenePlan.of(scene, QUICK, tmp_path)
    with BuildRunner(2) as runner:
        assert [len(batch) for batch in runner.batches([few] * 150)] == [64, 64, 22]
    many = ScenePlan(scene, QUICK, tmp_path, Grid(5000, 5000, 16, 16), 64, 8)
    with BuildRunner(2) as runner:
        assert [len(batch) for batch in runner.batches([many] * 3)] == [1, 1, 1]


@contextmanager
def two_workers(folder: Path) -> Iterator[tuple[LocalCluster, Client]]:
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
            local_directory=str(folder),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_makes_the_same_data_set(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    scenes = [
        write_scene(speckle(1500, 1500, seed=i), f"{i}.tif", tiled=True, blockxsize=128, blockysize=128)
        for i in range(2)
    ]
    bad = tmp_path / "bad.tif"
    bad.write_bytes(scenes[0].read_bytes()[: scenes[0].stat().st_size // 2])
    out = tmp_path / "cluster"
    with two_workers(tmp_path / "dask") as (cluster, client):
        pids = client.run(os.getpid)
        killed: list[int] = []

        def kill_one() -> None:
            while not list(out.glob("tiles/*/*.tif")):
                time.sleep(0.01)
            victim = next(iter(pids.values()))
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

        killer = threading.Thread(target=kill_one)
        killer.start()
        summary = build([*scenes, bad], out, QUICK, scheduler=cluster.scheduler_address)
        killer.join()
        assert killed
        assert set(client.run(os.getpid).values()) != set(pids.values())
    assert summary.scenes == 2
    assert [failure["file"] for failure in summary.failed] == ["bad.tif"]
    build([*scenes, bad], tmp_path / "local", QUICK, workers=2)
    assert all_bytes(out) == all_bytes(tmp_path / "local")


def test_no_scheduler_at_the_address(tmp_path: Path, write_scene: WriteScene, speckle: Speckle) -> None:
    with pytest.raises(DatasetError, match="start one with dask scheduler"):
        build([write_scene(speckle(64, 64))], tmp_path / "ds", QUICK, scheduler="nowhere")
