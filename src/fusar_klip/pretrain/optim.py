"""A step of gradient descent over parts and processes, and the state that it leaves, for every objective.

What is learnt, and what else moves after a step (momentum towers, a queue), is the learner's that holds a
`Descent`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fusar_klip.errors import CheckpointError
from fusar_klip.files import replaced
from fusar_klip.pretrain import sharding
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.loss_spikes import Guard
from fusar_klip.pretrain.run_folder import writable_checkpoint
from fusar_klip.pretrain.schedule import learning_rate
from fusar_klip.pretrain.settings import PretrainSettings

PartT = TypeVar("PartT")


class PartLosses(NamedTuple):
    """What one part of a step gives.

    Attributes:
        total: The scalar that is descended.
        values: (n,) what is told of the step, `total` first.
        kept: What the learner needs when the step is done.
    """

    total: Tensor
    values: Tensor
    kept: Any


class Taken(NamedTuple):
    """A step that is done.

    Attributes:
        lr: Its learning rate.
        values: The means of `PartLosses.values` over parts and processes.
        gradient_norm: Before clipping.
        passed: Whether the guard let it change the weights.
    """

    lr: float
    values: list[float]
    gradient_norm: float
    passed: bool


class HoldsState(Protocol):
    """What is saved and restored beside the weights, such as the queue."""

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


class Descent:
    """Gradients, guard and AdamW.

    Args:
        network: The weights. What takes no gradient stays as it is, and is saved all the same.
        objective: What is called for the losses: a module that holds `network`, or what wraps it.
        settings: The run's.
        ranks: The processes that learn together.
    """

    def __init__(
        self, network: nn.Module, objective: nn.Module, settings: PretrainSettings, ranks: Ranks
    ) -> None:
        self.guard = Guard(settings.guard)
        self._network, self._objective = network, objective
        self._settings, self._ranks = settings, ranks
        self._names = {parameter: name for name, parameter in network.named_parameters()}
        self._optimizer = _optimizer(network, settings)

    def begin(self, step: int) -> None:
        """Make every draw of `step` follow from (seed, step): dropout after a resume is the same."""
        ranks = self._ranks
        torch.manual_seed((self._settings.seed * 1_000_003 + step) * ranks.world + ranks.rank)
        self._network.train()

    def gradients(
        self, parts: Sequence[PartT], losses_of: Callable[[PartT], PartLosses]
    ) -> tuple[Tensor, list[Any]]:
        """Add up the parts' mean gradient; return the mean of their values, and what each keeps."""
        device = self._ranks.device
        values, kept = torch.zeros(1, device=device), []
        for number, part in enumerate(parts, 1):
            with (
                sharding.synchronised(self._objective, number == len(parts)),
                torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
            ):
                losses = losses_of(part)
                torch.autograd.backward(losses.total / len(parts))
            values = values + losses.values.detach() / len(parts)
            kept.append(losses.kept)
        return values, kept

    def take(self, step: int, steps_per_epoch: int, values: Tensor) -> Taken:
        """Move the weights along the gradients, if the guard lets the step pass; the gradients are gone then.

        Raises:
            SettingsError: Too many steps in a row had to be left out.
        """
        settings = self._settings.optimizer
        rate = learning_rate(step, steps_per_epoch, settings)
        norm = sharding.clip_gradients(self._names, settings.clip_norm, self._ranks)
        # Read after the backward pass is under way, so that a GPU does not wait for the answer.
        told = self._ranks.mean(values).tolist()
        passed = self.guard.passes(step, told[0], norm)
        if passed:
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        self.drop_gradients()
        return Taken(rate, told, norm, passed)

    def drop_gradients(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def save(
        self,
        path: Path,
        about: Mapping[str, Any],
        modules: Mapping[str, nn.Module],
        holders: Mapping[str, HoldsState],
    ) -> None:
        """Write all that resuming needs, atomically: the old state stays until then.

        Args:
            path: The file.
            about: Further values, `step` among them.
            modules: Whose weights are saved, by the name that they are saved under.
            holders: What else is.

        Raises:
            CheckpointError: The disk is full.
        """
        keep = self._ranks.first
        weights = {
            name: sharding.whole_by_name(module.named_parameters(), keep=keep)
            for name, module in modules.items()
        }
        state = {
            **about,
            "guard": self.guard.state(),
            **weights,
            **{name: holder.state() for name, holder in holders.items()},
            "optimizer": sharding.optimizer_state(self._optimizer, self._names, keep=keep),
        }
        if keep:
            with writable_checkpoint(path), replaced(path) as partial:
                torch.save(state, partial)

    @torch.no_grad()
    def restore(
        self, path: Path, modules: Mapping[str, nn.Module], holders: Mapping[str, HoldsState]
    ) -> dict[str, Any]:
        """Go on from `path`; return the `about` that `save` was given.

        Raises:
            CheckpointError: The file is damaged.
        """
        try:
            # Not onto the device: what each process keeps a share of need not fit there whole.
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            for name, module in modules.items():
                values = state.pop(name)
                for parameter_name, parameter in module.named_parameters():
                    sharding.fill(parameter, values[parameter_name])
            for name, holder in holders.items():
                holder.load_state(state.pop(name))
            sharding.fill_optimizer(self._optimizer, self._names, state.pop("optimizer"))
            self.guard.load_state(state.pop("guard"))
        except Exception as error:  # torch.load raises what the damage happens to cause
            raise CheckpointError(f"{path} is damaged ({error}): remove it to start again") from error
        return state


def _optimizer(network: nn.Module, settings: PretrainSettings) -> torch.optim.AdamW:
    # Norms' weights, biases and the temperature have one dimension or none; decay would only shrink them. The
    # temperature has a group of its own, because FSDP shares out everything but scalars.
    dimensions = [(2, 9, settings.optimizer.weight_decay), (1, 1, 0.0), (0, 0, 0.0)]
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learnt if least <= p.ndim <= most], "weight_decay": decay}
        for least, most, decay in dimensions
    ]
    return torch.optim.AdamW(groups, lr=settings.optimizer.lr, fused=True)
