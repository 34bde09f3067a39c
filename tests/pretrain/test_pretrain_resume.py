"""Resumed = uninterrupted, to the bit; and what may be resumed."""

import errno
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
import torch
from safetensors import SafetensorError

from fusar_klip import catalog
from fusar_klip.errors import CheckpointError, SettingsError
from fusar_klip.models import checkpoint, load
from fusar_klip.pretrain import PretrainSettings, PretrainSummary, pretrain
from fusar_klip.pretrain.optim import OptimizerStep
from fusar_klip.pretrain.tasks.klip_train_state import KlipTrainState
from fusar_klip.scio import dataset_pass, refine_texts

MakeSettings = Callable[..., PretrainSettings]

# With dropout, so that the draws of the network are part of what has to come back.
LONG: dict[str, Any] = {"epochs": 6, "save_every": 4, "validate_every": 9}

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from fusar_klip.config import validate_settings
from fusar_klip.pretrain import PretrainSettings, pretrain
from fusar_klip.scio import refine_texts
torch.set_num_threads(1)
settings = validate_settings(PretrainSettings, json.loads(sys.argv[3]))
pretrain(Path(sys.argv[1]), Path(sys.argv[2]), settings, resume=True, refine_texts=refine_texts)
"""


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the logged lines without the speed, which is the clock's."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("samples_per_s", "utilisation")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


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
def test_an_interrupted_run_resumes_to_the_same_bits(
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


def test_a_signal_to_all_processes_of_a_run_saves_it_too(
    blobs: Path, settings: PretrainSettings, whole: tuple[Path, PretrainSummary], tmp_path: Path
) -> None:
    """Ctrl-C and schedulers signal the processes that make batches ahead, too: none of them may end first."""
    run, ahead = tmp_path / "run", settings.model_copy(update={"workers": 1, "save_every": 1000})
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(blobs), str(run), ahead.model_dump_json()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    path = run / "metrics.jsonl"
    while process.poll() is None and (not path.is_file() or path.read_bytes().count(b"\n") < 5):
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() != 0, "the run ended before it was told to stop"
    steps = [line["step"] for line in metrics(run) if "loss" in line]
    assert torch.load(run / "state" / "training.pt", weights_only=True)["step"] == steps[-1] < 36
    pretrain(blobs, run, settings.model_copy(update={"save_every": 1000}), resume=True)
    assert metrics(run) == metrics(whole[0])


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
    step = KlipTrainState.step

    def crash(self: KlipTrainState, batch: Any, number: int, steps_per_epoch: int) -> Any:
        if number == at:
            raise PowerCutError
        return step(self, batch, number, steps_per_epoch)

    with monkeypatch.context() as patch:
        patch.setattr(KlipTrainState, "step", crash)
        with pytest.raises(PowerCutError):
            pretrain(blobs, run, settings)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "los')
    halves = [run / ".best.safetensors.0a.partial", run / "state" / ".training.pt.0a.partial"]
    for half in halves:
        half.write_bytes(b"half of it")
    summary = pretrain(blobs, run, settings, resume=True)
    assert_equal_runs(run, whole[0])
    assert replace(summary, run="", last={}) == replace(whole[1], run="", last={})
    assert not any(half.exists() for half in halves)


def test_a_finished_run_is_left_unchanged(
    blobs: Path, settings: PretrainSettings, whole: tuple[Path, PretrainSummary], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    summary = pretrain(blobs, run, settings, resume=True)
    assert replace(summary, run="") == replace(whole[1], run="")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    with pytest.raises(SettingsError, match="exists already: continue with --resume"):
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


def test_a_damaged_state_is_reported(
    blobs: Path, settings: PretrainSettings, whole: tuple[Path, PretrainSummary], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    (run / "model.safetensors").unlink()
    (run / "state" / "training.pt").write_bytes(b"half a fi")
    with pytest.raises(CheckpointError, match=r"training\.pt is damaged"):
        pretrain(blobs, run, settings, resume=True)


# Imports once, and forks a run that it interrupts by SIGKILL after a random time, until one ends.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
import torch._dynamo  # seconds, which the first optimiser would take in each run
from fusar_klip.config import validate_settings
from fusar_klip.pretrain import PretrainSettings, pretrain
from fusar_klip.scio import refine_texts, dataset_pass
torch.set_num_threads(1)
dataset_pass._TILES_PER_PART = 16
settings = validate_settings(PretrainSettings, json.loads(sys.argv[3]))
dataset, run, moments, kills = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(sys.argv[4]), 0
metrics = run / "metrics.jsonl"
size = lambda: metrics.stat().st_size if metrics.is_file() else 0
while not (run / "model.safetensors").exists():
    before, child = size(), os.fork()
    if not child:
        pretrain(dataset, run, settings, resume=True, refine_texts=refine_texts)
        os._exit(0)
    # The clock starts when the run has started; else SIGKILL would only ever interrupt the start.
    ended = 0
    while not ended and size() <= before:
        time.sleep(0.001)
        ended = os.waitpid(child, os.WNOHANG)[0]
    if not ended:
        time.sleep(moments.uniform(0, 0.4))
        os.kill(child, signal.SIGKILL)
        kills += os.waitpid(child, 0)[1] != 0
print(kills)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_sigkill_at_any_moment_resumes_to_the_same_bits(
    blobs: Path, settings: PretrainSettings, tmp_path: Path, seed: int
) -> None:
    """Also in the middle of an epoch, and while a state is written, which here is much of the time."""
    often = settings.model_copy(update={"save_every": 1})
    plain, run = tmp_path / "plain", tmp_path / "run"
    pretrain(blobs, plain, often)
    assert kill_again_and_again(blobs, run, often, seed) > 0
    assert_equal_runs(run, plain)


@pytest.mark.slow
def test_sigkill_at_any_moment_of_scio_stages_resumes_to_the_same_bits(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within a pass, some of whose parts are there, and between a pass and the next save."""
    stages = {"enabled": True, "align_epochs": 1, "screen_epochs": 1, "reconstruct_epochs": 1, "every": 1}
    settings = nano_settings(
        epochs=3, batch_size=16, save_every=2, validate_every=100, scio=stages | {"max_new_tokens": 8}
    )
    monkeypatch.setattr(dataset_pass, "_TILES_PER_PART", 16)
    plain, run = tmp_path / "plain", tmp_path / "run"
    data, of_plain = (shutil.copytree(blobs, tmp_path / name) for name in ("data", "of_plain"))
    pretrain(of_plain, plain, settings, refine_texts=refine_texts)
    assert kill_again_and_again(data, run, settings, seed=3) > 0
    assert_equal_runs(run, plain)
    assert catalog.text_versions(data) == [f"v{number:03d}" for number in range(7)]
    for path in (of_plain / "texts").glob("v*"):
        assert (data / "texts" / path.name).read_bytes() == path.read_bytes()
    assert not list((data / "texts").glob(".scio-*"))


def kill_again_and_again(dataset: Path, run: Path, settings: PretrainSettings, seed: int) -> int:
    """Let a run end in spite of SIGKILLs at random moments; return how many it was."""
    killer = subprocess.run(
        [sys.executable, "-c", KILLER, str(dataset), str(run), settings.model_dump_json(), str(seed)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(killer.stdout)


@pytest.mark.parametrize("objective", ["klip", "mae"])
def test_resume_reads_no_initial_weights_and_logs_unreadable_tiles_once(
    write_blobs: Callable[[Path, int], Path],
    nano_settings: MakeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: str,
) -> None:
    """A run that was interrupted before and after its first save, and whose `init.image` is gone by then."""
    data, first = write_blobs(tmp_path / "data", 14), tmp_path / "first"
    (data / "tiles" / "scene" / "tile0003.tif").write_bytes(b"broken")
    pretrain(data, first, nano_settings(max_steps=1))
    init = shutil.copy(first / "model.safetensors", tmp_path / "init.safetensors")
    settings = nano_settings(epochs=8, objective=objective, init={"image": str(init)})
    pretrain(data, tmp_path / "plain", settings)
    run, apply = tmp_path / "run", OptimizerStep.apply

    for at in (1, 5):

        def crash(self: OptimizerStep, step: int, *arguments: Any, at: int = at) -> Any:
            if step == at:
                raise PowerCutError
            return apply(self, step, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(OptimizerStep, "apply", crash)
            with pytest.raises(PowerCutError):
                pretrain(data, run, settings, resume=True)
    init.unlink()
    pretrain(data, run, settings, resume=True)
    assert metrics(run)[0]["unreadable_tiles"] == ["tile0003"]
    assert metrics(run) == metrics(tmp_path / "plain")
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()


def test_a_full_disk_ends_the_run_and_leaves_no_partial_file(
    blobs: Path, settings: PretrainSettings, whole: tuple[Path, PretrainSummary], tmp_path: Path
) -> None:
    """The kernel itself refuses: it lets no file grow to the size of the state."""
    run, size = tmp_path / "run", (whole[0] / "state" / "training.pt").stat().st_size
    full = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))\n"
    )
    failed = subprocess.run(
        [sys.executable, "-c", full + SCRIPT, str(blobs), str(run), settings.model_dump_json()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    message = failed.stderr.strip().splitlines()[-1]
    assert "CheckpointError: cannot write" in message
    assert "training.pt" in message
    assert "free disk space, and continue with --resume" in message
    assert not [*run.glob(".*"), *(run / "state").glob(".*")]
    pretrain(blobs, run, settings, resume=True)
    assert_equal_runs(run, whole[0])


def test_a_full_disk_after_a_good_state(
    blobs: Path,
    settings: PretrainSettings,
    whole: tuple[Path, PretrainSummary],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, saves = tmp_path / "run", []
    save = torch.save

    def full(state: Any, path: Path) -> None:
        saves.append(path)
        if len(saves) == 3:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(
            CheckpointError, match=r"training\.pt \(No space left on device\).*free disk space"
        ):
            pretrain(blobs, run, settings)
    assert torch.load(run / "state" / "training.pt", weights_only=True)["step"] == 8
    assert {path.name for path in (run / "state").iterdir()} == {"data.json", "training.pt"}
    pretrain(blobs, run, settings, resume=True)
    assert_equal_runs(run, whole[0])


@pytest.mark.parametrize("name", ["best.safetensors", "model.safetensors"])
def test_a_full_disk_while_weights_are_written(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings, run, plain = nano_settings(max_steps=6), tmp_path / "run", tmp_path / "plain"
    save_file = checkpoint.save_file

    def full(state: Any, path: Path, about: Any) -> None:
        if name in path.name:
            path.write_bytes(b"half of it")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(state, path, about)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(CheckpointError, match=rf"cannot write .*{name} \(.*No space left.*--resume"):
            pretrain(blobs, run, settings)
    assert not [*run.glob("*model*"), *run.glob(".*")]
    pretrain(blobs, run, settings, resume=True)
    pretrain(blobs, plain, settings)
    assert_equal_runs(run, plain)
