"""Everything that training changes, and the one step that changes it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fusar_klip.errors import CheckpointError
from fusar_klip.files import replaced
from fusar_klip.models import KlipNetwork, Tokenizer
from fusar_klip.models.momentum import MomentumTowers
from fusar_klip.models.queue import FeatureQueue
from fusar_klip.models.weights import load_image_weights, load_text_weights
from fusar_klip.pretrain import sharding
from fusar_klip.pretrain.batches import Batch
from fusar_klip.pretrain.guard import Guard
from fusar_klip.pretrain.objective import Objective, batch_losses
from fusar_klip.pretrain.pace import count_flops
from fusar_klip.pretrain.ranks import Ranks
from fusar_klip.pretrain.run_folder import writable_checkpoint
from fusar_klip.pretrain.schedule import distillation_weight, learning_rate
from fusar_klip.pretrain.settings import PretrainSettings


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

    Raises:
        CheckpointError: The weights to start from do not fit.
    """

    def __init__(self, settings: PretrainSettings, tokenizer: Tokenizer, ranks: Ranks) -> None:
        torch.manual_seed(settings.seed)
        network = KlipNetwork(settings.architecture, tokenizer)
        if settings.init.image:
            load_image_weights(network.image_tower, settings.init.image)
        if settings.init.text:
            load_text_weights(network.text_tower, network.decoder, settings.init.text)
        self.settings = settings
        self.ranks = ranks
        self.device = ranks.device
        self.network = network.to(self.device)
        self.momentum = MomentumTowers(self.network)
        self.queue = FeatureQueue(settings.contrast.queue, settings.architecture.embed_dim, self.device)
        self.guard = Guard(settings.guard)
        if settings.checkpoint_activations:
            self.network.checkpoint_activations()
        if settings.compile:
            self.network.compile_layers()
        self._tokenizer = tokenizer
        self._objective = sharding.distributed(
            Objective(self.network), self.momentum, settings.parallel, ranks
        )
        self._names = {parameter: name for name, parameter in self.network.named_parameters()}
        self._optimizer = _optimizer(self.network, settings)

    def step(self, parts: Sequence[Batch], step: int, steps_per_epoch: int) -> StepReport:
        """Learn from one batch, part by part.

        Raises:
            SettingsError: Too many steps in a row had to be left out.
        """
        settings = self.settings
        # Every draw follows from (seed, step): dropout after a resume is the same.
        torch.manual_seed((settings.seed * 1_000_003 + step) * self.ranks.world + self.ranks.rank)
        rate = learning_rate(step, steps_per_epoch, settings.optimizer)
        alpha = distillation_weight(step, steps_per_epoch, settings.contrast.alpha)
        self.network.train()
        temperature = self.network.temperature.item()
        values, pairs = self._gradients(parts, alpha)
        norm = sharding.clip_gradients(self._names, settings.optimizer.clip_norm, self.ranks)
        # Read after the backward pass is under way, so that a GPU does not wait for the answer.
        losses = self.ranks.mean(values).tolist()
        if self.guard.passes(step, losses[0], norm):
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
            self.network.clamp_temperature()
            self.momentum.update(self.network, settings.contrast.momentum)
            for pair in pairs:
                self.queue.enqueue(*pair)
        self._optimizer.zero_grad(set_to_none=True)
        total, itc, itm, mlm = losses
        return StepReport(rate, total, itc, itm, mlm, temperature, norm, self.guard.skipped)

    def flops(self, parts: Sequence[Batch]) -> int:
        """Return the FLOPs of a step on this process's share of a batch; nothing changes."""
        self.network.train()
        counted = count_flops(lambda: self._gradients(parts[:1], alpha=0.0)) * len(parts)
        self._optimizer.zero_grad(set_to_none=True)
        return counted

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
        keep = self.ranks.first
        state = {
            "step": step,
            **progress,
            "guard": self.guard.state(),
            "network": sharding.whole_by_name(self.network.named_parameters(), keep=keep),
            "momentum": sharding.whole_by_name(self.momentum.named_parameters(), keep=keep),
            "queue": self.queue.state(),
            "optimizer": sharding.optimizer_state(self._optimizer, self._names, keep=keep),
        }
        if keep:
            with writable_checkpoint(path), replaced(path) as partial:
                torch.save(state, partial)

    @torch.no_grad()
    def restore(self, path: Path) -> dict[str, Any]:
        """Go on from `path`; return what `save` was given: `step`, and the progress.

        Raises:
            CheckpointError: The file is damaged.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            for module, values in (
                (self.network, state.pop("network")),
                (self.momentum, state.pop("momentum")),
            ):
                for name, parameter in module.named_parameters():
                    sharding.fill(parameter, values[name])
            self.queue.load_state(state.pop("queue"))
            sharding.fill_optimizer(self._optimizer, self._names, state.pop("optimizer"))
            self.guard.load_state(state.pop("guard"))
        except Exception as error:  # torch.load raises what the damage happens to cause
            raise CheckpointError(f"{path} is damaged ({error}): remove it to start again") from error
        return state

    @property
    def _is_shared(self) -> bool:
        return self.settings.parallel == "fsdp" and self.ranks.world > 1

    def _gradients(
        self, parts: Sequence[Batch], alpha: float
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
        """Add up the parts' mean gradient; return the losses (4,) and what goes into the queue."""
        values = torch.zeros(4, device=self.device)
        pairs = []
        for number, batch in enumerate(parts, 1):
            with (
                sharding.synchronised(self._objective, number == len(parts)),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"),
            ):
                losses = batch_losses(self._objective, self.momentum, self.queue, batch, alpha)
                total = losses.total(self.settings.loss)
                torch.autograd.backward(total / len(parts))
            values += torch.stack([total, losses.itc, losses.itm, losses.mlm]).detach() / len(parts)
            pairs.append((losses.momentum_image, losses.momentum_text, losses.ids))
        return values, pairs


def _optimizer(network: KlipNetwork, settings: PretrainSettings) -> torch.optim.AdamW:
    # Norms' weights, biases and the temperature have one dimension or none; decay would only shrink them. The
    # temperature has a group of its own, because FSDP shares out everything but scalars.
    dimensions = [(2, 9, settings.optimizer.weight_decay), (1, 1, 0.0), (0, 0, 0.0)]
    groups = [
        {"params": [p for p in network.parameters() if least <= p.ndim <= most], "weight_decay": decay}
        for least, most, decay in dimensions
    ]
    return torch.optim.AdamW(groups, lr=settings.optimizer.lr, fused=True)
