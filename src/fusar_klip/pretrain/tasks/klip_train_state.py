"""Everything that vision-language training changes, and the one step that changes it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fusar_klip.models import KlipNetwork, Tokenizer
from fusar_klip.models.network.momentum import MomentumTowers
from fusar_klip.models.network.queue import FeatureQueue
from fusar_klip.models.pretrained.init_weights import load_image_weights, load_text_weights
from fusar_klip.pretrain import sharding
from fusar_klip.pretrain.data.batches import Batch
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.loss import Objective, batch_losses
from fusar_klip.pretrain.optim import Descent, PartLosses
from fusar_klip.pretrain.schedule import distillation_weight
from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.throughput import count_flops


@dataclass(frozen=True)
class StepReport:
    """What a step did. All numbers but `lr` and `skipped` follow from the weights before the step.

    Attributes:
        lr: The learning rate.
        loss: Eq. 7, and its three parts.
        loss_itc: Eq. 4.
        loss_itm: Eq. 5.
        loss_mlm: Eq. 6.
        temperature: The learned tau.
        gradient_norm: Before clipping.
        skipped: Steps left out since the run began, this one counted.
    """

    lr: float
    loss: float
    loss_itc: float
    loss_itm: float
    loss_mlm: float
    temperature: float
    gradient_norm: float
    skipped: int


class Learner:
    """Network, momentum towers, queue and optimiser.

    Args:
        settings: The run's settings.
        tokenizer: The run's tokenizer.
        ranks: The processes that learn together.
        goes_on: `restore` comes next, so that `settings.init` is not asked for: it may be gone by now.

    Raises:
        CheckpointError: The weights to start from do not fit.
    """

    def __init__(
        self, settings: PretrainSettings, tokenizer: Tokenizer, ranks: Ranks, *, goes_on: bool = False
    ) -> None:
        torch.manual_seed(settings.seed)
        network = KlipNetwork(settings.architecture, tokenizer)
        if settings.init.image and not goes_on:
            load_image_weights(network.image_tower, settings.init.image)
        if settings.init.text and not goes_on:
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
        self._objective = sharding.distributed(
            Objective(self.network, hard_share=settings.matching.hard_share),
            self.momentum,
            settings.parallel,
            ranks,
        )
        self._descent = Descent(self.network, self._objective, settings, ranks)
        self.guard = self._descent.guard

    def step(self, parts: Sequence[Batch], step: int, steps_per_epoch: int) -> StepReport:
        """Learn from one batch, part by part.

        Raises:
            SettingsError: Too many steps in a row had to be left out.
        """
        settings, descent = self.settings, self._descent
        descent.begin(step)
        alpha = distillation_weight(step, steps_per_epoch, settings.contrast.alpha)
        temperature = self.network.temperature.item()
        values, pairs = descent.gradients(parts, lambda part: self._losses(part, alpha))
        taken = descent.take(step, steps_per_epoch, values)
        if taken.passed:
            self.network.clamp_temperature()
            self.momentum.update(self.network, settings.contrast.momentum)
            for pair in pairs:
                self.queue.enqueue(*pair)
        total, itc, itm, mlm = taken.values
        return StepReport(
            taken.lr, total, itc, itm, mlm, temperature, taken.gradient_norm, self.guard.skipped
        )

    def flops(self, parts: Sequence[Batch]) -> int:
        """Return the FLOPs of a step on this process's share of a batch; nothing changes."""
        self.network.train()
        one = parts[:1]
        counted = count_flops(
            lambda: self._descent.gradients(one, lambda part: self._losses(part, alpha=0.0))
        )
        self._descent.drop_gradients()
        return counted * len(parts)

    @contextmanager
    def whole_network(self) -> Iterator[KlipNetwork]:
        """Give the network with all weights, to look at, not to train; a copy where they are shared out."""
        if not self._is_shared:
            training = self.network.training
            yield self.network
            self.network.train(training)
            return
        network = KlipNetwork(self.settings.architecture, self._tokenizer).to(self.device)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(sharding.whole(self.network.get_parameter(name)))
        yield network.eval()

    def save(self, path: Path, step: int, progress: Mapping[str, Any]) -> None:
        """Write all that resuming after `step` steps needs, atomically: the old state stays until then.

        Raises:
            CheckpointError: The disk is full.
        """
        self._descent.save(path, {"step": step, **progress}, self._modules(), {"queue": self.queue})

    def restore(self, path: Path) -> dict[str, Any]:
        """Go on from `path`; return what `save` was given: `step`, and the progress.

        Raises:
            CheckpointError: The file is damaged.
        """
        return self._descent.restore(path, self._modules(), {"queue": self.queue})

    @property
    def _is_shared(self) -> bool:
        return self.settings.parallel == "fsdp" and self.ranks.world > 1

    def _modules(self) -> dict[str, nn.Module]:
        return {"network": self.network, "momentum": self.momentum}

    def _losses(self, batch: Batch, alpha: float) -> PartLosses:
        """Return eq. 7 with its three parts, (4,), and what goes into the queue."""
        losses = batch_losses(self._objective, self.momentum, self.queue, batch, alpha)
        total = losses.total(self.settings.loss)
        values = torch.stack([total, losses.itc, losses.itm, losses.mlm])
        return PartLosses(total, values, (losses.momentum_image, losses.momentum_text, losses.ids))
