"""What a pretraining task provides to the loop in `train.py`: its data, its train state, and its hooks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from fusar_klip.pretrain.data.sampler import StepBatches
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.text_versions import RefineTexts

StepReport = Mapping[str, float]
"""The values of one step for metrics.jsonl: `lr`, `loss`, ..., `skipped` (steps skipped so far)."""


class TrainState(Protocol):
    """Everything that training changes: weights, momentum encoders, queue, optimizer."""

    device: torch.device

    def step(self, micro_batches: Sequence[Any], step: int, steps_per_epoch: int) -> StepReport:
        """Train on one batch, given as micro-batches."""

    def flops(self, micro_batches: Sequence[Any]) -> int:
        """Return the FLOPs of a step on this process's share of a batch; nothing changes."""

    def save(self, path: Path, step: int, progress: Mapping[str, Any]) -> None:
        """Write everything that a resume after `step` steps needs, atomically."""

    def restore(self, path: Path) -> dict[str, Any]:
        """Load the state in `path`; return `step` and the progress that `save` was given."""


class TrainingTask(Protocol):
    """One run of one task: see `tasks.klip` and `tasks.image_only`."""

    @property
    def train_state(self) -> TrainState:
        """Weights and optimizer."""

    @property
    def train(self) -> StepBatches[Any]:
        """The training batches."""

    @property
    def validates(self) -> bool:
        """Whether there are validation tiles."""

    @property
    def unreadable(self) -> Sequence[str]:
        """tile_ids of the tiles that cannot be read and are skipped."""

    def stage(self, step: int) -> dict[str, int]:
        """Return the stage of `step` for the log; empty without stages."""

    def runs_scio_pass(self, step: int) -> bool:
        """Return whether `before_step` takes long; it may then be interrupted anywhere, and resumes there."""

    def before_step(self, step: int) -> tuple[bool, dict[str, Any]]:
        """Prepare `step`; return whether the batches have changed, and values for the log."""

    def validate(self) -> dict[str, float]:
        """Return losses and metrics on the validation tiles."""

    def save_weights(self, path: Path) -> None:
        """Write a safetensors file; only the first process writes."""

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs, beside the train state."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""


@dataclass(frozen=True)
class TaskSpec:
    """A pretraining task.

    Attributes:
        prepare: Checks the data set, checks that the run may start or resume, and writes what is made once;
            returns the checksums of the data. Only the first process calls it.
        open: Makes the `TrainingTask`. Every process calls it. The last argument is SCIO's pass.
        best: The validation metric that chooses best.safetensors.
        higher_is_better: The direction of that metric.
    """

    prepare: Callable[[Path, RunFolder, PretrainSettings], dict[str, str]]
    open: Callable[[Path, RunFolder, PretrainSettings, Ranks, RefineTexts | None], TrainingTask]
    best: str
    higher_is_better: bool

    def score(self, values: Mapping[str, float]) -> float:
        """Return a number that grows as the model improves."""
        return values[self.best] if self.higher_is_better else -values[self.best]
