"""Two processes, as torchrun starts them, are one: the same losses for the same global batch."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fusar_klip import catalog
from fusar_klip.config import dump_settings, validate_settings
from fusar_klip.models import load
from fusar_klip.pretrain import PretrainSettings, pretrain
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.scio import refine_texts

MakeSettings = Callable[..., PretrainSettings]
SCRIPT = Path(__file__).with_name("run_ranks.py")
CLOCK = ("samples_per_s", "utilisation")
STAGES: dict[str, Any] = {
    "scio": {
        "enabled": True, "align_epochs": 1, "screen_epochs": 1, "reconstruct_epochs": 1, "max_new_tokens": 8
    },
    "epochs": 3, "batch_size": 16, "max_steps": 7, "validate_every": 100,
}  # fmt: skip


def data_of(run: Path) -> Path:
    """Return the data set of a run that writes text versions."""
    return run.with_name(f"{run.name}_data")


def two_processes(dataset: Path, jobs: list[dict[str, Any]]) -> list[str]:
    """Run the jobs in two processes; return what each has printed."""
    jobs = [job | {"port": port} for job, port in zip(jobs, free_ports(len(jobs)), strict=True)]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(dataset), json.dumps(jobs)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        outcomes = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    failed = [
        stderr[-3000:] for process, (_, stderr) in zip(processes, outcomes, strict=True) if process.returncode
    ]
    assert not failed, "\n".join(failed)
    return [printed for printed, _ in outcomes]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def numbers(run: Path) -> list[dict[str, Any]]:
    lines = RunFolder(run).read_metrics()
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def assert_close(run: Path, other: Path) -> None:
    lines, of_other = numbers(run), numbers(other)
    assert len(lines) == len(of_other) > 5
    for line, its in zip(lines, of_other, strict=True):
        assert line == pytest.approx(its, abs=1e-5), line["step"]


@pytest.fixture(scope="module")
def runs(
    blobs: Path, nano_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Mapping[str, Path], list[str]]:
    """Five steps in one process, and in two by DDP and by FSDP; each way with something else besides."""
    folder = tmp_path_factory.mktemp("ranks")
    plain = nano_settings(max_steps=5, validate_every=5)
    # More than one block, so that FSDP shares out blocks, too; and no dropout.
    deep = {"architecture": plain.architecture.model_copy(update={"image_depth": 3, "text_depth": 2})}
    plain = plain.model_copy(update=deep)
    values = plain.model_dump(mode="json", exclude_none=True)
    fsdp, parts = values | {"parallel": "fsdp"}, values | {"accumulate": 2}
    names = ("alone", "ddp", "fsdp", "parts", "parts_alone", "parts_fsdp", "stopped", "moved", "odd")
    scio_names = ("scio_alone", "scio_ddp", "scio_fsdp")
    found = {name: folder / name for name in (*names, *scio_names)}
    pretrain(blobs, found["alone"], plain)
    pretrain(blobs, found["parts_alone"], plain.model_copy(update={"accumulate": 2}))
    for name in scio_names:
        shutil.copytree(blobs, data_of(found[name]))
    scio = validate_settings(PretrainSettings, values | STAGES).model_dump(mode="json", exclude_none=True)
    pretrain(
        data_of(found["scio_alone"]),
        found["scio_alone"],
        PretrainSettings.model_validate(scio),
        refine_texts=refine_texts,
    )
    scio_ddp, scio_fsdp = (
        {"run": str(found[f"scio_{way}"]), "dataset": str(data_of(found[f"scio_{way}"]))}
        | {"settings": scio | {"parallel": way}}
        for way in ("ddp", "fsdp")
    )
    jobs = [
        {"run": str(found["ddp"]), "settings": values},
        {"run": str(found["fsdp"]), "settings": fsdp},
        {"run": str(found["parts"]), "settings": parts | {"workers": 1}},
        {
            "run": str(found["parts_fsdp"]),
            "settings": parts | {"parallel": "fsdp", "checkpoint_activations": True},
        },
        scio_ddp,
        # It stops within the second stage, and is resumed.
        scio_fsdp | {"stop": 4},
        scio_fsdp | {"resume": True},
        {"run": str(found["stopped"]), "settings": fsdp, "stop": 2},
        {"run": str(found["stopped"]), "settings": fsdp, "resume": True},
        {"run": str(found["moved"]), "settings": fsdp, "stop": 2},
        {"run": str(found["ddp"]), "settings": values},
        {"run": str(found["odd"]), "settings": values | {"batch_size": 9}},
    ]
    printed = two_processes(blobs, jobs)
    return found, printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("alone", "ddp"),
        ("alone", "fsdp"),
        ("parts_alone", "parts"),
        ("parts_alone", "parts_fsdp"),
        ("scio_alone", "scio_ddp"),
        ("scio_alone", "scio_fsdp"),
    ],
)
def test_two_processes_are_one(runs: tuple[Mapping[str, Path], list[str]], one: str, two: str) -> None:
    assert_close(runs[0][two], runs[0][one])
    mine, of_one = (dict(load(runs[0][name]).network.named_parameters()) for name in (two, one))
    for name, weight in of_one.items():
        # Adam's first steps are as long however small a gradient is, so that rounding shows in some weights:
        # in a key's bias, which a softmax does not see, there is nothing else.
        assert name.endswith(".key.bias") or (mine[name] - weight).abs().mean() < 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("two", ["scio_ddp", "scio_fsdp"])
def test_two_processes_write_the_text_versions_of_one(
    runs: tuple[Mapping[str, Path], list[str]], two: str
) -> None:
    """The same verdicts on the same segments, each pass once, whichever process has judged which part."""
    data, of_one = data_of(runs[0][two]), data_of(runs[0]["scio_alone"])
    assert catalog.text_versions(data) == catalog.text_versions(of_one) == ["v000", "v001", "v002"]
    assert not list((data / "texts").glob(".scio-*"))
    numbers = ["delta_itc", "delta_itm", "itm_score"]
    for version in ("v001", "v002"):
        rows, its = (catalog.read_texts(one, version, in_use=False) for one in (data, of_one))
        assert rows["verdict"].eq("noise").any()
        others = ["tile_id", "field", "text", "verdict", "previous"]
        pd.testing.assert_frame_equal(rows[others], its[others])
        pd.testing.assert_frame_equal(rows[numbers], its[numbers], rtol=0, atol=2e-5)
        mine, theirs = (catalog.read_text_metadata(one, version) for one in (data, of_one))
        assert (mine["parent"], mine["maker"]["counts"]) == (theirs["parent"], theirs["maker"]["counts"])


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_the_run_resumes(
    blobs: Path, nano_settings: MakeSettings, runs: tuple[Mapping[str, Path], list[str]]
) -> None:
    found, printed = runs
    assert [lines.count("stopped") for lines in printed] == [3, 3]
    assert numbers(found["stopped"]) == numbers(found["fsdp"])
    assert (found["stopped"] / "model.safetensors").read_bytes() == (
        found["fsdp"] / "model.safetensors"
    ).read_bytes()
    # One process resumes the sharded state that two have saved.
    settings = RunFolder(found["moved"]).settings()
    assert numbers(found["moved"])[-1]["step"] == 3
    pretrain(blobs, found["moved"], settings, resume=True)
    assert_close(found["moved"], found["alone"])


@pytest.mark.slow
def test_torchrun_with_the_same_command(blobs: Path, nano_settings: MakeSettings, tmp_path: Path) -> None:
    settings, config = nano_settings(max_steps=2), tmp_path / "config.toml"
    dump_settings(settings, config)
    command = [str(Path(sys.executable).with_name("fusar-klip")), "pretrain", str(blobs), "--json"]
    command += ["--config", str(config), "--out", str(tmp_path / "run"), "--set", "parallel=fsdp"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "--no-python", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads(done.stdout)
    assert (summary["run"], summary["steps"]) == (str(tmp_path / "run"), 2)
    alone = pretrain(blobs, tmp_path / "alone", settings)
    for name in ("loss", "loss_itc", "loss_itm", "loss_mlm"):
        assert summary["last"][name] == pytest.approx(alone.last[name], abs=1e-5)


@pytest.mark.slow
def test_an_error_is_reported_once(runs: tuple[Mapping[str, Path], list[str]]) -> None:
    first, second = runs[1]
    assert "SettingsError" in first
    assert "exists already" in first
    assert "exists already" not in second
    assert "exit" in second
    # This one each process finds by itself.
    assert "batch_size 9 cannot be divided into accumulate x processes = 1 x 2" in first


def test_only_the_gpu_in_use_is_listed() -> None:
    """What forks the random state of all GPUs takes memory of each, in each process."""
    assert Ranks.single_process().gpus == []
    assert Ranks(1, 2, torch.device("cuda", 1)).gpus == [torch.device("cuda", 1)]


def test_single_process_does_not_communicate() -> None:
    ranks = Ranks.single_process()
    assert ranks.first
    assert ranks.any(True)
    assert not ranks.any(False)
    assert ranks.run_in_first(lambda: 7) == 7
    assert torch.equal(ranks.mean(torch.tensor([1.0, 2.0])), torch.tensor([1.0, 2.0]))
    ranks.barrier()
