import json
import logging
import math
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator

from fusar_klip import catalog
from fusar_klip.config import load_settings, validate_settings
from fusar_klip.errors import CheckpointError, DatasetError, SettingsError
from fusar_klip.models import MODELS, Klip, KlipNetwork, load
from fusar_klip.pretrain import PretrainSettings, pretrain, validation
from fusar_klip.pretrain.data.dataset import read_segments
from fusar_klip.pretrain.data.image_text_batches import ImageTextBatch
from fusar_klip.pretrain.data.loaders import prepare_run, read_loaders
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.optim import distillation_weight, learning_rate
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.settings import OptimizerSettings
from fusar_klip.pretrain.tasks import klip_train_state as train_state

MakeSettings = Callable[..., PretrainSettings]
WriteBlobs = Callable[[Path, int], Path]
CONFIGS = Path(__file__).parents[2] / "configs"


def test_training_learns_the_texts(blobs: Path, nano_settings: MakeSettings, tmp_path: Path) -> None:
    """Where a blob is and how large, 18 kinds of tiles, is all that texts and pixels have in common."""
    settings = nano_settings(
        epochs=80, seed=2, log_every=20, validate_every=1000, save_every=1000, batch_size=24,
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


def test_run_folder_is_complete(blobs: Path, nano_settings: MakeSettings, tmp_path: Path) -> None:
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
        "step", "epoch", "lr", "loss", "loss_itc", "loss_itm", "loss_mlm", "temperature", "gradient_norm",
        "skipped", "samples_per_s", "utilisation",
    }  # fmt: skip
    assert 0 < first["utilisation"] < 1
    assert first["loss"] == pytest.approx(first["loss_itc"] + first["loss_itm"] + first["loss_mlm"])
    assert summary.steps == 12
    assert summary.epochs == 2
    assert summary.validation["val_tiles"] == 10
    best = max(line.get("val_recall", -1) for line in RunFolder(run).read_metrics())
    at_best = [line for line in RunFolder(run).read_metrics() if line.get("val_recall") == best]
    assert summary.best_step == at_best[0]["step"]
    assert load(run / "best.safetensors").network.settings == settings.architecture


def test_random_state_of_the_caller_is_unchanged(
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


def test_data_sets_that_are_too_small_are_refused(
    blobs: Path, write_blobs: WriteBlobs, nano_settings: MakeSettings, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(DatasetError, match="no data set at"):
        pretrain(tmp_path / "nowhere", run, nano_settings())
    with pytest.raises(DatasetError, match="has no texts v007"):
        pretrain(blobs, run, nano_settings(texts={"version": "v007"}))
    one = write_blobs(tmp_path / "one", 1)
    with pytest.raises(
        DatasetError, match="has 1 kept training tiles with a text, and a contrastive loss needs two"
    ):
        pretrain(one, run, nano_settings())
    silent = write_blobs(tmp_path / "silent", 3)
    (silent / "texts" / "v000.parquet").unlink()
    none = pd.DataFrame(columns=catalog.TEXT_SCHEMA.names)
    catalog.write_texts(silent, "v000", none, parent=None, maker={})
    with pytest.raises(DatasetError, match="run fusar-klip describe"):
        pretrain(silent, run, nano_settings())


def test_few_tiles_give_a_smaller_batch_and_no_validation(
    write_blobs: WriteBlobs, nano_settings: MakeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = write_blobs(tmp_path / "few", 4)
    with caplog.at_level(logging.WARNING):
        summary = pretrain(few, tmp_path / "run", nano_settings(max_steps=2))
    assert "only 4 training tiles: every step uses 4" in caplog.text
    assert summary.validation == {}
    assert summary.best_step == 2
    run = tmp_path / "run"
    assert (run / "best.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    (run / "metrics.jsonl").unlink()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl has no training line: restore that file"):
        pretrain(few, run, nano_settings(max_steps=2), resume=True)


def test_a_loss_that_is_not_finite_is_skipped_and_then_ends_the_run(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = train_state.batch_losses
    # The first call is the count of FLOPs.
    calls = {"count": 0, "bad_until": 4}

    def sometimes_bad(*arguments: Any, **options: Any) -> Any:
        found = losses(*arguments, **options)
        calls["count"] += 1
        if calls["count"] > calls["bad_until"]:
            return found
        return replace(found, by_name={**found.by_name, "itc": found.by_name["itc"] * math.nan})

    monkeypatch.setattr(train_state, "batch_losses", sometimes_bad)
    settings = nano_settings(max_steps=4, validate_every=100)
    summary = pretrain(blobs, tmp_path / "run", settings)
    lines = [line for line in RunFolder(tmp_path / "run").read_metrics() if "loss" in line]
    assert [line["loss"] is None for line in lines] == [True, True, True, False]
    assert [line["skipped"] for line in lines] == [1, 2, 3, 3]
    assert summary.skipped_steps == 3
    # Nothing had changed: the fourth step is as good as a first one with its own draws.
    assert lines[3]["temperature"] == pytest.approx(0.07)
    assert math.isfinite(summary.validation["val_loss_itc"])
    calls.update(count=0, bad_until=1000)
    with pytest.raises(SettingsError, match=r"10 steps in a row were skipped.*is nan.*optimizer\.lr"):
        pretrain(blobs, tmp_path / "bad", nano_settings(validate_every=100))


def test_a_run_that_spikes_ended_resumes_as_its_message_states(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path
) -> None:
    """Nothing is learned here, and any loss above the mean of the window counts as a spike."""

    def settings(**guard: float) -> PretrainSettings:
        still = {"lr": 1e-9, "min_lr": 1e-9, "warmup_lr": 1e-9, "warmup_steps": 0}
        return nano_settings(epochs=4, save_every=1, validate_every=100, optimizer=still, guard=guard)

    run, touchy = tmp_path / "run", {"spike": 1e-9, "window": 10, "patience": 1}
    with pytest.raises(SettingsError, match=r"is a spike.*continue with --resume and a higher guard\.spike"):
        pretrain(blobs, run, settings(**touchy))
    assert 10 <= RunFolder(run).read_metrics()[-1]["step"] < 24
    with pytest.raises(SettingsError, match=r"guard\.window: 10 there, 20 here"):
        pretrain(blobs, run, settings(**touchy | {"window": 20}), resume=True)
    summary = pretrain(blobs, run, settings(**touchy | {"spike": 6.0}), resume=True)
    assert (summary.steps, summary.skipped_steps) == (24, 0)
    assert load_settings(PretrainSettings, run / "config.toml").guard.spike == 6


def test_unreadable_tiles_are_skipped_and_listed(
    write_blobs: WriteBlobs, nano_settings: MakeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_blobs(tmp_path / "data", 12)
    broken = data / "tiles" / "scene" / "tile0003.tif"
    good = broken.read_bytes()
    broken.write_bytes(b"broken")
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        summary = pretrain(data, run, nano_settings(max_steps=3))
    (record,) = caplog.records
    assert "tile0003.tif is not a readable image" in record.getMessage()
    assert summary.unreadable_tiles == ["tile0003"]
    assert RunFolder(run).read_metrics()[0] == {"step": 0, "epoch": 0, "unreadable_tiles": ["tile0003"]}
    # A run resumes only with the tiles that it started with.
    (run / "model.safetensors").unlink()
    broken.write_bytes(good)
    with pytest.raises(CheckpointError, match=r"has changed since .*tiles that cannot be read"):
        pretrain(data, run, nano_settings(max_steps=3), resume=True)


def test_accumulated_gradient_is_the_mean_of_the_micro_batches(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path
) -> None:
    folder, settings = RunFolder(tmp_path), nano_settings(batch_size=16, accumulate=2)
    texts = read_segments(blobs, "v000")
    prepare_run(blobs, folder, settings, texts)
    loaders = read_loaders(blobs, folder, settings, texts, Ranks.single_process())
    micro_batches = loaders.train.micro_batches(0)
    assert [len(micro_batch.tile_ids) for micro_batch in micro_batches] == [8, 8]

    def step(batches: list[ImageTextBatch]) -> tuple[dict[str, float], train_state.KlipTrainState]:
        with torch.random.fork_rng():
            one = train_state.KlipTrainState(settings, loaders.tokenizer, Ranks.single_process())
            return one.step(batches, 0, 3), one

    (both, after), (first, _), (second, _) = (
        step(micro_batches),
        step(micro_batches[:1]),
        step(micro_batches[1:]),
    )
    for name in ("loss", "loss_itc", "loss_itm", "loss_mlm"):
        mean = (first[name] + second[name]) / 2
        assert both[name] == pytest.approx(mean, rel=1e-6)
    assert both["gradient_norm"] < (first["gradient_norm"] + second["gradient_norm"]) / 2
    assert (
        after.queue.ids_q.tolist()
        == torch.cat([micro_batch.tile_ids for micro_batch in micro_batches]).tolist()
    )


@pytest.mark.parametrize("listens", [False, True])
def test_validation_uses_the_ground_spacing_as_training_does(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path, listens: bool
) -> None:
    nano = nano_settings().architecture.model_dump() | {"gsd_embedding": listens}
    folder, settings = RunFolder(tmp_path), nano_settings(architecture=nano)
    texts = read_segments(blobs, "v000")
    prepare_run(blobs, folder, settings, texts)
    loaders = read_loaders(blobs, folder, settings, texts, Ranks.single_process())
    network, tiles = KlipNetwork(settings.architecture, loaders.tokenizer), loaders.train.tiles
    klip = Klip(network, loaders.preprocess, loaders.tokenizer)
    if network.image_tower.gsd_embedding is not None:
        torch.nn.init.normal_(network.image_tower.gsd_embedding.linear.weight)
    spacing = torch.from_numpy(tiles.gsd_m)
    assert 0 < spacing.isnan().sum() < len(tiles)
    with torch.no_grad():
        pixels = klip.preprocess.standardise(tiles.images[tiles.rows])
        expected = network.image_features(network.image_tokens(pixels, spacing)).numpy()
    found = validation._embed_images(klip, tiles, len(tiles))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    if not listens:
        np.testing.assert_array_equal(found, klip.embed_image(list(tiles.images[tiles.rows])))


def test_a_batch_that_cannot_be_divided_is_refused(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"batch_size 8 cannot be divided.*3 x 1.*batch_size=9"):
        pretrain(blobs, tmp_path / "run", nano_settings(accumulate=3))
    # A start that failed leaves nothing in the way of the next.
    summary = pretrain(blobs, tmp_path / "run", nano_settings(accumulate=3, batch_size=9, max_steps=1))
    assert summary.steps == 1


def test_a_batch_of_one_is_refused(nano_settings: MakeSettings) -> None:
    with pytest.raises(SettingsError, match=r"batch_size: .*a contrastive loss needs two tiles per step"):
        nano_settings(batch_size=1)


def test_a_seed_out_of_range_is_refused(nano_settings: MakeSettings) -> None:
    """Each step's own seed follows from it, and has 64 bits."""
    with pytest.raises(SettingsError, match=r"seed: .*less than 4294967296"):
        nano_settings(seed=20_240_101_123_456)


def test_workers_activation_checkpointing_and_tensorboard_change_no_loss(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path
) -> None:
    plain, other = tmp_path / "plain", tmp_path / "other"
    pretrain(blobs, plain, nano_settings(max_steps=5))
    pretrain(blobs, other, nano_settings(
        max_steps=5, workers=2, tensorboard=True, checkpoint_activations=True
    ))  # fmt: skip
    lines, of_other = (RunFolder(run).read_metrics() for run in (plain, other))
    for line, its in zip(lines, of_other, strict=True):
        assert {
            k: v for k, v in line.items() if "loss" in k or "norm" in k or "recall" in k
        } == pytest.approx(
            {k: v for k, v in its.items() if "loss" in k or "norm" in k or "recall" in k}, rel=1e-6
        )
    accumulated = event_accumulator.EventAccumulator(str(other / "tensorboard"))
    accumulated.Reload()
    losses = [event.value for event in accumulated.Scalars("loss/loss_itc")]
    assert losses == pytest.approx([line["loss_itc"] for line in of_other if "loss" in line])
    assert "val/val_recall" in accumulated.Tags()["scalars"]


def test_missing_tensorboard_is_reported(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingsError, match=r'pip install "fusar-klip\[tensorboard\]"'):
        pretrain(blobs, tmp_path / "run", nano_settings(tensorboard=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_layers_give_the_same_losses(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path
) -> None:
    """With the backend that traces and does not generate code; the others differ in rounding."""
    monkeypatch = pytest.MonkeyPatch()
    compiled: list[str] = []

    def compile_layers(self: KlipNetwork) -> None:
        compiled.append("yes")
        for block in self.image_tower.blocks:
            block.compile(backend="eager")

    with monkeypatch.context() as patch:
        patch.setattr(KlipNetwork, "compile_layers", compile_layers)
        pretrain(blobs, tmp_path / "run", nano_settings(max_steps=2, compile=True))
    assert compiled == ["yes"]
    pretrain(blobs, tmp_path / "plain", nano_settings(max_steps=2))
    losses = [
        [line["loss"] for line in RunFolder(tmp_path / name).read_metrics() if "loss" in line]
        for name in ("run", "plain")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_learning_rate_schedule_is_blips() -> None:
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
    with pytest.raises(SettingsError, match="model: input should be 'tiny'"):
        validate_settings(PretrainSettings, {"model": [1]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"scio": {"enabled": True}, "epochs": 2},
            "with scio.enabled the stages have 36 epochs, but epochs is 2: ",
        ),
        (
            {"architecture": {"image_size": 100}},
            "architecture: image_size must be a multiple of patch_size, 16: use 96 or 112 ",
        ),
        (
            {"loss": {"itc": 0, "itm": 0, "mlm": 0}},
            "loss: with all weights 0 nothing is learned: set one of itc, itm, mlm above 0",
        ),
        ({"batch_size": 1}, "batch_size: a contrastive loss needs two tiles per step: use 2 or more"),
    ],
)
def test_contradicting_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        validate_settings(PretrainSettings, values)
    assert str(refused.value).startswith(message)
    assert "given" not in str(refused.value)


def test_the_shipped_configurations() -> None:
    paper = load_settings(PretrainSettings, CONFIGS / "pretrain_paper.toml")
    assert paper == validate_settings(PretrainSettings, {"scio": {"enabled": True}, "batch_size": 256})
    assert paper.epochs == paper.scio.epochs == 36
    fast = load_settings(PretrainSettings, CONFIGS / "pretrain_fast.toml")
    late = {"architecture": {"fusion_layers": 6}, "scio": {"enabled": True}, "batch_size": 256}
    assert fast == validate_settings(PretrainSettings, late)
    tiny = load_settings(PretrainSettings, CONFIGS / "pretrain_tiny.toml")
    assert tiny.architecture == MODELS["tiny"]


def test_a_damaged_line_of_the_metrics_is_ignored(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1})
    with folder.metrics.open("ab") as file:
        file.write(b"\0\0\xff\n")
    folder.append_metrics({"step": 2})
    assert folder.read_metrics() == [{"step": 1}, {"step": 2}]


def test_every_line_of_the_metrics_is_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 3, "loss": math.nan, "gradient_norm": math.inf, "texts": "v001"})
    (line,) = folder.metrics.read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 3, "loss": None, "gradient_norm": None, "texts": "v001",
    }  # fmt: skip
