import logging
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fusar_klip import catalog
from fusar_klip.config import load_settings, validate_settings
from fusar_klip.errors import CheckpointError, DatasetError, SettingsError
from fusar_klip.models import MODELS, load
from fusar_klip.pretrain import PretrainSettings, learner, pretrain
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.schedule import distillation_weight, learning_rate
from fusar_klip.pretrain.settings import OptimizerSettings

MakeSettings = Callable[..., PretrainSettings]
WriteBlobs = Callable[[Path, int], Path]
CONFIGS = Path(__file__).parents[2] / "configs"


def test_it_learns_what_the_texts_say(blobs: Path, nano_settings: MakeSettings, tmp_path: Path) -> None:
    """Where a blob is and how large, 18 kinds of tiles, is all that texts and pixels have in common."""
    settings = nano_settings(
        epochs=80, log_every=20, validate_every=1000, save_every=1000, batch_size=24,
        optimizer={"lr": 3e-3, "warmup_steps": 10, "decay": 0.99},
        texts={"vocab_size": 256, "min_segments": 4},
    )  # fmt: skip
    summary = pretrain(blobs, tmp_path / "run", settings)
    lines = [line for line in RunFolder(tmp_path / "run").read_metrics() if "loss" in line]
    assert summary.steps == 160
    assert lines[-1]["loss_itc"] < math.log(24 + 50) - 1
    assert lines[-1]["loss_mlm"] < lines[0]["loss_mlm"] - 2
    # Ten tiles of validation, some of them of the same kind; chance is 0.1.
    assert summary.validation["val_i2t_r5"] >= 0.7
    assert load(tmp_path / "run").embed_text(["Location: north west of the tile"]).shape == (1, 16)


def test_the_run_folder_is_whole(blobs: Path, nano_settings: MakeSettings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = nano_settings()
    summary = pretrain(blobs, run, settings)
    assert sorted(p.name for p in run.iterdir()) == [
        "best.safetensors", "config.toml", "metrics.jsonl", "model.safetensors", "preprocess.json",
        "state", "tokenizer.json",
    ]  # fmt: skip
    assert load_settings(PretrainSettings, run / "config.toml") == settings
    assert tomllib.loads((run / "config.toml").read_text())["texts"]["version"] == "v000"
    first = RunFolder(run).read_metrics()[0]
    assert first.keys() == {
        "step", "epoch", "lr", "loss", "loss_itc", "loss_itm", "loss_mlm", "temperature", "samples_per_s"
    }  # fmt: skip
    assert first["loss"] == pytest.approx(first["loss_itc"] + first["loss_itm"] + first["loss_mlm"])
    assert summary.steps == 12
    assert summary.epochs == 2
    assert summary.validation["val_tiles"] == 10
    best = max(line.get("val_recall", -1) for line in RunFolder(run).read_metrics())
    at_best = [line for line in RunFolder(run).read_metrics() if line.get("val_recall") == best]
    assert summary.best_step == at_best[0]["step"]
    assert load(run / "best.safetensors").network.settings == settings.architecture


def test_the_caller_s_random_state_is_left_alone(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    pretrain(blobs, tmp_path / "run", nano_settings(max_steps=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_given_vocabulary_and_weights_are_used(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path
) -> None:
    letters = [chr(code) for code in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(words) + "\n")
    settings = nano_settings(max_steps=1, tokenizer=str(vocabulary))
    pretrain(blobs, tmp_path / "run", settings)
    assert load(tmp_path / "run").tokenizer.vocabulary == tuple(words)
    settings = nano_settings(max_steps=1, init={"text": "bert"})
    with pytest.raises(SettingsError, match=r"init\.text needs .*tokenizer=VOCAB\.TXT"):
        pretrain(blobs, tmp_path / "other", settings)
    settings = nano_settings(max_steps=1, init={"image": str(tmp_path / "no.pth")})
    with pytest.raises(CheckpointError, match=r"init\.image: no weights from"):
        pretrain(blobs, tmp_path / "third", settings)


def test_data_that_cannot_be_learnt_from(
    blobs: Path, write_blobs: WriteBlobs, nano_settings: MakeSettings, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(DatasetError, match="no data set at"):
        pretrain(tmp_path / "nowhere", run, nano_settings())
    with pytest.raises(DatasetError, match="has no texts v007"):
        pretrain(blobs, run, nano_settings(texts={"version": "v007"}))
    one = write_blobs(tmp_path / "one", 1)
    with pytest.raises(DatasetError, match="has 1 kept training tiles with a text, and contrast needs two"):
        pretrain(one, run, nano_settings())
    silent = write_blobs(tmp_path / "silent", 3)
    (silent / "texts" / "v000.parquet").unlink()
    none = pd.DataFrame(columns=catalog.TEXT_SCHEMA.names)
    catalog.write_texts(silent, "v000", none, parent=None, maker={})
    with pytest.raises(DatasetError, match="run fusar-klip describe"):
        pretrain(silent, run, nano_settings())


def test_few_tiles_make_a_smaller_batch_and_no_validation(
    write_blobs: WriteBlobs, nano_settings: MakeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = write_blobs(tmp_path / "few", 4)
    with caplog.at_level(logging.WARNING):
        summary = pretrain(few, tmp_path / "run", nano_settings(max_steps=2))
    assert "only 4 training tiles" in caplog.text
    assert summary.validation == {}
    assert summary.best_step == 2
    run = tmp_path / "run"
    assert (run / "best.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_loss_that_is_not_finite_changes_nothing_and_then_ends_the_run(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = learner.batch_losses
    calls = {"count": 0, "bad_until": 3}

    def sometimes_bad(*arguments: Any, **options: Any) -> Any:
        found = losses(*arguments, **options)
        calls["count"] += 1
        return vars_with(found, itc=found.itc * math.nan) if calls["count"] <= calls["bad_until"] else found

    def vars_with(found: Any, **changes: Any) -> Any:
        return type(found)(**{**vars(found), **changes})

    monkeypatch.setattr(learner, "batch_losses", sometimes_bad)
    settings = nano_settings(max_steps=4, validate_every=100)
    summary = pretrain(blobs, tmp_path / "run", settings)
    lines = [line for line in RunFolder(tmp_path / "run").read_metrics() if "loss" in line]
    assert [math.isfinite(line["loss"]) for line in lines] == [False, False, False, True]
    assert math.isfinite(summary.validation["val_loss_itc"])
    calls.update(count=0, bad_until=1000)
    with pytest.raises(SettingsError, match=r"not finite in 10 steps in a row.*optimizer\.lr"):
        pretrain(blobs, tmp_path / "bad", nano_settings(validate_every=100))


def test_the_schedule_is_blips() -> None:
    settings = OptimizerSettings()
    rates = [learning_rate(step, 1000, settings) for step in (0, 1500, 3000, 3999, 4000, 36_000, 200_000)]
    assert rates[0] == pytest.approx(1e-6)
    # Warm-up spans epochs, towards the rate of the epoch that it is in.
    assert rates[1] == pytest.approx(1e-6 + (3e-4 * 0.9 - 1e-6) / 2)
    assert rates[2:] == pytest.approx([3e-4 * 0.9**3, 3e-4 * 0.9**3, 3e-4 * 0.9**4, 3e-4 * 0.9**36, 1e-6])
    assert [distillation_weight(step, 100, 0.4) for step in (0, 50, 100, 5000)] == [0, 0.2, 0.4, 0.4]


def test_an_architecture_starts_from_its_preset() -> None:
    settings = validate_settings(PretrainSettings, {"model": "tiny", "architecture": {"image_size": 64}})
    assert settings.architecture == MODELS["tiny"].model_copy(update={"image_size": 64})
    assert PretrainSettings().architecture == MODELS["vit_b"]
    assert validate_settings(PretrainSettings, {"model": "vit_l"}).architecture.image_depth == 24
    with pytest.raises(SettingsError, match="model"):
        validate_settings(PretrainSettings, {"model": "huge"})
    with pytest.raises(SettingsError, match=r'unknown key.*did you mean "architecture\.image_size"'):
        validate_settings(PretrainSettings, {"architecture": {"image_sise": 64}})


def test_the_shipped_configurations() -> None:
    paper = load_settings(PretrainSettings, CONFIGS / "pretrain_paper.toml")
    assert paper == PretrainSettings()
    tiny = load_settings(PretrainSettings, CONFIGS / "pretrain_tiny.toml")
    assert tiny.architecture == MODELS["tiny"]
