"""`fusar-klip pretrain`: one loop that reads top to bottom - texts, batch, step, log, validate, save.

Alone, or in each of the processes that torchrun starts (`ranks`). What is learnt from what is the objective's
(`course`): the paper's (`vision_language`), or one of its single-modal baselines (`baselines`).
"""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fusar_klip.errors import CheckpointError
from fusar_klip.pretrain.distributed import Ranks, joined_ranks
from fusar_klip.pretrain.metrics import MetricsLog
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.signals import stop_requests
from fusar_klip.pretrain.tasks.image_only import BASELINES
from fusar_klip.pretrain.tasks.klip import VISION_LANGUAGE
from fusar_klip.pretrain.tasks.training_task import Course, Objective
from fusar_klip.pretrain.throughput import Pace, matrix_rate
from fusar_klip.progress import progress_bar

_log = logging.getLogger(__name__)

OBJECTIVES: Mapping[str, Objective] = {"klip": VISION_LANGUAGE, **BASELINES}
"""What may be learnt, by `PretrainSettings.objective`."""

_WORKERS_PER_GPU = 4


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
        skipped_steps: Steps that were left out: their loss was not finite, or a spike.
        unreadable_tiles: Tiles that could not be read and were left out, by name.
        texts: The text version in use at the end; with SCIO, one that the run has made. Empty where the
            objective reads no texts.
    """

    run: str
    steps: int
    epochs: int
    last: dict[str, float | None]
    validation: dict[str, float | None]
    best_step: int
    skipped_steps: int
    unreadable_tiles: list[str]
    texts: str


def pretrain(
    dataset: Path, run: Path, settings: PretrainSettings, *, resume: bool = False
) -> PretrainSummary:
    """Train a model on the training tiles of `dataset` into the folder `run`.

    A run that was interrupted in any way goes on with `resume` as if it had not been: on the CPU, with the
    same number of threads and processes, its losses are the same to the bit.

    Args:
        dataset: A data set; with texts, unless the objective is a baseline. With SCIO the run adds text
            versions to it.
        run: The folder to make; with `resume` it may be there.
        settings: See `PretrainSettings`.
        resume: Go on from the last saved state; a run that has ended is left as it is.

    Raises:
        SettingsError: `run` is there and `resume` is not given; the settings are others than the run's, or do
            not fit the machine; or too many steps in a row had to be left out.
        DatasetError: The data set is missing, has no texts, or fewer than two training tiles.
        CheckpointError: Weights to start from do not fit, the data set has changed since the run began, the
            disk is full, or an ended run's metrics.jsonl is gone.
        KeyboardInterrupt: On SIGINT or SIGTERM, after the state was saved: between two steps, or at once
            within a pass of SCIO.
    """
    folder, objective = RunFolder(run), OBJECTIVES[settings.objective]
    with joined_ranks(settings.device) as ranks, torch.random.fork_rng(ranks.gpus):

        def begin() -> dict[str, str]:
            folder.check_free(resume=resume)
            return objective.begin(dataset, folder, settings)

        data = ranks.first_does(begin)
        if not folder.weights.is_file():
            course = objective.open(dataset, folder, settings, ranks)
            ranks.first_does(lambda: folder.set_up(settings, data))
            _train(folder, settings, objective, course, ranks)
        return _summary(folder, settings, objective)


def _train(
    folder: RunFolder, settings: PretrainSettings, objective: Objective, course: Course, ranks: Ranks
) -> None:
    train, learner, per_epoch = course.train, course.learner, course.train.steps_per_epoch
    total = settings.total_steps(per_epoch)
    done, best = _resumed(folder, course)
    saved = done
    pace = Pace(learner.device, train.batch_size, learner.flops(train.at(done)), matrix_rate(learner.device))
    feed: Iterator[list[Any]] | None = None
    with (
        stop_requests() as stop,
        MetricsLog(folder, done, tensorboard=settings.tensorboard, writes=ranks.first) as log,
        progress_bar() as bar,
    ):
        if course.unreadable and not done:
            log.add({"step": 0, "epoch": 0, "unreadable_tiles": list(course.unreadable)})
        task = bar.add_task("Pretraining", total=total, completed=done)
        for step in range(done, total):
            done = step + 1
            at = {"step": done, "epoch": step // per_epoch, **course.stage(step)}

            takes_long = course.looks_at_texts(step)
            if takes_long and saved != step:
                # A pass may take as long as an epoch: whatever ends it shall cost no step.
                learner.save(folder.training, step, {"best": best, **course.state()})
            with stop.at_once(takes_long):
                changed, found = course.before(step)
            if found:
                log.add({**at, **found})
            if changed or feed is None:
                feed = train.read_ahead(range(step, total), _workers(settings, ranks), pin=ranks.on_gpu)

            with pace:
                parts = [part.to(learner.device) for part in next(feed)]
                report = learner.step(parts, step, per_epoch)
            bar.update(task, completed=done, description=f"Pretraining, loss {report.loss:.2f}{pace}")

            if done % settings.log_every == 0 or done == total:
                log.add({**at, **asdict(report), **pace.read()})

            if course.validates and (done % settings.validate_every == 0 or done == total):
                values = course.validate()
                log.add({**at, **values})
                score = objective.score(values)
                if math.isfinite(score) and (best is None or score > best):
                    best = score
                    course.save_weights(folder.best)
                _log.info("step %d: %s", done, values)

            stopping = ranks.any(stop.made)
            if done % settings.save_every == 0 or done == total or stopping:
                learner.save(folder.training, done, {"best": best, **course.state()})
                saved = done
            if stopping:
                raise KeyboardInterrupt
    if best is None:
        course.save_weights(folder.best)
    course.save_weights(folder.weights)
    ranks.wait()


def _resumed(folder: RunFolder, course: Course) -> tuple[int, float | None]:
    """Go on from the last saved state, if there is one; return the steps done and the best score so far."""
    if not folder.training.is_file():
        return 0, None
    state = course.learner.restore(folder.training)
    course.load_state(state)
    return state["step"], state["best"]


def _workers(settings: PretrainSettings, ranks: Ranks) -> int:
    if settings.workers is not None:
        return settings.workers
    # On the CPU the cores have enough to do.
    return _WORKERS_PER_GPU if ranks.on_gpu else 0


def _summary(folder: RunFolder, settings: PretrainSettings, objective: Objective) -> PretrainSummary:
    lines = folder.read_metrics()
    training = [line for line in lines if "loss" in line]
    if not training:
        raise CheckpointError(
            f"{folder.path} has ended, and {folder.metrics} tells nothing of it: bring that file back; the "
            "weights are whole"
        )
    validation = [line for line in lines if objective.best in line]
    # The first of equals is the one that was saved; null is a number that was not finite.
    sound = [line for line in validation if line[objective.best] is not None]
    best = max(sound, key=objective.score, default=training[-1])
    texts = settings.texts.version if settings.objective == "klip" else ""
    return PretrainSummary(
        run=str(folder.path),
        steps=training[-1]["step"],
        epochs=training[-1]["epoch"] + 1,
        last=training[-1],
        validation=validation[-1] if validation else {},
        best_step=best["step"],
        skipped_steps=training[-1]["skipped"],
        unreadable_tiles=next((line["unreadable_tiles"] for line in lines if "unreadable_tiles" in line), []),
        texts=next((line["texts"] for line in reversed(lines) if "texts" in line), texts),
    )
