"""Network, momentum encoders, queue and optimizer of vision-language pretraining, and one training step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fusar_klip.models import KlipNetwork, Tokenizer
from fusar_klip.models.network.momentum import MomentumTowers
from fusar_klip.models.network.queue import FeatureQueue
from fusar_klip.models.pretrained.init_weights import load_image_weights, load_text_weights
from fusar_klip.pretrain import distributed
from fusar_klip.pretrain.data.image_text_batches import ImageTextBatch
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.loss import LOSSES, PretrainLoss, batch_losses
from fusar_klip.pretrain.metrics import count_flops
from fusar_klip.pretrain.optim import MicroBatchLosses, OptimizerStep, distillation_weight
from fusar_klip.pretrain.settings import PretrainSettings


class KlipTrainState:
    """Everything that vision-language training changes.

    Args:
        settings: The run's settings.
        tokenizer: The run's tokenizer.
        ranks: The processes of the run.
        resuming: `restore` follows, so that `settings.init` is not read: those files may be gone by now.

    Raises:
        CheckpointError: The initial weights do not fit.
    """

    def __init__(
        self, settings: PretrainSettings, tokenizer: Tokenizer, ranks: Ranks, *, resuming: bool = False
    ) -> None:
        torch.manual_seed(settings.seed)
        network = KlipNetwork(settings.architecture, tokenizer)
        if settings.init.image and not resuming:
            load_image_weights(network.image_tower, settings.init.image)
        if settings.init.text and not resuming:
            load_text_weights(network.text_tower, network.decoder, settings.init.text)
        self.settings = settings
        self.ranks = ranks
        self.device = ranks.device
        self.network = network.to(self.device)
        self.momentum = MomentumTowers(self.network)
        self.queue = FeatureQueue(settings.contrast.queue, settings.architecture.embed_dim, self.device)
        if settings.checkpoint_activations:
            self.network.checkpoint_activations()
        if settings.compile:
            self.network.compile_layers()
        self._tokenizer = tokenizer
        self._loss_module = distributed.parallelize(
            PretrainLoss(self.network, hard_share=settings.matching.hard_share),
            self.momentum,
            settings.parallel,
            ranks,
        )
        self._optimizer_step = OptimizerStep(self.network, self._loss_module, settings, ranks)
        self.spike_detector = self._optimizer_step.spike_detector

    def step(
        self, micro_batches: Sequence[ImageTextBatch], step: int, steps_per_epoch: int
    ) -> dict[str, float]:
        """Train on one batch; return the values of the step for the log.

        Returns:
            `lr`; `loss` (eq. 7); `loss_itc` (eq. 4), `loss_itm` (eq. 5), `loss_mlm` (eq. 6), one for each
            entry of `LOSSES`; `temperature` (the learned tau); `gradient_norm` before clipping; `skipped`,
            the steps skipped since the run began. All but `lr` and `skipped` are those of the weights before
            the step.

        Raises:
            SettingsError: Too many steps in a row were skipped.
        """
        settings, optimizer_step = self.settings, self._optimizer_step
        optimizer_step.start_step(step)
        alpha = distillation_weight(step, steps_per_epoch, settings.contrast.alpha)
        temperature = self.network.temperature.item()
        values, queue_entries = optimizer_step.accumulate(
            micro_batches, lambda micro_batch: self._losses(micro_batch, alpha)
        )
        result = optimizer_step.apply(step, steps_per_epoch, values)
        if result.applied:
            self.network.clamp_temperature()
            self.momentum.update(self.network, settings.contrast.momentum)
            for entry in queue_entries:
                self.queue.enqueue(*entry)
        total, *losses = result.values
        return {
            "lr": result.lr,
            "loss": total,
            **{f"loss_{name}": loss for name, loss in zip(LOSSES, losses, strict=True)},
            "temperature": temperature,
            "gradient_norm": result.gradient_norm,
            "skipped": self.spike_detector.skipped,
        }

    def flops(self, micro_batches: Sequence[ImageTextBatch]) -> int:
        """Return the FLOPs of a step on this process's share of a batch; nothing changes."""
        self.network.train()
        first = micro_batches[:1]
        counted = count_flops(
            lambda: self._optimizer_step.accumulate(first, lambda batch: self._losses(batch, alpha=0.0))
        )
        self._optimizer_step.clear_gradients()
        return counted * len(micro_batches)

    @contextmanager
    def unsharded_network(self) -> Iterator[KlipNetwork]:
        """Yield the network with all weights, for inference; a copy if the weights are sharded."""
        if not self._is_sharded:
            training = self.network.training
            yield self.network
            self.network.train(training)
            return
        network = KlipNetwork(self.settings.architecture, self._tokenizer).to(self.device)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(distributed.full_tensor(self.network.get_parameter(name)))
        yield network.eval()

    def save(self, path: Path, step: int, progress: Mapping[str, Any]) -> None:
        """Write everything that a resume after `step` steps needs, atomically.

        Raises:
            CheckpointError: The disk is full.
        """
        self._optimizer_step.save(path, {"step": step, **progress}, self._modules(), {"queue": self.queue})

    def restore(self, path: Path) -> dict[str, Any]:
        """Load the state in `path`; return `step` and the progress that `save` was given.

        Raises:
            CheckpointError: The file is damaged.
        """
        return self._optimizer_step.restore(path, self._modules(), {"queue": self.queue})

    @property
    def _is_sharded(self) -> bool:
        return self.settings.parallel == "fsdp" and self.ranks.world_size > 1

    def _modules(self) -> dict[str, nn.Module]:
        return {"network": self.network, "momentum": self.momentum}

    def _losses(self, batch: ImageTextBatch, alpha: float) -> MicroBatchLosses:
        """Return eq. 7 and its terms, (1 + len(LOSSES),), and the features for the queue."""
        losses = batch_losses(self._loss_module, self.momentum, self.queue, batch, alpha)
        total = losses.total(self.settings.loss)
        values = torch.cat([total[None], losses.values()])
        return MicroBatchLosses(total, values, (losses.momentum_image, losses.momentum_text, losses.ids))
