"""What the baselines' training changes, and the steps that change it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from fusar_klip.models.network.towers import ImageTower
from fusar_klip.models.pretrained.init_weights import load_image_weights
from fusar_klip.pretrain import sharding
from fusar_klip.pretrain.data.image_batches import MaskedBatch, ViewsBatch
from fusar_klip.pretrain.data.sampler import BatchT
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.optim import Descent, PartLosses
from fusar_klip.pretrain.schedule import rising_momentum
from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.tasks.mae import MaskedAutoencoder
from fusar_klip.pretrain.tasks.mocov3 import MocoV3, MomentumEncoder
from fusar_klip.pretrain.tasks.positions import fix_positions
from fusar_klip.pretrain.throughput import count_flops

ModelT = TypeVar("ModelT", bound=MaskedAutoencoder | MocoV3)


@dataclass(frozen=True)
class MaeReport:
    """What a step of MAE did. `loss` and `gradient_norm` follow from the weights before the step.

    Attributes:
        lr: The learning rate.
        loss: Mean squared error of the hidden pixels; with normalised ones, each patch's mean alone gives 1.
        gradient_norm: Before clipping.
        skipped: Steps left out since the run began, this one counted.
    """

    lr: float
    loss: float
    gradient_norm: float
    skipped: int


@dataclass(frozen=True)
class MocoV3Report:
    """What a step of MoCo v3 did. All but `lr`, `momentum` and `skipped` follow from the weights before it.

    Attributes:
        lr: The learning rate.
        loss: The symmetric contrast.
        match: Share of the views to which, of all keys, that of their own tile is nearest.
        momentum: What the momentum encoder keeps of itself.
        gradient_norm: Before clipping.
        skipped: Steps left out since the run began, this one counted.
    """

    lr: float
    loss: float
    match: float
    momentum: float
    gradient_norm: float
    skipped: int


class _ImageLearner(ABC, Generic[ModelT, BatchT]):
    """A model around the image tower, and its optimiser.

    Args:
        settings: The run's settings.
        ranks: The processes that learn together.
        goes_on: `restore` comes next, so that `settings.init` is not asked for: it may be gone by now.

    Raises:
        CheckpointError: The weights to start from do not fit.
    """

    def __init__(self, settings: PretrainSettings, ranks: Ranks, *, goes_on: bool = False) -> None:
        self.settings, self.ranks, self.device = settings, ranks, ranks.device
        torch.manual_seed(settings.seed)
        tower = ImageTower(settings.architecture)
        fix_positions(tower, settings.architecture)
        if settings.init.image and not goes_on:
            load_image_weights(tower, settings.init.image)
        self.model = self._around(tower)
        self.model.to(self.device)
        # Copied before anything is compiled.
        self._saved: dict[str, nn.Module] = {"network": self.model, **self._followers()}
        if settings.checkpoint_activations:
            self.model.checkpoint_activations()
        if settings.compile:
            self.model.compile_layers()
        self._objective = sharding.replicated(self.model, ranks)
        self._descent = Descent(self.model, self._objective, settings, ranks)

    @property
    def tower(self) -> ImageTower:
        """What pretraining leaves."""
        return self.model.image_tower

    def flops(self, parts: Sequence[BatchT]) -> int:
        """Return the FLOPs of a step on this process's share of a batch; nothing changes."""
        self.model.train()
        counted = count_flops(lambda: self._gradients(parts[:1])) * len(parts)
        self._descent.drop_gradients()
        return counted

    @torch.inference_mode()
    def image_kv(self, batches: Sequence[BatchT]) -> list[float]:
        """Return the means of what a step tells, from tiles that are not learnt from."""
        self.model.eval()
        values = torch.stack([self._losses(self.model, batch).values for batch in batches])
        return [float(value) for value in self.ranks.mean(values.mean(0))]

    def save(self, path: Path, step: int, progress: Mapping[str, Any]) -> None:
        """Write all that resuming after `step` steps needs, atomically: the old state stays until then.

        Raises:
            CheckpointError: The disk is full.
        """
        self._descent.save(path, {"step": step, **progress}, self._saved, {})

    def restore(self, path: Path) -> dict[str, Any]:
        """Go on from `path`; return what `save` was given: `step`, and the progress.

        Raises:
            CheckpointError: The file is damaged.
        """
        return self._descent.restore(path, self._saved, {})

    @abstractmethod
    def _around(self, tower: ImageTower) -> ModelT:
        """Return the model that trains `tower`."""

    @abstractmethod
    def _losses(self, objective: nn.Module, batch: BatchT) -> PartLosses:
        """Return the loss, and what is told of it; `objective` is the model, or what wraps it."""

    def _followers(self) -> dict[str, nn.Module]:
        """Return what is saved beside the model."""
        return {}

    def _gradients(self, parts: Sequence[BatchT]) -> torch.Tensor:
        """Add up the parts' gradients; return the mean of what is told."""
        return self._descent.gradients(parts, lambda part: self._losses(self._objective, part))[0]


class MaeLearner(_ImageLearner[MaskedAutoencoder, MaskedBatch]):
    """Masked autoencoder and optimiser; arguments and errors are the base's."""

    def step(self, parts: Sequence[MaskedBatch], step: int, steps_per_epoch: int) -> MaeReport:
        """Learn from one batch, part by part.

        Raises:
            SettingsError: Too many steps in a row had to be left out.
        """
        descent = self._descent
        descent.begin(step)
        taken = descent.take(step, steps_per_epoch, self._gradients(parts))
        return MaeReport(taken.lr, taken.values[0], taken.gradient_norm, descent.guard.skipped)

    def _around(self, tower: ImageTower) -> MaskedAutoencoder:
        return MaskedAutoencoder(tower, self.settings.architecture, self.settings.mae)

    def _losses(self, objective: nn.Module, batch: MaskedBatch) -> PartLosses:
        loss = objective(batch)
        return PartLosses(loss, loss[None], None)


class MocoV3Learner(_ImageLearner[MocoV3, ViewsBatch]):
    """MoCo v3, its momentum encoder and optimiser; arguments and errors are the base's."""

    def step(self, parts: Sequence[ViewsBatch], step: int, steps_per_epoch: int) -> MocoV3Report:
        """Learn from one batch, part by part.

        Raises:
            SettingsError: Too many steps in a row had to be left out.
        """
        descent, settings = self._descent, self.settings
        momentum = rising_momentum(step, settings.total_steps(steps_per_epoch), settings.mocov3.momentum)
        descent.begin(step)
        taken = descent.take(step, steps_per_epoch, self._gradients(parts))
        if taken.passed:
            self.momentum.update(self.model, momentum)
        loss, match = taken.values
        return MocoV3Report(taken.lr, loss, match, momentum, taken.gradient_norm, descent.guard.skipped)

    def _around(self, tower: ImageTower) -> MocoV3:
        return MocoV3(tower, self.settings.architecture, self.settings.mocov3)

    def _followers(self) -> dict[str, nn.Module]:
        self.momentum = MomentumEncoder(self.model)
        return {"momentum": self.momentum}

    def _losses(self, objective: nn.Module, batch: ViewsBatch) -> PartLosses:
        loss, match = objective(batch, self.momentum.features(batch))
        return PartLosses(loss, torch.stack([loss, match]), None)
