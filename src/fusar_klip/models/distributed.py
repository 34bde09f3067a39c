"""Collectives of a training step; a single process gets back its own values.

Every process has a batch of the same size; row r * B + b of a gathered tensor is row b of process r.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# B rows of one process, R processes


def world_size() -> int:
    """Return R; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_rows(rows: int) -> slice:
    """Return the slice of this process's `rows` rows among the gathered ones."""
    start = dist.get_rank() * rows if world_size() > 1 else 0
    return slice(start, start + rows)


@torch.no_grad()
def all_gather(tensor: Tensor) -> Tensor:
    """Return (R * B, ...) of (B, ...), without gradient."""
    return _all_gather(tensor.detach()) if world_size() > 1 else tensor.detach()


def all_gather_with_gradient(tensor: Tensor) -> Tensor:
    """Return (R * B, ...) of (B, ...); the gradient of a row returns to its process."""
    if world_size() == 1:
        return tensor
    rows: Tensor = _AllGather.apply(tensor)
    return rows


@torch.no_grad()
def all_reduce_mean(value: Tensor) -> Tensor:
    """Return the mean of a scalar over the processes."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def all_reduce_max(length: int, device: torch.device) -> int:
    """Return the maximum of a number over the processes."""
    if world_size() == 1:
        return length
    longest = torch.tensor(length, device=device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return int(longest)


def _all_gather(tensor: Tensor) -> Tensor:
    tensor = tensor.contiguous()
    rows = tensor.new_empty(world_size() * len(tensor), *tensor.shape[1:])
    dist.all_gather_into_tensor(rows, tensor)
    return rows


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        context.rows = len(tensor)
        return _all_gather(tensor)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        # Not reduce_scatter, which gloo lacks; this is little data beside the weights' gradients.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[local_rows(context.rows)]
