"""Everything that training changes, and the one step that changes it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fusar_klip.errors import CheckpointError, SettingsError
from fusar_klip.files import replaced
from fusar_klip.models import KlipNetwork, Tokenizer
from fusar_klip.models.momentum import MomentumTowers
from fusar_klip.models.queue import FeatureQueue
from fusar_klip.models.towers import load_image_weights, load_text_weights
from fusar_klip.pretrain.batches import Batch
from fusar_klip.pretrain.objective import batch_losses
from fusar_klip.pretrain.schedule import distillation_weight, learning_rate
from fusar_klip.pretrain.settings import PretrainSettings

# A spike may pass; after this many steps in a row without a finite loss, nothing will come of it.
_MAX_SKIPPED_IN_A_ROW = 10


@dataclass(frozen=True)
class StepReport:
    """What a step did. All numbers but `lr` follow from the weights before the step."""

    lr: float
    loss: float
    loss_itc: float
    loss_itm: float
    loss_mlm: float
    temperature: float


class Learner:
    """Network, momentum towers, queue and optimiser.

    Args:
        settings: The run's settings.
        tokenizer: The run's tokenizer.
        device: Where to compute.

    Raises:
        CheckpointError: The weights to start from do not fit.
    """

    def __init__(self, settings: PretrainSettings, tokenizer: Tokenizer, device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        network = KlipNetwork(settings.architecture, tokenizer)
        if settings.init.image:
            load_image_weights(network.image_tower, settings.init.image)
        if settings.init.text:
            load_text_weights(network.text_tower, network.decoder, settings.init.text)
        self.settings = settings
        self.device = device
        self.network = network.to(device)
        self.momentum = MomentumTowers(self.network)
        self.queue = FeatureQueue(settings.contrast.queue, settings.architecture.embed_dim, device)
        self.optimizer = _optimizer(self.network, settings)
        self.skipped_in_a_row = 0

    def step(self, batch: Batch, step: int, steps_per_epoch: int) -> StepReport:
        """Learn from one batch.

        Raises:
            SettingsError: The loss has not been finite for too many steps.
        """
        settings = self.settings
        # Every draw follows from (seed, step): dropout and hard negatives after a resume are the same.
        torch.manual_seed(settings.seed * 1_000_003 + step)
        rate = learning_rate(step, steps_per_epoch, settings.optimizer)
        alpha = distillation_weight(step, steps_per_epoch, settings.contrast.alpha)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            losses = batch_losses(self.network, self.momentum, self.queue, batch, alpha)
        total = losses.total(settings.loss)
        report = StepReport(
            rate,
            *(
                value.item()
                for value in (total, losses.itc, losses.itm, losses.mlm, self.network.temperature)
            ),
        )
        if not math.isfinite(report.loss):
            self._skip()
            return report
        self.skipped_in_a_row = 0
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.optimizer.clip_norm)
        self.optimizer.step()
        self.network.clamp_temperature()
        self.momentum.update(self.network, settings.contrast.momentum)
        self.queue.enqueue(losses.momentum_image, losses.momentum_text, batch.tile_ids)
        return report

    def save(self, path: Path, step: int, best: float) -> None:
        """Write all that resuming after `step` steps needs, atomically: the old state stays until then."""
        state = {
            "step": step,
            "best": best,
            "skipped_in_a_row": self.skipped_in_a_row,
            "network": dict(self.network.named_parameters()),
            "momentum": self.momentum.state_dict(),
            "queue": self.queue.state(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replaced(path) as partial:
            torch.save(state, partial)

    @torch.no_grad()
    def restore(self, path: Path) -> tuple[int, float]:
        """Go on from `path`; return the number of steps done and the best validation so far.

        Raises:
            CheckpointError: The file is damaged.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            for name, parameter in self.network.named_parameters():
                parameter.copy_(state["network"][name])
            self.momentum.load_state_dict(state["momentum"])
            self.queue.load_state(state["queue"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # torch.load raises what the damage happens to cause
            raise CheckpointError(f"{path} is damaged ({error}): remove it to start again") from error
        self.skipped_in_a_row = state["skipped_in_a_row"]
        return state["step"], state["best"]

    def _skip(self) -> None:
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
            raise SettingsError(
                f"the loss was not finite in {self.skipped_in_a_row} steps in a row: start another run with "
                "a lower optimizer.lr"
            )


def _optimizer(network: KlipNetwork, settings: PretrainSettings) -> torch.optim.AdamW:
    # Norms' weights, biases and the temperature have one dimension or none; decay would only shrink them.
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.optimizer.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.optimizer.lr, fused=True)
