"""`fusar-klip pretrain`: one training loop that reads top to bottom: texts, batch, step, log, validate, save.

It runs in one process, or in each of the processes that torchrun starts (`distributed`). The training task
decides what is learned from which data: the paper's (`tasks.klip`), or MAE and MoCo v3 (`tasks.image_only`).
"""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fusar_klip.errors import CheckpointError
from fusar_klip.pretrain.distributed import Ranks, init_ranks
from fusar_klip.pretrain.metrics import MetricsLog, Throughput, peak_matmul_flops
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.signals import stop_requests
from fusar_klip.pretrain.tasks.image_only import IMAGE_ONLY_TASKS
from fusar_klip.pretrain.tasks.klip import KLIP_TASK
from fusar_klip.pretrain.tasks.training_task import TaskSpec, TrainingTask
from fusar_klip.pretrain.text_versions import RefineTexts
from fusar_klip.progress import progress_bar

_log = logging.getLogger(__name__)

TASKS: Mapping[str, TaskSpec] = {"klip": KLIP_TASK, **IMAGE_ONLY_TASKS}
"""The pretraining tasks, by `PretrainSettings.objective`."""

_WORKERS_PER_GPU = 4


@dataclass(frozen=True)
class PretrainSummary:
    """A finished run.

    Attributes:
        run: Its folder.
        steps: Steps done.
        epochs: Passes over the training tiles; a started pass counts as one.
        last: The last training line of metrics.jsonl.
        validation: The last validation line; empty with fewer than two validation tiles.
        best_step: The step whose weights are in best.safetensors.
        skipped_steps: Steps that were skipped, because their loss was not finite or a spike.
        unreadable_tiles: Names of the tiles that could not be read and were skipped.
        texts: The text version in use at the end; with SCIO, one that the run has made. Empty if the task
            reads no texts.
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
    dataset: Path,
    run: Path,
    settings: PretrainSettings,
    *,
    resume: bool = False,
    refine_texts: RefineTexts | None = None,
) -> PretrainSummary:
    """Train a model on the training tiles of `dataset` into the folder `run`.

    With `resume`, an interrupted run continues as if it had not been interrupted: on the CPU, with the same
    number of threads and processes, its losses are equal bit for bit.

    Args:
        dataset: A data set; with texts, unless the task is MAE or MoCo v3. With SCIO the run adds text
            versions to it.
        run: The folder to create; with `resume` it may exist.
        settings: See `PretrainSettings`.
        resume: Continue from the last saved state; a finished run is left unchanged.
        refine_texts: SCIO's pass, `fusar_klip.scio.refine_texts`; needed with `scio.enabled`.

    Raises:
        SettingsError: `run` exists and `resume` is not given; the settings differ from the run's, or do not
            fit the machine; or too many steps in a row were skipped.
        DatasetError: The data set is missing, has no texts, or fewer than two training tiles.
        CheckpointError: Initial weights do not fit, the data set has changed since the run started, the disk
            is full, or the metrics.jsonl of a finished run is missing.
        KeyboardInterrupt: On SIGINT or SIGTERM, after the state was saved: between two steps, or at once
            within a SCIO pass.
    """
    folder, spec = RunFolder(run), TASKS[settings.objective]
    with init_ranks(settings.device) as ranks, torch.random.fork_rng(ranks.gpus):

        def prepare() -> dict[str, str]:
            folder.check_free(resume=resume)
            return spec.prepare(dataset, folder, settings)

        checksums = ranks.run_in_first(prepare)
        if not folder.weights.is_file():
            task = spec.open(dataset, folder, settings, ranks, refine_texts)
            ranks.run_in_first(lambda: folder.set_up(settings, checksums))
            _train(folder, settings, spec, task, ranks)
        return _summary(folder, settings, spec)


def _train(
    folder: RunFolder, settings: PretrainSettings, spec: TaskSpec, task: TrainingTask, ranks: Ranks
) -> None:
    train, train_state, per_epoch = task.train, task.train_state, task.train.steps_per_epoch
    device, total = train_state.device, settings.total_steps(per_epoch)
    done, best = _resume(folder, task)
    saved = done
    flops = train_state.flops(train.micro_batches(done))
    throughput = Throughput(train.batch_size, flops, peak_matmul_flops(device))
    batches: Iterator[list[Any]] | None = None
    with (
        stop_requests() as stop,
        MetricsLog(folder, done, tensorboard=settings.tensorboard, writes=ranks.first) as log,
        progress_bar() as bar,
    ):
        if task.unreadable and not done:
            log.add({"step": 0, "epoch": 0, "unreadable_tiles": list(task.unreadable)})
        bar_task = bar.add_task("Pretraining", total=total, completed=done)
        for step in range(done, total):
            done = step + 1
            position = {"step": done, "epoch": step // per_epoch, **task.stage(step)}

            runs_pass = task.runs_scio_pass(step)
            if runs_pass and saved != step:
                # A pass may take as long as an epoch: an interruption within it must not cost a step.
                train_state.save(folder.training, step, {"best": best, **task.state()})
            with stop.immediately(runs_pass):
                texts_changed, pass_counts = task.before_step(step)
            if pass_counts:
                log.add({**position, **pass_counts})
            if texts_changed or batches is None:
                batches = train.prefetch(range(step, total), _workers(settings, ranks), pin=ranks.on_gpu)

            with throughput:
                micro_batches = [micro_batch.to(device) for micro_batch in next(batches)]
                report = train_state.step(micro_batches, step, per_epoch)
            description = f"Pretraining, loss {report['loss']:.2f}{throughput}"
            bar.update(bar_task, completed=done, description=description)

            if done % settings.log_every == 0 or done == total:
                log.add({**position, **report, **throughput.read()})

            if task.validates and (done % settings.validate_every == 0 or done == total):
                values = task.validate()
                log.add({**position, **values})
                score = spec.score(values)
                if math.isfinite(score) and (best is None or score > best):
                    best = score
                    task.save_weights(folder.best)
                _log.info("step %d: %s", done, values)

            stopping = ranks.any(stop.requested)
            if done % settings.save_every == 0 or done == total or stopping:
                train_state.save(folder.training, done, {"best": best, **task.state()})
                saved = done
            if stopping:
                raise KeyboardInterrupt
    if best is None:
        task.save_weights(folder.best)
    task.save_weights(folder.weights)
    ranks.barrier()


def _resume(folder: RunFolder, task: TrainingTask) -> tuple[int, float | None]:
    """Load the last saved state, if there is one; return the steps done and the best score so far."""
    if not folder.training.is_file():
        return 0, None
    state = task.train_state.restore(folder.training)
    task.load_state(state)
    return state["step"], state["best"]


def _workers(settings: PretrainSettings, ranks: Ranks) -> int:
    if settings.workers is not None:
        return settings.workers
    # On the CPU, training itself uses all cores.
    return _WORKERS_PER_GPU if ranks.on_gpu else 0


def _summary(folder: RunFolder, settings: PretrainSettings, spec: TaskSpec) -> PretrainSummary:
    lines = folder.read_metrics()
    training = [line for line in lines if "loss" in line]
    if not training:
        raise CheckpointError(
            f"{folder.path} is finished, but {folder.metrics} has no training line: restore that file; the "
            "weights are complete"
        )
    validation = [line for line in lines if spec.best in line]
    # Of equal scores the first was saved; null stands for a number that was not finite.
    finite = [line for line in validation if line[spec.best] is not None]
    best = max(finite, key=spec.score, default=training[-1])
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
