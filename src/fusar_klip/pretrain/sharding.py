"""Weights over several processes: DDP keeps all of them in each, FSDP a share of each.

A saved state holds whole weights by name, so that it fits any number of processes, and either way.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from fusar_klip.models.network.momentum import MomentumTowers
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.loss import Objective


def distributed(objective: Objective, momentum: MomentumTowers, parallel: str, ranks: Ranks) -> nn.Module:
    """Return what is called in place of `objective`: the gradients are the mean over the processes."""
    if ranks.world == 1:
        return objective
    if parallel == "ddp":
        return replicated(objective, ranks)
    temperature = objective.network.log_temperature
    for towers, name in ((objective, "network.image_tower"), (momentum, "image_tower")):
        # The text side stays in one piece: its layers are called five times a step, encoder and decoder share
        # half of them, and a share that is gathered anew each time would cost more than it saves. So does the
        # last block, which is not called as a whole where the class token alone is wanted.
        for block in list(towers.get_submodule(f"{name}.blocks").children())[:-1]:
            fully_shard(block)
        # The momentum towers have no backward pass at whose end their weights would be shared out again.
        fully_shard(towers, ignored_params={temperature}, reshard_after_forward=towers is momentum)
    register_fsdp_forward_method(momentum, "features")
    return objective


def replicated(objective: nn.Module, ranks: Ranks) -> nn.Module:
    """Return what is called in place of `objective` where every process holds all weights (DDP)."""
    if ranks.world == 1:
        return objective
    return DistributedDataParallel(
        objective, device_ids=[ranks.device] if ranks.device.type == "cuda" else None
    )


@contextmanager
def synchronised(module: nn.Module, last: bool) -> Iterator[None]:
    """Share gradients only with the `last` part of a step."""
    if isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    yield


def clip_gradients(parameters: Iterable[nn.Parameter], longest: float, ranks: Ranks) -> float:
    """Scale all gradients down to a norm of at most `longest`; return the norm that they had."""
    held = [parameter for parameter in parameters if parameter.grad is not None]
    shared = [parameter for parameter in held if isinstance(parameter, DTensor)]
    alone = [parameter for parameter in held if not isinstance(parameter, DTensor)]
    if shared:
        for gradient in _gradients(alone):
            # FSDP takes no scalars, so that the temperature's gradient is nobody's to average but ours.
            dist.all_reduce(gradient)
            gradient.div_(ranks.world)
    norms = [whole(torch.nn.utils.get_total_norm(_gradients(group))) for group in (shared, alone) if group]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
    for group in (shared, alone):
        torch.nn.utils.clip_grads_with_norm_(group, longest, norm)
    return float(norm)


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which each process may hold a share; every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_by_name(tensors: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Return the whole tensors where `keep` is true, and nothing elsewhere, without ever holding them all."""
    found = {}
    for name, tensor in tensors:
        value = whole(tensor.detach())
        if keep:
            found[name] = value
    return found


def fill(target: Tensor, value: Tensor) -> None:
    """Put the whole tensor `value`, which every process has, into `target`."""
    if isinstance(target, DTensor):
        value = distribute_tensor(
            value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
        )
    target.copy_(value)


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], *, keep: bool
) -> dict[str, dict[str, Tensor]]:
    """Return the optimiser's averages by the weights' names, whole."""
    return {
        names[parameter]: whole_by_name(optimizer.state[parameter].items(), keep=keep)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter in optimizer.state
    }


def fill_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Mapping[nn.Parameter, str],
    state: Mapping[str, Mapping[str, Any]],
) -> None:
    """Go on from `optimizer_state`."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if names[parameter] not in state:
                continue
            own = optimizer.state[parameter] = {}
            for key, value in state[names[parameter]].items():
                like = {"dtype": value.dtype, "device": parameter.device}
                own[key] = torch.zeros_like(parameter) if value.ndim else torch.zeros((), **like)
                fill(own[key], value)
