"""What an objective brings to the loop: its data, its learner, and what becomes of both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from fusar_klip.pretrain.data.sampler import StepBatches
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.settings import PretrainSettings


class Report(Protocol):
    """What a step did: a dataclass whose fields go into metrics.jsonl; `skipped` is the steps left out."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def loss(self) -> float:
        """What was descended."""


class StepLearner(Protocol):
    """Everything that training changes."""

    device: torch.device

    def step(self, parts: Sequence[Any], step: int, steps_per_epoch: int) -> Report:
        """Learn from one batch, part by part."""

    def flops(self, parts: Sequence[Any]) -> int:
        """Return the FLOPs of a step on this process's share of a batch; nothing changes."""

    def save(self, path: Path, step: int, progress: Mapping[str, Any]) -> None:
        """Write all that resuming after `step` steps needs, atomically."""

    def restore(self, path: Path) -> dict[str, Any]:
        """Go on from `path`; return `step` and the progress that `save` was given."""


class Course(Protocol):
    """One run of one objective, opened: see `vision_language` and `baselines.course`."""

    @property
    def learner(self) -> StepLearner:
        """What learns."""

    @property
    def train(self) -> StepBatches[Any]:
        """The batches of training."""

    @property
    def validates(self) -> bool:
        """Whether there are validation tiles."""

    @property
    def unreadable(self) -> Sequence[str]:
        """tile_ids that are left out, since they cannot be read."""

    def stage(self, step: int) -> dict[str, int]:
        """Return what the log says of where `step` stands."""

    def looks_at_texts(self, step: int) -> bool:
        """Return whether `before` will work long. It can then be ended anywhere, and goes on from there."""

    def before(self, step: int) -> tuple[bool, dict[str, Any]]:
        """Do what comes before `step`; return whether the batches are others now, and what to log."""

    def validate(self) -> dict[str, float]:
        """Return what the model in training does with tiles that it does not learn from."""

    def save_weights(self, path: Path) -> None:
        """Write a safetensors file; the first process does it."""

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs, beside the learner's state."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""


@dataclass(frozen=True)
class Objective:
    """What may be learnt.

    Attributes:
        begin: Looks at the data set, checks that the run may begin or go on there, and writes what is made
            once; returns the data's checksums. The first process alone does it.
        open: Makes the course. Every process does it.
        best: The validation value that the best weights are chosen by.
        higher_is_better: Its direction.
    """

    begin: Callable[[Path, RunFolder, PretrainSettings], dict[str, str]]
    open: Callable[[Path, RunFolder, PretrainSettings, Ranks], Course]
    best: str
    higher_is_better: bool

    def score(self, values: Mapping[str, float]) -> float:
        """Return a number that grows as the model gets better."""
        return values[self.best] if self.higher_is_better else -values[self.best]
