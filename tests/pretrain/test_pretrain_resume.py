"""Resumed = uninterrupted, to the bit; and what may be resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusar_klip import catalog
from fusar_klip.errors import CheckpointError, SettingsError
from fusar_klip.models import load
from fusar_klip.pretrain import PretrainSettings, PretrainSummary, pretrain
from fusar_klip.pretrain.learner import Learner

MakeSettings = Callable[..., PretrainSettings]

# With dropout, so that the draws of the network are part of what has to come back.
LONG: dict[str, Any] = {"epochs": 6, "save_every": 4, "validate_every": 9}

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from fusar_klip.config import validate_settings
from fusar_klip.pretrain import PretrainSettings, pretrain
torch.set_num_threads(1)
settings = validate_settings(PretrainSettings, json.loads(sys.argv[3]))
pretrain(Path(sys.argv[1]), Path(sys.argv[2]), settings, resume=True)
"""


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the logged lines without the speed, which is the clock's."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "samples_per_s"} for line in lines]


@pytest.fixture(scope="module")
def settings(nano_settings: MakeSettings) -> PretrainSettings:
    plain = nano_settings(**LONG)
    return plain.model_copy(
        update={"architecture": plain.architecture.model_copy(update={"text_dropout": 0.1})}
    )


@pytest.fixture(scope="module")
def whole(
    blobs: Path, settings: PretrainSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PretrainSummary]:
    """A run that nothing interrupted: 36 steps."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return run, pretrain(blobs, run, settings)


def assert_equal_runs(run: Path, other: Path) -> None:
    assert metrics(run) == metrics(other)
    for name in ("model.safetensors", "best.safetensors", "config.toml", "tokenizer.json", "preprocess.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize(
    ("number", "after_lines"), [(signal.SIGKILL, 6), (signal.SIGKILL, 23), (signal.SIGTERM, 11)]
)
def test_a_killed_run_resumes_to_the_same_bits(
    blobs: Path,
    settings: PretrainSettings,
    whole: tuple[Path, PretrainSummary],
    tmp_path: Path,
    number: signal.Signals,
    after_lines: int,
) -> None:
    run = tmp_path / "run"
    arguments = [sys.executable, "-c", SCRIPT, str(blobs), str(run), settings.model_dump_json()]
    process = subprocess.Popen(
        arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
    )
    path = run / "metrics.jsonl"
    while process.poll() is None and (not path.is_file() or path.read_bytes().count(b"\n") < after_lines):
        time.sleep(0.002)
    process.send_signal(number)
    assert process.wait() != 0, "the run ended before it was killed"
    done = len([line for line in metrics(run) if "loss" in line])
    assert done < 36
    if number == signal.SIGTERM:
        # It saved its last step, whatever `save_every` says.
        assert (run / "state" / "training.pt").is_file()
    assert not (run / "model.safetensors").exists()
    summary = pretrain(blobs, run, settings, resume=True)
    assert_equal_runs(run, whole[0])
    assert summary.steps == 36


class PowerCutError(Exception):
    """Nothing catches it."""


@pytest.mark.parametrize("at", [0, 3, 4, 17, 35])
def test_a_crash_at_any_step_resumes_to_the_same_bits(
    blobs: Path,
    settings: PretrainSettings,
    whole: tuple[Path, PretrainSummary],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    run = tmp_path / "run"
    step = Learner.step

    def crash(self: Learner, batch: Any, number: int, steps_per_epoch: int) -> Any:
        if number == at:
            raise PowerCutError
        return step(self, batch, number, steps_per_epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", crash)
        with pytest.raises(PowerCutError):
            pretrain(blobs, run, settings)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "los')
    summary = pretrain(blobs, run, settings, resume=True)
    assert_equal_runs(run, whole[0])
    assert replace(summary, run="", last={}) == replace(whole[1], run="", last={})


def test_a_run_that_ended_is_left_alone(
    blobs: Path, settings: PretrainSettings, whole: tuple[Path, PretrainSummary], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    summary = pretrain(blobs, run, settings, resume=True)
    assert replace(summary, run="") == replace(whole[1], run="")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    with pytest.raises(SettingsError, match="is there already: go on with --resume"):
        pretrain(blobs, run, settings)
    np.testing.assert_array_equal(load(run).embed_text(["sea"]), load(whole[0]).embed_text(["sea"]))


def test_other_settings_or_data_are_refused(
    blobs: Path, settings: PretrainSettings, whole: tuple[Path, PretrainSummary], tmp_path: Path
) -> None:
    changed = settings.model_copy(update={"epochs": 7})
    with pytest.raises(SettingsError, match="epochs: 6 there, 7 here"):
        pretrain(blobs, whole[0], changed, resume=True)
    data = tmp_path / "data"
    shutil.copytree(blobs, data)
    texts = catalog.read_texts(data)
    texts.loc[0, "text"] = "another text"
    (data / "texts" / "v000.parquet").unlink()
    catalog.write_texts(data, "v000", texts, parent=None, maker={})
    with pytest.raises(CheckpointError, match=r"has changed since .*texts/v000\.parquet"):
        pretrain(data, whole[0], settings, resume=True)


def test_a_damaged_state_is_named(
    blobs: Path, settings: PretrainSettings, whole: tuple[Path, PretrainSummary], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    (run / "model.safetensors").unlink()
    (run / "state" / "training.pt").write_bytes(b"half a fi")
    with pytest.raises(CheckpointError, match=r"training\.pt is damaged"):
        pretrain(blobs, run, settings, resume=True)
