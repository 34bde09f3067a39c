"""SCIO inside a run: the texts of each stage, and exact resuming within and between stages."""

import math
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fusar_klip import catalog
from fusar_klip.errors import CheckpointError
from fusar_klip.models import Tokenizer
from fusar_klip.pretrain import PretrainSettings, PretrainSummary
from fusar_klip.pretrain import pretrain as train
from fusar_klip.pretrain.data.dataset import read_segments, read_split, with_text_version
from fusar_klip.pretrain.optim import LossSpikeDetector
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.stages import StagePosition
from fusar_klip.pretrain.tasks.klip_train_state import KlipTrainState
from fusar_klip.pretrain.text_versions import TextVersions
from fusar_klip.scio import Negatives, dataset_pass, refine_texts

pretrain = partial(train, refine_texts=refine_texts)

MakeSettings = Callable[..., PretrainSettings]
CLOCK = ("samples_per_s", "utilisation")
STAGES: dict[str, Any] = {
    "enabled": True, "align_epochs": 1, "screen_epochs": 2, "reconstruct_epochs": 1, "max_new_tokens": 8
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(nano_settings: MakeSettings) -> PretrainSettings:
    """Four epochs of three steps: alignment, two of screening, reconstruction."""
    return nano_settings(epochs=4, batch_size=16, scio=STAGES, save_every=2, validate_every=100)


@pytest.fixture(scope="module")
def whole(
    blobs: Path, settings: PretrainSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, PretrainSummary]:
    """A data set of its own, and a run on it that nothing interrupted."""
    folder = tmp_path_factory.mktemp("scio")
    shutil.copytree(blobs, folder / "data")
    return folder / "data", folder / "run", pretrain(folder / "data", folder / "run", settings)


def numbers(run: Path) -> list[dict[str, Any]]:
    lines = RunFolder(run).read_metrics()
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def test_a_run_has_all_stages(whole: tuple[Path, Path, PretrainSummary]) -> None:
    data, run, summary = whole
    assert catalog.text_versions(data) == ["v000", "v001", "v002", "v003"]
    lines = numbers(run)
    steps = [line for line in lines if "loss" in line]
    assert [line["stage"] for line in steps] == [1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3]
    passes = [line for line in lines if "texts" in line]
    assert [(line["step"], line["texts"]) for line in passes] == [(4, "v001"), (7, "v002"), (10, "v003")]
    assert all(line["scio_kept"] + line["scio_noise"] == line["scio_segments"] == 200 for line in passes[:2])
    assert passes[0]["scio_noise"] > 0, "a fresh model finds something to doubt, or this test shows nothing"
    # Each screening judges the whole texts; reconstruction continues from the last screening.
    parents = [catalog.read_text_metadata(data, version)["parent"] for version in ("v001", "v002", "v003")]
    assert parents == ["v000", "v000", "v002"]
    assert summary.texts == "v003"
    judged = catalog.read_texts(data, "v001", in_use=False)
    val = set(range(5, 60, 6))
    is_val = judged["tile_id"].isin([f"tile{number:04d}" for number in val])
    assert set(judged.loc[is_val, "verdict"]) == {"original"}, "validation texts stay as they are"


def test_a_second_iteration_starts_from_the_texts_of_the_first(
    nano_settings: MakeSettings, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pass asks the queue as it is for its negatives, and each stage begins a new window of losses."""
    data, references, resets = shutil.copytree(blobs, tmp_path / "data"), [], []
    reset_window = LossSpikeDetector.reset_window

    def seen(*arguments: Any, **options: Any) -> Any:
        references.append(Negatives.of_queue(options["queue"]).ids_q.tolist())
        return refine_texts(*arguments, **options)

    def counted(detector: LossSpikeDetector) -> None:
        resets.append(detector)
        reset_window(detector)

    monkeypatch.setattr(LossSpikeDetector, "reset_window", counted)
    stages = STAGES | {"screen_epochs": 1, "max_iter": 2}
    settings = nano_settings(epochs=6, batch_size=16, scio=stages, validate_every=100)
    summary = train(data, tmp_path / "run", settings, refine_texts=seen)
    steps = [line for line in numbers(tmp_path / "run") if "loss" in line]
    assert [line["stage"] for line in steps] == [1, 1, 1, 2, 2, 2, 3, 3, 3] * 2
    versions_of = ("v001", "v002", "v003", "v004")
    parents = [catalog.read_text_metadata(data, version)["parent"] for version in versions_of]
    assert parents == ["v000", "v001", "v002", "v003"]
    assert summary.texts == "v004"
    # 48 pairs after three steps, and 50 at most.
    assert [len(ids) for ids in references] == [48, 50, 50, 50]
    assert len({*references[0]}) == 48
    assert len(resets) == 6


def test_odd_texts_and_an_unreadable_tile_in_all_stages(
    nano_settings: MakeSettings, blobs: Path, tmp_path: Path
) -> None:
    """Texts that say nothing, of a single segment, without end, and a broken tile in the middle."""
    data = shutil.copytree(blobs, tmp_path / "data")
    texts = catalog.read_texts(data)
    texts.loc[texts["tile_id"].isin(["tile0000", "tile0005"]), "text"] = ""
    texts.loc[texts["tile_id"] == "tile0001", "text"] = "bright water north of the quay " * 60
    texts = texts[(texts["tile_id"] != "tile0002") | (texts["field"] == "Size")]
    (data / "texts" / "v000.parquet").unlink()
    catalog.write_texts(data, "v000", texts, parent=None, maker={})
    (data / "tiles" / "scene" / "tile0020.tif").write_bytes(b"II*\0 broken")
    shutil.rmtree(data / "cache", ignore_errors=True)
    stages = STAGES | {"screen_epochs": 1}
    settings = nano_settings(epochs=3, batch_size=16, scio=stages, texts={"vocab_size": 256})
    summary = pretrain(data, tmp_path / "run", settings)
    assert summary.unreadable_tiles == ["tile0020"]
    assert summary.skipped_steps == 0
    assert all(math.isfinite(line["loss"]) for line in numbers(tmp_path / "run") if "loss" in line)
    judged = catalog.read_texts(data, "v002", in_use=False).set_index("tile_id")
    # Whoever has one segment keeps it, and whoever has no picture is not judged.
    assert judged.loc["tile0002", "verdict"] == "kept"
    assert set(judged.loc["tile0020", "verdict"]) == {"original"}


class PowerCutError(Exception):
    """Nothing catches it."""


# Before the first pass, in stage 2 after an unsaved pass, at its second pass, at stage 3's, and within it.
@pytest.mark.parametrize("at", [3, 4, 5, 6, 9, 10])
def test_a_crash_between_and_within_stages_resumes_to_the_same_bits(
    settings: PretrainSettings,
    whole: tuple[Path, Path, PretrainSummary],
    blobs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(blobs, data)
    step = KlipTrainState.step

    def crash(self: KlipTrainState, parts: Any, number: int, per_epoch: int) -> Any:
        if number == at:
            raise PowerCutError
        return step(self, parts, number, per_epoch)

    with monkeypatch.context() as patch:
        patch.setattr(KlipTrainState, "step", crash)
        with pytest.raises(PowerCutError):
            pretrain(data, run, settings)
    pretrain(data, run, settings, resume=True)
    assert numbers(run) == numbers(whole[1])
    assert (run / "model.safetensors").read_bytes() == (whole[1] / "model.safetensors").read_bytes()
    assert catalog.text_versions(data) == catalog.text_versions(whole[0]), "no pass has left two versions"
    for version in ("v001", "v002", "v003"):
        name = f"texts/{version}.parquet"
        assert (data / name).read_bytes() == (whole[0] / name).read_bytes()


def test_sigterm_stops_a_pass_at_once_and_loses_no_step(
    settings: PretrainSettings,
    whole: tuple[Path, Path, PretrainSummary],
    blobs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever `save_every` says: a pass may take as long as an epoch."""
    data, run, done = shutil.copytree(blobs, tmp_path / "data"), tmp_path / "run", []
    refine = dataset_pass.refine_batch

    def told_to_stop(*arguments: Any) -> Any:
        done.append(refine(*arguments))
        os.kill(os.getpid(), signal.SIGTERM)
        return done[-1]

    rarely = settings.model_copy(update={"save_every": 1000})
    with monkeypatch.context() as patch:
        patch.setattr(dataset_pass, "refine_batch", told_to_stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(data, run, rarely)
    assert len(done) == 1
    assert torch.load(run / "state" / "training.pt", weights_only=True)["step"] == 3
    pretrain(data, run, rarely, resume=True)
    assert numbers(run) == numbers(whole[1])
    assert (run / "model.safetensors").read_bytes() == (whole[1] / "model.safetensors").read_bytes()


def test_texts_that_changed_under_a_run_are_refused(
    settings: PretrainSettings, whole: tuple[Path, Path, PretrainSummary], tmp_path: Path
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(whole[0], data)
    shutil.copytree(whole[1], run)
    (run / "model.safetensors").unlink()
    (data / "texts" / "v003.parquet").unlink()
    with pytest.raises(CheckpointError, match=r"v003 .*have changed: restore them"):
        pretrain(data, run, settings, resume=True)


def test_texts_of_each_stage(whole: tuple[Path, Path, PretrainSummary]) -> None:
    data, run, _ = whole
    tokenizer = Tokenizer.from_file(run / "tokenizer.json")
    tiles = read_split(data, "train", read_segments(data, "v000"), tokenizer, image_size=32, max_tokens=64)
    judged = catalog.read_texts(data, "v002", in_use=False).set_index(["tile_id", "field"])["verdict"]
    screened = with_text_version(tiles, data, "v002", "v000", tokenizer, max_tokens=64)
    in_use = with_text_version(tiles, data, "v003", "v003", tokenizer, max_tokens=64)
    fields = ("Count", "Location", "Size", "Region")
    used = read_segments(data, "v003")
    for place, tile_id in enumerate(tiles.tile_ids):
        # Stage 2 shows the whole text, and knows which of it is noise.
        assert screened.segments[place] == tiles.segments[place]
        noise = {number for number, field in enumerate(fields) if judged[tile_id, field] == "noise"}
        assert screened.noise.get(place, frozenset()) == noise
        # Stage 3 shows what is in use.
        if tile_id in used:
            assert in_use.segments[place] == tokenizer.segments(used[tile_id], 64)
            assert place not in in_use.noise
    assert len(screened.noise) > 0


def test_a_text_that_is_all_noise_is_shown_and_not_masked(
    blobs: Path, whole: tuple[Path, Path, PretrainSummary], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(blobs, data)
    texts = catalog.read_texts(data)
    texts.loc[texts["tile_id"] == "tile0000", "verdict"] = "noise"
    catalog.write_texts(data, "v001", texts, parent="v000", maker={})
    tokenizer = Tokenizer.from_file(whole[1] / "tokenizer.json")
    tiles = read_split(data, "train", read_segments(data, "v000"), tokenizer, image_size=32, max_tokens=64)
    shown = with_text_version(tiles, data, "v001", "v001", tokenizer, max_tokens=64)
    assert shown.segments[0] == tiles.segments[0]
    assert shown.noise == {0: frozenset({0, 1, 2, 3})}


def test_a_stage_starts_with_the_decisions_of_the_previous_one() -> None:
    screened = TextVersions(judged="v002", shown="v000")
    assert screened.at_stage_start(StagePosition(0, "screen", is_first=False, refines=True)) == screened
    assert screened.at_stage_start(StagePosition(1, "align", is_first=True, refines=False)) == TextVersions(
        "v002", "v002"
    )
