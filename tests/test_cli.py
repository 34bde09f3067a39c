"""The command line: exit status, one sentence for errors of the user, and nothing but JSON with `--json`."""

import errno
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fusar_klip import cli

WriteScene = Callable[..., Path]
Speckle = Callable[..., NDArray[np.uint16]]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from fusar_klip.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def assert_one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_help_is_quick_and_names_every_verb() -> None:
    run("--help")  # byte code and disk cache
    started = time.perf_counter()
    result = run("--help")
    seconds = time.perf_counter() - started
    assert result.returncode == 0
    verbs = "demo simulate build describe inspect pretrain refine benchmark review export models index search"
    for verb in [*verbs.split(), "caption", "ask", "serve"]:
        assert f" {verb} " in result.stdout
    assert seconds < 2  # the target is 0.5 s; this leaves room for a loaded machine


@pytest.mark.parametrize("verb", sorted(cli.LATER_VERBS))
def test_reserved_verbs_are_refused(verb: str) -> None:
    assert_one_sentence(run(verb, "x", "--to", "stac"), f"{verb} is not in this version")


def test_build_prints_json_only(write_scene: WriteScene, speckle: Speckle, tmp_path: Path) -> None:
    result = run("build", write_scene(speckle(64, 64)), "--out", tmp_path / "ds", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["tiles"] == 3
    assert result.stderr == ""


def test_build_keeps_good_scenes_and_exits_2(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    good = write_scene(speckle(64, 64))
    result = run("build", good, tmp_path / "missing.tif", "--out", tmp_path / "ds", "--json")
    assert result.returncode == 2
    assert json.loads(result.stdout)["failed"][0]["file"] == "missing.tif"
    assert "1 of 2 scenes failed, the others are kept: no such file" in result.stderr
    assert (tmp_path / "ds" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "nowhere.tif", "--out", "ds"], ["no such file or folder: nowhere.tif"]),
        (["build", "x.tif", "--out", "ds", "--set", "scene.bnad=VV"], ['did you mean "scene.band"?']),
        (["describe", "nowhere"], ["no data set at nowhere", "fusar-klip build"]),
        (["pretrain", "nowhere", "--out", "run"], ["no data set at nowhere"]),
        (["index", "nowhere", "--checkpoint", "run", "--out", "index"], ["nowhere"]),
        (["search", "nowhere", "ships"], ["nowhere", "fusar-klip index"]),
        (["search", "nowhere", "ships", "--bbox", "1,2,3"], ["--bbox takes W,S,E,N"]),
        (["benchmark", "nowhere", "--out", "results"], ["nowhere"]),
        (["simulate", "sim", "--platform", "Sentinel-9"], ["Sentinel-9", "Sentinel-1"]),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(run(*arguments), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_and_internal_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app_that_raises(error: Exception) -> Callable[[], None]:
        def app() -> None:
            raise error

        return app

    full = OSError(errno.ENOSPC, "No space left on device", "ds/tiles.parquet")
    for error, status, words in (
        (full, 2, "cannot write (ds/tiles.parquet): No space left on device"),
        (ModuleNotFoundError("No module named 'faiss'", name="faiss"), 2, 'pip install "fusar-klip[all]"'),
        (ZeroDivisionError("a bug"), 1, "internal error"),
    ):
        monkeypatch.setattr(cli, "app", app_that_raises(error))
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert exit_.value.code == status
        assert words in capsys.readouterr().err
