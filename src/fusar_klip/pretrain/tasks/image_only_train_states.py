"""Model, momentum encoder and optimizer of MAE and MoCo v3, and one training step of each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from fusar_klip.models.network.towers import ImageTower
from fusar_klip.models.pretrained.init_weights import load_image_weights
from fusar_klip.pretrain import distributed
from fusar_klip.pretrain.data.image_batches import MaskedBatch, ViewsBatch
from fusar_klip.pretrain.data.sampler import BatchT
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.metrics import count_flops
from fusar_klip.pretrain.optim import MicroBatchLosses, OptimizerStep, momentum_schedule
from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.tasks.mae import MaskedAutoencoder
from fusar_klip.pretrain.tasks.mocov3 import MocoV3, MomentumEncoder
from fusar_klip.pretrain.tasks.positions import use_fixed_positions

ModelT = TypeVar("ModelT", bound=MaskedAutoencoder | MocoV3)


class _ImageOnlyTrainState(ABC, Generic[ModelT, BatchT]):
    """A model around the image tower, and its optimizer.

    Args:
        settings: The run's settings.
        ranks: The processes of the run.
        resuming: `restore` follows, so that `settings.init` is not read: that file may be gone by now.

    Raises:
        CheckpointError: The initial weights do not fit.
    """

    def __init__(self, settings: PretrainSettings, ranks: Ranks, *, resuming: bool = False) -> None:
        self.settings, self.ranks, self.device = settings, ranks, ranks.device
        torch.manual_seed(settings.seed)
        tower = ImageTower(settings.architecture)
        use_fixed_positions(tower, settings.architecture)
        if settings.init.image and not resuming:
            load_image_weights(tower, settings.init.image)
        self.model = self._build_model(tower)
        self.model.to(self.device)
        # The momentum encoder is copied before anything is compiled.
        self._saved: dict[str, nn.Module] = {"network": self.model, **self._momentum_modules()}
        if settings.checkpoint_activations:
            self.model.checkpoint_activations()
        if settings.compile:
            self.model.compile_layers()
        self._loss_module = distributed.wrap_ddp(self.model, ranks)
        self._optimizer_step = OptimizerStep(self.model, self._loss_module, settings, ranks)

    @property
    def tower(self) -> ImageTower:
        """The image tower, the result of pretraining."""
        return self.model.image_tower

    def flops(self, micro_batches: Sequence[BatchT]) -> int:
        """Return the FLOPs of a step on this process's share of a batch; nothing changes."""
        self.model.train()
        counted = count_flops(lambda: self._accumulate(micro_batches[:1])) * len(micro_batches)
        self._optimizer_step.clear_gradients()
        return counted

    @torch.inference_mode()
    def evaluate(self, batches: Sequence[BatchT]) -> list[float]:
        """Return the means of the values that a step reports, over validation batches."""
        self.model.eval()
        values = torch.stack([self._losses(self.model, batch).values for batch in batches])
        return [float(value) for value in self.ranks.mean(values.mean(0))]

    def save(self, path: Path, step: int, progress: Mapping[str, Any]) -> None:
        """Write everything that a resume after `step` steps needs, atomically.

        Raises:
            CheckpointError: The disk is full.
        """
        self._optimizer_step.save(path, {"step": step, **progress}, self._saved, {})

    def restore(self, path: Path) -> dict[str, Any]:
        """Load the state in `path`; return `step` and the progress that `save` was given.

        Raises:
            CheckpointError: The file is damaged.
        """
        return self._optimizer_step.restore(path, self._saved, {})

    @abstractmethod
    def _build_model(self, tower: ImageTower) -> ModelT:
        """Return the model that trains `tower`."""

    @abstractmethod
    def _losses(self, loss_module: nn.Module, batch: BatchT) -> MicroBatchLosses:
        """Return the loss and the values to report; `loss_module` is the model, or DDP around it."""

    def _momentum_modules(self) -> dict[str, nn.Module]:
        """Return the modules that are saved beside the model."""
        return {}

    def _accumulate(self, micro_batches: Sequence[BatchT]) -> torch.Tensor:
        """Accumulate the gradients of the micro-batches; return the means of the reported values."""
        return self._optimizer_step.accumulate(
            micro_batches, lambda batch: self._losses(self._loss_module, batch)
        )[0]


class MaeTrainState(_ImageOnlyTrainState[MaskedAutoencoder, MaskedBatch]):
    """Masked autoencoder and optimizer; arguments and errors as in the base class."""

    def step(self, micro_batches: Sequence[MaskedBatch], step: int, steps_per_epoch: int) -> dict[str, float]:
        """Train on one batch; return the values of the step for the log.

        Returns:
            `lr`; `loss`, the mean squared error of the masked pixels (with normalised pixels, predicting each
            patch's mean alone gives 1); `gradient_norm` before clipping; `skipped`, the steps skipped so far.

        Raises:
            SettingsError: Too many steps in a row were skipped.
        """
        optimizer_step = self._optimizer_step
        optimizer_step.start_step(step)
        result = optimizer_step.apply(step, steps_per_epoch, self._accumulate(micro_batches))
        return {
            "lr": result.lr,
            "loss": result.values[0],
            "gradient_norm": result.gradient_norm,
            "skipped": optimizer_step.spike_detector.skipped,
        }

    def _build_model(self, tower: ImageTower) -> MaskedAutoencoder:
        return MaskedAutoencoder(tower, self.settings.architecture, self.settings.mae)

    def _losses(self, loss_module: nn.Module, batch: MaskedBatch) -> MicroBatchLosses:
        loss = loss_module(batch)
        return MicroBatchLosses(loss, loss[None], None)


class MocoV3TrainState(_ImageOnlyTrainState[MocoV3, ViewsBatch]):
    """MoCo v3, its momentum encoder and optimizer; arguments and errors as in the base class."""

    def step(self, micro_batches: Sequence[ViewsBatch], step: int, steps_per_epoch: int) -> dict[str, float]:
        """Train on one batch; return the values of the step for the log.

        Returns:
            `lr`; `loss`, the symmetric contrastive loss; `match`, the share of views whose nearest key, of
            all keys, is that of their own tile; `momentum` of the momentum encoder; `gradient_norm` before
            clipping; `skipped`, the steps skipped so far.

        Raises:
            SettingsError: Too many steps in a row were skipped.
        """
        optimizer_step, settings = self._optimizer_step, self.settings
        momentum = momentum_schedule(step, settings.total_steps(steps_per_epoch), settings.mocov3.momentum)
        optimizer_step.start_step(step)
        result = optimizer_step.apply(step, steps_per_epoch, self._accumulate(micro_batches))
        if result.applied:
            self.momentum.update(self.model, momentum)
        loss, match = result.values
        return {
            "lr": result.lr,
            "loss": loss,
            "match": match,
            "momentum": momentum,
            "gradient_norm": result.gradient_norm,
            "skipped": optimizer_step.spike_detector.skipped,
        }

    def _build_model(self, tower: ImageTower) -> MocoV3:
        return MocoV3(tower, self.settings.architecture, self.settings.mocov3)

    def _momentum_modules(self) -> dict[str, nn.Module]:
        self.momentum = MomentumEncoder(self.model)
        return {"momentum": self.momentum}

    def _losses(self, loss_module: nn.Module, batch: ViewsBatch) -> MicroBatchLosses:
        loss, match = loss_module(batch, self.momentum.features(batch))
        return MicroBatchLosses(loss, torch.stack([loss, match]), None)
