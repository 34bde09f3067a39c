"""`fusar-klip pretrain`: one loop that reads top to bottom - batch, step, log, validate, save.

SCIO's screening and reconstruction (paper 3.4, stages 2 and 3) are not here yet; this is stage 1.
"""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.models import Klip, Preprocess, Tokenizer
from fusar_klip.models.checkpoint import save_weights
from fusar_klip.pretrain.batches import Batches
from fusar_klip.pretrain.corpus import (
    TextedTiles,
    fingerprint,
    measure_preprocess,
    read_segments,
    read_split,
    training_texts,
)
from fusar_klip.pretrain.interrupt import stop_requests
from fusar_klip.pretrain.learner import Learner
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.validation import validate
from fusar_klip.progress import progress_bar

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainSummary:
    """A run that has ended.

    Attributes:
        run: Its folder.
        steps: Steps done.
        epochs: Passes over the training tiles, a part of one counted in full.
        last: The last logged line of training in metrics.jsonl.
        validation: The last line of validation; empty where there are fewer than two validation tiles.
        best_step: The step whose weights are in best.safetensors.
    """

    run: str
    steps: int
    epochs: int
    last: dict[str, float]
    validation: dict[str, float]
    best_step: int


@dataclass(frozen=True)
class _Materials:
    """What the loop reads: training and validation batches, and the validation tiles themselves."""

    tokenizer: Tokenizer
    preprocess: Preprocess
    train: Batches
    val: Batches | None
    val_tiles: TextedTiles


def pretrain(
    dataset: Path, run: Path, settings: PretrainSettings, *, resume: bool = False
) -> PretrainSummary:
    """Train a model on the texted training tiles of `dataset` into the folder `run`.

    A run that was interrupted in any way goes on with `resume` as if it had not been: on the CPU, with the
    same number of threads, its losses are the same to the bit.

    Args:
        dataset: A data set with texts.
        run: The folder to make; with `resume` it may be there.
        settings: See `PretrainSettings`.
        resume: Go on from the last saved state; a run that has ended is left as it is.

    Raises:
        SettingsError: `run` is there and `resume` is not given; the settings are others than the run's; or
            the loss stays infinite.
        DatasetError: The data set is missing, has no texts, or fewer than two training tiles.
        CheckpointError: Weights to start from do not fit, or the data set has changed since the run began.
        KeyboardInterrupt: On SIGINT or SIGTERM, after the state was saved.
    """
    folder = RunFolder(run)
    segments = read_segments(dataset, settings.texts.version)
    data = fingerprint(dataset, settings.texts.version)
    folder.check(settings, data, resume=resume)
    if folder.weights.is_file():
        return _summary(folder, settings)
    with torch.random.fork_rng():
        materials = _prepare(dataset, folder, settings, segments)
        learner = Learner(settings, materials.tokenizer, _device(settings.device))
        folder.set_up(settings, data)
        _train(folder, settings, materials, learner)
    return _summary(folder, settings)


def _train(folder: RunFolder, settings: PretrainSettings, materials: _Materials, learner: Learner) -> None:
    train = materials.train
    total = min(settings.epochs * train.steps_per_epoch, settings.max_steps or 2**63)
    klip = Klip(learner.network, materials.preprocess, materials.tokenizer, learner.device)
    done, best = learner.restore(folder.training) if folder.training.is_file() else (0, -1.0)
    folder.forget_metrics_after(done)
    began, logged = time.perf_counter(), done
    with stop_requests() as stop, progress_bar() as bar:
        task = bar.add_task("Pretraining", total=total, completed=done)
        for step in range(done, total):
            report = learner.step(train.at(step).to(learner.device), step, train.steps_per_epoch)
            done = step + 1
            place = {"step": done, "epoch": step // train.steps_per_epoch}
            bar.update(task, completed=done, description=f"Pretraining, loss {report.loss:.2f}")

            if done % settings.log_every == 0 or done == total:
                now = time.perf_counter()
                speed = (done - logged) * train.batch_size / (now - began)
                began, logged = now, done
                folder.append_metrics({**place, **asdict(report), "samples_per_s": round(speed, 1)})

            if materials.val and (done % settings.validate_every == 0 or done == total):
                values = validate(learner, klip, materials.val_tiles, materials.val)
                folder.append_metrics({**place, **values})
                if values["val_recall"] > best:
                    best = values["val_recall"]
                    save_weights(learner.network, folder.best)
                _log.info("step %d: %s", done, values)

            if done % settings.save_every == 0 or done == total or stop.made:
                learner.save(folder.training, done, best)
            if stop.made:
                raise KeyboardInterrupt
    if not materials.val:
        save_weights(learner.network, folder.best)
    save_weights(learner.network, folder.weights)


def _prepare(
    dataset: Path, folder: RunFolder, settings: PretrainSettings, segments: dict[str, list[str]]
) -> _Materials:
    """Read the data set; a run that is set up keeps its own tokenizer and preprocessing."""
    model = settings.architecture
    if folder.is_set_up():
        tokenizer = Tokenizer.from_file(folder.tokenizer)
        preprocess = Preprocess.from_file(folder.preprocess)
    else:
        preprocess = measure_preprocess(dataset, model.image_size)
        tokenizer = _new_tokenizer(dataset, settings, segments)
        preprocess.save(folder.preprocess)
        tokenizer.save(folder.tokenizer)
    train, val = (
        read_split(
            dataset, split, segments, tokenizer, image_size=model.image_size, max_tokens=model.max_tokens
        )
        for split in ("train", "val")
    )
    if len(train) < 2:
        raise DatasetError(
            f"{dataset} has {len(train)} kept training tiles with a text, and contrast needs two: "
            "build it from more scenes, or describe it"
        )
    if len(train) < settings.batch_size:
        _log.warning(
            "only %d training tiles: every step takes them all, not %d", len(train), settings.batch_size
        )
    if len(val) < 2:
        _log.warning("%d validation tiles: no validation, and the best weights are the last", len(val))

    def batches(tiles: TextedTiles, min_segments: int | None) -> Batches:
        return Batches(
            tiles,
            tokenizer,
            preprocess,
            settings.masking,
            batch_size=min(settings.batch_size, len(tiles)),
            min_segments=min_segments,
            seed=settings.seed,
        )

    return _Materials(
        tokenizer,
        preprocess,
        train=batches(train, settings.texts.min_segments),
        val=batches(val, None) if len(val) >= 2 else None,
        val_tiles=val,
    )


def _new_tokenizer(dataset: Path, settings: PretrainSettings, segments: dict[str, list[str]]) -> Tokenizer:
    if settings.tokenizer:
        return Tokenizer.from_file(Path(settings.tokenizer))
    if settings.init.text:
        raise SettingsError("init.text needs the vocabulary of its weights: add --set tokenizer=VOCAB.TXT")
    return Tokenizer.train(training_texts(dataset, segments), settings.texts.vocab_size)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device is cuda, but torch sees no GPU here: use --set device=cpu")
    return torch.device(
        "cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu")
    )


def _summary(folder: RunFolder, settings: PretrainSettings) -> PretrainSummary:
    lines = folder.read_metrics()
    training = [line for line in lines if "loss" in line]
    validation = [line for line in lines if "val_recall" in line]
    # The first of equals is the one that was saved.
    best = max(validation, key=lambda line: line["val_recall"], default=training[-1])
    return PretrainSummary(
        run=str(folder.path),
        steps=training[-1]["step"],
        epochs=training[-1]["epoch"] + 1,
        last=training[-1],
        validation=validation[-1] if validation else {},
        best_step=best["step"],
    )
