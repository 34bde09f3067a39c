"""The optimizer step of every task: gradients over micro-batches and processes, AdamW, and the saved state.

Also the schedules of learning rate and momentum, and the detector of loss spikes. What else changes after a
step (momentum encoders, a queue) belongs to the `TrainState` that holds an `OptimizerStep`.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fusar_klip.errors import CheckpointError, SettingsError
from fusar_klip.files import replaced
from fusar_klip.pretrain import distributed
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.run_folder import writable_checkpoint
from fusar_klip.pretrain.settings import LossSpikeSettings, OptimizerSettings, PretrainSettings

_log = logging.getLogger(__name__)

MicroBatchT = TypeVar("MicroBatchT")

# A loss that hardly changes has almost no standard deviation; one hundredth of its mean is not a spike.
_MIN_RELATIVE_STD = 0.01


def learning_rate(step: int, steps_per_epoch: int, settings: OptimizerSettings) -> float:
    """Return the learning rate of `step` (from 0): BLIP's recipe (decisions.md, "Optimiser recipe").

    max(min_lr, lr * decay^epoch), with a linear warm-up per step.
    """
    peak = max(settings.min_lr, settings.lr * settings.decay ** (step // steps_per_epoch))
    if step >= settings.warmup_steps:
        return peak
    return settings.warmup_lr + (peak - settings.warmup_lr) * step / settings.warmup_steps


def distillation_weight(step: int, steps_per_epoch: int, alpha: float) -> float:
    """Return alpha of `step`: it rises from 0 over the first epoch, as momentum targets start as noise."""
    return alpha * min(1.0, step / steps_per_epoch)


def momentum_schedule(step: int, total_steps: int, start: float) -> float:
    """Return the momentum of `step`: from `start` to 1 along half a cosine (MoCo v3, section 4.1)."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / total_steps)) / 2


class LossSpikeDetector:
    """Decides which steps are skipped: those whose loss or gradient is not finite, and loss spikes.

    Args:
        settings: What a spike is, and how many skipped steps in a row end the run.
    """

    def __init__(self, settings: LossSpikeSettings) -> None:
        self.settings = settings
        self.skipped = 0
        self._in_a_row = 0
        self._losses: deque[float] = deque(maxlen=settings.window)

    def accepts(self, step: int, loss: float, gradient_norm: float) -> bool:
        """Return whether the step may change the weights.

        Raises:
            SettingsError: Too many steps in a row may not.
        """
        reason = self._reason_to_skip(loss, gradient_norm)
        if reason is None:
            self._losses.append(loss)
            self._in_a_row = 0
            return True
        self.skipped += 1
        self._in_a_row += 1
        _log.warning("step %d is skipped: %s", step + 1, reason)
        if self._in_a_row >= self.settings.patience:
            is_finite = math.isfinite(loss) and math.isfinite(gradient_norm)
            or_else = ", or continue with --resume and a higher guard.spike" if is_finite else ""
            raise SettingsError(
                f"{self._in_a_row} steps in a row were skipped (the last: {reason}): start another run with "
                f"a lower optimizer.lr{or_else}"
            )
        return False

    def reset_window(self) -> None:
        """Forget the earlier losses: the training data have changed, so the loss may jump."""
        self._losses.clear()

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs to resume exactly."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row, "losses": list(self._losses)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from `state`."""
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]
        self._losses = deque(state["losses"], maxlen=self.settings.window)

    def _reason_to_skip(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if not math.isfinite(gradient_norm):
            return f"its gradient's norm is {gradient_norm}"
        if self.settings.spike and len(self._losses) == self.settings.window:
            mean = math.fsum(self._losses) / len(self._losses)
            variance = math.fsum((one - mean) ** 2 for one in self._losses) / len(self._losses)
            limit = mean + self.settings.spike * max(math.sqrt(variance), _MIN_RELATIVE_STD * abs(mean))
            if loss > limit:
                return f"its loss {loss:.3f} is a spike, over {limit:.3f}"
        return None


class MicroBatchLosses(NamedTuple):
    """The losses of one micro-batch.

    Attributes:
        total: The scalar whose gradient is taken.
        values: (n,) what the log reports of the step, `total` first.
        kept: What the train state needs after the step, such as features for the queue.
    """

    total: Tensor
    values: Tensor
    kept: Any


class StepResult(NamedTuple):
    """The outcome of one optimizer step.

    Attributes:
        lr: Its learning rate.
        values: The means of `MicroBatchLosses.values` over micro-batches and processes.
        gradient_norm: Before clipping.
        applied: Whether the weights were changed; False for a skipped step.
    """

    lr: float
    values: list[float]
    gradient_norm: float
    applied: bool


class Stateful(Protocol):
    """State that is saved and restored beside the weights, such as the queue."""

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from `state`."""


class OptimizerStep:
    """Gradient accumulation, the loss spike detector, and AdamW.

    Args:
        network: The weights. Weights without a gradient do not change, and are saved all the same.
        loss_module: The module that computes the losses: it holds `network`, or wraps a module that does.
        settings: The run's settings.
        ranks: The processes of the run.
    """

    def __init__(
        self, network: nn.Module, loss_module: nn.Module, settings: PretrainSettings, ranks: Ranks
    ) -> None:
        self.spike_detector = LossSpikeDetector(settings.guard)
        self._network, self._loss_module = network, loss_module
        self._settings, self._ranks = settings, ranks
        self._names = {parameter: name for name, parameter in network.named_parameters()}
        self._optimizer = _optimizer(network, settings)

    def start_step(self, step: int) -> None:
        """Seed the random numbers with (seed, step): after a resume, dropout is the same."""
        ranks = self._ranks
        torch.manual_seed((self._settings.seed * 1_000_003 + step) * ranks.world_size + ranks.rank)
        self._network.train()

    def accumulate(
        self, micro_batches: Sequence[MicroBatchT], losses_of: Callable[[MicroBatchT], MicroBatchLosses]
    ) -> tuple[Tensor, list[Any]]:
        """Accumulate the mean gradient; return the mean reported values, and what each micro-batch keeps."""
        device, count = self._ranks.device, len(micro_batches)
        values, kept = torch.zeros(1, device=device), []
        for number, micro_batch in enumerate(micro_batches, 1):
            with (
                distributed.gradient_sync(self._loss_module, number == count),
                torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
            ):
                losses = losses_of(micro_batch)
                torch.autograd.backward(losses.total / count)
            values = values + losses.values.detach() / count
            kept.append(losses.kept)
        return values, kept

    def apply(self, step: int, steps_per_epoch: int, values: Tensor) -> StepResult:
        """Clip the gradients and change the weights, unless the step is skipped; the gradients are cleared.

        Args:
            step: Counted from 0.
            steps_per_epoch: For the learning rate.
            values: What `accumulate` returned.

        Raises:
            SettingsError: Too many steps in a row were skipped.
        """
        settings = self._settings.optimizer
        rate = learning_rate(step, steps_per_epoch, settings)
        norm = distributed.clip_gradients(self._names, settings.clip_norm, self._ranks)
        # Read after the backward pass is queued, so that a GPU does not wait for the host.
        means = self._ranks.mean(values).tolist()
        applied = self.spike_detector.accepts(step, means[0], norm)
        if applied:
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        self.clear_gradients()
        return StepResult(rate, means, norm, applied)

    def clear_gradients(self) -> None:
        """Clear the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def save(
        self,
        path: Path,
        progress: Mapping[str, Any],
        modules: Mapping[str, nn.Module],
        stateful: Mapping[str, Stateful],
    ) -> None:
        """Write everything that a resume needs, atomically: the old file stays until the new one is complete.

        Args:
            path: The file.
            progress: Further values, `step` among them.
            modules: The modules whose weights are saved, by name in the file.
            stateful: Other state, by name in the file.

        Raises:
            CheckpointError: The disk is full.
        """
        keep = self._ranks.first
        weights = {
            name: distributed.full_tensors_by_name(module.named_parameters(), keep=keep)
            for name, module in modules.items()
        }
        state = {
            **progress,
            "guard": self.spike_detector.state(),
            **weights,
            **{name: holder.state() for name, holder in stateful.items()},
            "optimizer": distributed.optimizer_state(self._optimizer, self._names, keep=keep),
        }
        if keep:
            with writable_checkpoint(path), replaced(path) as partial:
                torch.save(state, partial)

    @torch.no_grad()
    def restore(
        self, path: Path, modules: Mapping[str, nn.Module], stateful: Mapping[str, Stateful]
    ) -> dict[str, Any]:
        """Load the state in `path`; return the `progress` that `save` was given.

        Raises:
            CheckpointError: The file is damaged.
        """
        try:
            # To the CPU first: a whole tensor may not fit on the device that holds a shard of it.
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            for name, module in modules.items():
                values = state.pop(name)
                for parameter_name, parameter in module.named_parameters():
                    distributed.copy_full_tensor(parameter, values[parameter_name])
            for name, holder in stateful.items():
                holder.load_state(state.pop(name))
            distributed.load_optimizer_state(self._optimizer, self._names, state.pop("optimizer"))
            self.spike_detector.load_state(state.pop("guard"))
        except Exception as error:  # torch.load raises different errors for different damage
            raise CheckpointError(f"{path} is damaged ({error}): remove it to start again") from error
        return state


def _optimizer(network: nn.Module, settings: PretrainSettings) -> torch.optim.AdamW:
    # No weight decay for norm weights, biases (one dimension) and the temperature (none): decay would only
    # shrink them. The temperature has its own group, because FSDP does not shard scalars.
    dimensions = [(2, 9, settings.optimizer.weight_decay), (1, 1, 0.0), (0, 0, 0.0)]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if least <= p.ndim <= most], "weight_decay": decay}
        for least, most, decay in dimensions
    ]
    return torch.optim.AdamW(groups, lr=settings.optimizer.lr, fused=True)
