"""The baselines in the loop: they learn without texts, resume to the bit, and two processes are one."""

import json
import math
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from image_only_tiles import write_stripes
from test_pretrain_distributed import two_processes

from fusar_klip.benchmark import benchmark
from fusar_klip.config import load_settings, validate_settings
from fusar_klip.errors import CheckpointError, DatasetError, SettingsError
from fusar_klip.models import load
from fusar_klip.models.checkpoint import image_objective, load_image_tower
from fusar_klip.pretrain import PretrainSettings, PretrainSummary, pretrain
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.tasks.image_only_train_states import MaeTrainState, MocoV3TrainState
from fusar_klip.scio import ScioSettings
from fusar_klip.scio.refine import refine
from fusar_klip.search import build_index

MakeSettings = Callable[..., PretrainSettings]
CONFIGS = Path(__file__).parents[2] / "configs"
BOTH = pytest.mark.parametrize("objective", ["mae", "mocov3"])
SMALL: dict[str, Any] = {
    "mae": {"decoder_depth": 1},
    "mocov3": {"hidden_width": 32, "feature_width": 16, "momentum": 0.95, "crop_min": 0.5},
}
TRAIN_STATES: dict[str, Any] = {"mae": MaeTrainState, "mocov3": MocoV3TrainState}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 striped tiles, 60 of them for training; no texts."""
    return write_stripes(tmp_path_factory.mktemp("stripes"), 72)


@pytest.fixture(scope="module")
def make(nano_settings: MakeSettings) -> MakeSettings:
    """Settings of a small run of an objective."""

    def settings(objective: str, **changes: object) -> PretrainSettings:
        return nano_settings(objective=objective, **{**SMALL, **changes})

    return settings


@pytest.fixture(scope="module")
def runs(
    tiles: Path, make: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, PretrainSummary]]:
    """A run of either objective that nothing interrupted: 14 steps."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: (folder / name, pretrain(tiles, folder / name, make(name))) for name in SMALL}


def lines_of(run: Path) -> list[dict[str, Any]]:
    clock = ("samples_per_s", "utilisation")
    return [{k: v for k, v in line.items() if k not in clock} for line in RunFolder(run).read_metrics()]


def test_a_validation_that_is_not_finite_is_never_the_best(
    tiles: Path, make: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([math.nan, 2.0, 1.0])
    monkeypatch.setattr(MaeTrainState, "evaluate", lambda train_state, chosen: (next(values),))
    run = tmp_path / "run"
    summary = pretrain(tiles, run, make("mae", validate_every=2, max_steps=6))
    assert [line["val_loss"] for line in lines_of(run) if "val_loss" in line] == [None, 2.0, 1.0]
    assert summary.best_step == 6
    assert (run / "best.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_mae_learns(make: MakeSettings, tmp_path: Path) -> None:
    """Four kinds of tiles: the patches that are shown tell the kind, and so what is hidden."""
    data = write_stripes(tmp_path / "data", 72, kinds=4)
    optimizer = {"lr": 5e-3, "warmup_steps": 10, "decay": 0.999}
    settings = make(
        "mae", mae={"decoder_depth": 1, "crop_min": 1.0}, optimizer=optimizer, batch_size=30, epochs=90,
        validate_every=1000, save_every=1000,
    )  # fmt: skip
    summary = pretrain(data, tmp_path / "run", settings)
    losses = [line["loss"] for line in lines_of(tmp_path / "run") if "loss" in line]
    # Each patch's own mean would give 63/64.
    assert losses[0] > 0.98
    assert losses[-1] < 0.6
    assert summary.validation["val_loss"] < 0.6


def test_mocov3_learns(tiles: Path, make: MakeSettings, tmp_path: Path) -> None:
    optimizer = {"lr": 3e-3, "warmup_steps": 10, "decay": 0.999}
    settings = make(
        "mocov3", optimizer=optimizer, batch_size=30, epochs=50, validate_every=1000, save_every=1000
    )
    summary = pretrain(tiles, tmp_path / "run", settings)
    lines = [line for line in lines_of(tmp_path / "run") if "loss" in line]
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    # Guessing among 30 keys gives 0.03, among the 12 of validation 0.08.
    assert lines[-1]["match"] > 0.2
    assert summary.validation["val_match"] > 0.3
    assert lines[0]["momentum"] < lines[-1]["momentum"] <= 1


@BOTH
def test_run_folder_of_a_baseline(
    runs: dict[str, tuple[Path, PretrainSummary]], make: MakeSettings, objective: str
) -> None:
    run, summary = runs[objective]
    assert sorted(path.name for path in run.iterdir()) == [
        "best.safetensors", "config.toml", "metrics.jsonl", "model.safetensors", "preprocess.json", "state",
    ]  # fmt: skip
    assert load_settings(PretrainSettings, run / "config.toml") == make(objective)
    own = {"mae": set(), "mocov3": {"match", "momentum"}}[objective]
    first = RunFolder(run).read_metrics()[0]
    assert first.keys() == own | {
        "step", "epoch", "lr", "loss", "gradient_norm", "skipped", "samples_per_s", "utilisation",
    }  # fmt: skip
    assert (summary.steps, summary.epochs, summary.texts, summary.skipped_steps) == (14, 2, "", 0)
    best = min((line for line in lines_of(run) if "val_loss" in line), key=lambda line: line["val_loss"])
    assert summary.best_step == best["step"]
    assert best["val_tiles"] == best["val_batch"] == 8
    assert image_objective(run) == image_objective(run / "best.safetensors") == objective
    tower, preprocess = load_image_tower(run)
    assert preprocess.size == 32
    fresh, _ = load_image_tower(run, randomly_initialised=True)
    trained = dict(tower.named_parameters())
    assert any(not torch.equal(trained[name], weight) for name, weight in fresh.named_parameters())


class PowerCutError(Exception):
    """Nothing catches it."""


@BOTH
@pytest.mark.parametrize("at", [0, 4, 13])
def test_a_crash_at_any_step_resumes_to_the_same_bits(
    tiles: Path,
    make: MakeSettings,
    runs: dict[str, tuple[Path, PretrainSummary]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: str,
    at: int,
) -> None:
    run, (whole, summary) = tmp_path / "run", runs[objective]
    step = TRAIN_STATES[objective].step

    def crash(self: Any, parts: Any, number: int, per_epoch: int) -> Any:
        if number == at:
            raise PowerCutError
        return step(self, parts, number, per_epoch)

    with monkeypatch.context() as patch:
        patch.setattr(TRAIN_STATES[objective], "step", crash)
        with pytest.raises(PowerCutError):
            pretrain(tiles, run, make(objective))
    again = pretrain(tiles, run, make(objective, workers=1), resume=True)
    assert lines_of(run) == lines_of(whole)
    for name in ("model.safetensors", "best.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert replace(again, run="", last={}) == replace(summary, run="", last={})


@pytest.mark.slow
def test_two_processes_are_one(tiles: Path, make: MakeSettings, tmp_path: Path) -> None:
    """Masks and views follow the tile; no data and batch normalisation are counted over all processes."""
    jobs = []
    for objective in SMALL:
        # Parts, too: each is normalised and contrasted by itself, over both processes.
        settings = make(objective, max_steps=5, validate_every=5, accumulate=2, batch_size=12)
        pretrain(tiles, tmp_path / f"{objective}_alone", settings)
        values = settings.model_dump(mode="json", exclude_none=True)
        jobs.append({"run": str(tmp_path / objective), "settings": values})
    two_processes(tiles, jobs)
    for objective in SMALL:
        lines, of_one = lines_of(tmp_path / objective), lines_of(tmp_path / f"{objective}_alone")
        assert len(lines) == len(of_one) == 6
        for line, its in zip(lines, of_one, strict=True):
            if objective == "mae" or line["step"] == 1:
                assert line == pytest.approx(its, rel=1e-5, abs=1e-5), (objective, line["step"])
            else:
                # The features of random towers hardly differ; batch normalisation amplifies that, and
                # rounding errors, from step to step.
                key = "loss" if "loss" in line else "val_loss"
                assert line[key] == pytest.approx(its[key], abs=5e-3), line["step"]


def test_saved_momentum_encoder_was_updated(
    runs: dict[str, tuple[Path, PretrainSummary]], make: MakeSettings
) -> None:
    state = torch.load(runs["mocov3"][0] / "state" / "training.pt", weights_only=True)
    with torch.random.fork_rng():
        fresh = dict(MocoV3TrainState(make("mocov3"), Ranks.single_process()).momentum.named_parameters())
    name = "projector.0.weight"
    way = (state["network"][name] - fresh[name]).norm()
    assert 0.01 * way < (state["momentum"][name] - fresh[name]).norm() < way


@BOTH
def test_accumulation_and_checkpointed_activations(
    tiles: Path, make: MakeSettings, tmp_path: Path, objective: str
) -> None:
    plain, other = tmp_path / "plain", tmp_path / "other"
    pretrain(tiles, plain, make(objective, max_steps=4, batch_size=12, accumulate=2))
    pretrain(
        tiles,
        other,
        make(objective, max_steps=4, batch_size=12, accumulate=2, checkpoint_activations=True),
    )
    for line, its in zip(lines_of(plain), lines_of(other), strict=True):
        assert line == pytest.approx(its, rel=1e-5)


def test_settings_that_a_baseline_does_not_use_are_refused(make: MakeSettings) -> None:
    with pytest.raises(SettingsError, match=r"objective mae reads no texts: remove tokenizer, init\.text"):
        make("mae", tokenizer="vocab.txt", init={"text": "bert-base-uncased"})
    with pytest.raises(SettingsError, match=r"objective mocov3 reads no texts: remove scio\.enabled"):
        make("mocov3", scio={"enabled": True}, epochs=36)
    with pytest.raises(SettingsError, match="does not support fsdp: use parallel=ddp"):
        make("mae", parallel="fsdp")
    with pytest.raises(SettingsError, match=r"image_width that is a multiple of 4"):
        make("mae", architecture={"image_width": 30, "image_heads": 3})
    with pytest.raises(SettingsError, match="needs two patches or more"):
        make("mae", architecture={"image_size": 16, "patch_size": 16})
    with pytest.raises(SettingsError, match="objective"):
        make("simclr")


def test_too_few_tiles_are_refused(make: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has 1 kept training tiles, and a step needs two"):
        pretrain(write_stripes(tmp_path / "one", 1), tmp_path / "run", make("mae"))
    with pytest.raises(DatasetError, match="no data set at"):
        pretrain(tmp_path / "nowhere", tmp_path / "run", make("mae"))


def test_changed_tiles_are_refused_on_resume(make: MakeSettings, tmp_path: Path) -> None:
    data, run = write_stripes(tmp_path / "data", 12), tmp_path / "run"
    pretrain(data, run, make("mae", max_steps=1))
    (run / "model.safetensors").unlink()
    write_stripes(data, 18)
    shutil.rmtree(data / "cache")
    with pytest.raises(CheckpointError, match=r"has changed since .*tiles\.parquet"):
        pretrain(data, run, make("mae", max_steps=1), resume=True)


def write_chips(data: Path) -> None:
    """Write two classes that any tower distinguishes."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for label, level in (("dark", 30), ("bright", 120)):
        folder = data / "chips" / label
        folder.mkdir(parents=True)
        for number in range(15):
            pixels = rng.rayleigh(level, (32, 32)).clip(1, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02d}.png")


def test_benchmark_evaluates_the_tower(runs: dict[str, tuple[Path, PretrainSummary]], tmp_path: Path) -> None:
    write_chips(tmp_path)
    shared = 'dataset = "Chips"\nreader = "class_folders"\npath = "chips"\nsplit = "paper"\n'
    suite = tmp_path / "suite.toml"
    suite.write_text(
        'name = "small"\n'
        f'[[row]]\ntask = "linear_probe"\n{shared}'
        f'[[row]]\ntask = "knn"\n{shared}'
        f'[[row]]\ntask = "finetune"\n{shared}epochs = 1\nbatch_size = 8\nwarmup_epochs = 0.5\n'
    )
    names = [str(runs["mae"][0]), str(runs["mocov3"][0]), f"untrained:{runs['mae'][0]}"]
    summary = benchmark(names, tmp_path / "results", suite=suite, data=tmp_path)
    assert summary.rows_run == 9
    top1 = {
        (entry["model"], entry["task"]): entry["value"]
        for entry in json.loads(Path(summary.results).read_text())
        if entry["metric"] == "top1"
    }
    assert set(top1) == {
        (model, task) for model in ("mae", "mocov3", "untrained:mae")
        for task in ("linear_probe", "knn", "finetune")
    }  # fmt: skip
    assert top1["mae", "linear_probe"] >= 0.8
    suite.write_text('name = "words"\n[[row]]\ntask = "retrieval"\ndataset = "Tiles"\npath = "tiles"\n')
    with pytest.raises(CheckpointError, match=r"trained on images alone \(mae\), so it cannot run retrieval"):
        benchmark(names[:1], tmp_path / "results", suite=suite, data=tmp_path)


def test_verbs_that_need_a_text_tower_refuse_the_run(
    blobs: Path, runs: dict[str, tuple[Path, PretrainSummary]], tmp_path: Path
) -> None:
    run = runs["mae"][0]
    sentence = r"trained on images alone \(mae\) and has no text tower: give a run whose objective is klip"
    with pytest.raises(CheckpointError, match=sentence):
        load(run)
    with pytest.raises(CheckpointError, match=sentence):
        build_index(blobs, str(run), tmp_path / "index")
    with pytest.raises(CheckpointError, match=sentence):
        refine(blobs, str(run), ScioSettings())
    assert not (tmp_path / "index").exists()


@BOTH
def test_klip_initialised_from_the_tower(
    blobs: Path,
    nano_settings: MakeSettings,
    runs: dict[str, tuple[Path, PretrainSummary]],
    tmp_path: Path,
    objective: str,
) -> None:
    run = runs[objective][0]
    # At a rate of nothing a step leaves the weights as they were loaded.
    still = {"lr": 1e-30, "min_lr": 0.0, "warmup_lr": 0.0, "warmup_steps": 0}
    settings = nano_settings(max_steps=1, init={"image": str(run / "model.safetensors")}, optimizer=still)
    pretrain(blobs, tmp_path / "klip", settings)
    own = dict(load(tmp_path / "klip").network.image_tower.named_parameters())
    tower, _ = load_image_tower(run)
    for name, weight in tower.named_parameters():
        assert torch.allclose(own[name], weight, atol=1e-7), name
    # And the other way round, from the whole network.
    first = {"image": str(tmp_path / "klip" / "model.safetensors")}
    pretrain(
        blobs, tmp_path / "back", nano_settings(objective="mae", max_steps=1, init=first, optimizer=still)
    )
    back, _ = load_image_tower(tmp_path / "back")
    for name, weight in back.named_parameters():
        assert torch.allclose(own[name], weight, atol=1e-7), name


def test_weights_have_the_permissions_of_other_files(runs: dict[str, tuple[Path, PretrainSummary]]) -> None:
    run = runs["mae"][0]
    umask = os.umask(0)
    os.umask(umask)
    for path in (run / "model.safetensors", run / "preprocess.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


def test_the_shipped_configurations() -> None:
    """The papers' values are the defaults; batch and optimiser go with them."""
    for name, decay in (("mae", 0.05), ("mocov3", 0.1)):
        shipped = load_settings(PretrainSettings, CONFIGS / f"pretrain_{name}.toml")
        optimizer = {"lr": 1.5e-4, "weight_decay": decay}
        given = {"objective": name, "batch_size": 256, "optimizer": optimizer}
        plain = validate_settings(PretrainSettings, given)
        if name == "mae":
            assert shipped.mae.decoder_width == 512
            plain = plain.model_copy(update={"mae": shipped.mae.model_copy(update={"decoder_width": None})})
            shipped = shipped.model_copy(update={"mae": plain.mae})
        assert shipped == plain
