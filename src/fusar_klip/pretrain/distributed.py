"""The processes (ranks) of a run, and how they share weights and gradients: DDP or FSDP under torchrun.

The same command serves one process and many. Each process uses one GPU, or a share of the CPU. With DDP every
process holds all weights, with FSDP a shard of each. A saved state holds whole weights by name, so that it
can be loaded with any number of processes, and with either method. The collectives within a step are in
`models/distributed.py`.
"""

import datetime
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from fusar_klip.errors import FusarKlipError, SettingsError
from fusar_klip.models.network.momentum import MomentumTowers
from fusar_klip.pretrain.loss import PretrainLoss

T = TypeVar("T")

# One process may fill the tile cache or validate while the others wait for it.
_TIMEOUT = datetime.timedelta(hours=12)


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and the number of processes.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes (world size).
        device: The device of this process.
    """

    rank: int
    world_size: int
    device: torch.device
    _control: dist.ProcessGroup | None = None

    @classmethod
    def single_process(cls) -> "Ranks":
        """Return the ranks of a run with one process, on the CPU."""
        return cls(0, 1, torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files, logs and shows progress."""
        return self.rank == 0

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device.type == "cuda"

    @property
    def gpus(self) -> list[torch.device]:
        """The GPU that this process uses, if any."""
        return [self.device] if self.on_gpu else []

    def barrier(self) -> None:
        """Wait until every process has reached this point."""
        if self.world_size > 1:
            dist.barrier(self._control)

    def any(self, value: bool) -> bool:
        """Return whether `value` is true in any process."""
        if self.world_size == 1:
            return value
        votes = torch.tensor(int(value))
        dist.all_reduce(votes, group=self._control)
        return bool(votes)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over the processes, the same bits in each."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values = values / self.world_size
        return values

    def run_in_first(self, work: Callable[[], T]) -> T:
        """Run `work` in the first process; return its result in every process.

        Raises:
            FusarKlipError: Raised by `work`; the other processes then exit without a message of their own.
        """
        if self.world_size == 1:
            return work()
        outcome: list[T | None] = [None]
        failed: list[bool] = [False]
        error: FusarKlipError | None = None
        if self.first:
            try:
                outcome = [work()]
            except FusarKlipError as raised:
                error, failed = raised, [True]
        dist.broadcast_object_list(failed, group=self._control)
        if error is not None:
            raise error
        if failed[0]:
            raise SystemExit(2)
        dist.broadcast_object_list(outcome, group=self._control)
        return outcome[0]  # type: ignore[return-value]


@contextmanager
def init_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started; without torchrun, yield a run of one process.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        SettingsError: `device` is `cuda` and there is no GPU, or fewer GPUs than processes.
    """
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    torch_device = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world_size == 1:
        yield Ranks(0, 1, torch_device)
        return
    if torch_device.type == "cuda":
        torch.cuda.set_device(torch_device)
    if rank:
        # A message that concerns all processes is logged once.
        logging.getLogger("fusar_klip").setLevel(logging.ERROR)
    dist.init_process_group("nccl" if torch_device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        # Waiting processes must neither occupy a GPU nor trigger NCCL's watchdog.
        control = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        assert isinstance(control, dist.ProcessGroup)
        yield Ranks(rank, world_size, torch_device, control)
    finally:
        dist.destroy_process_group()


def parallelize(loss: PretrainLoss, momentum: MomentumTowers, parallel: str, ranks: Ranks) -> nn.Module:
    """Return the module to call in place of `loss`, so that gradients are the mean over the processes.

    Args:
        loss: The network with its losses.
        momentum: Its momentum encoders; with FSDP they are sharded too.
        parallel: `ddp` or `fsdp`.
        ranks: The processes.
    """
    if ranks.world_size == 1:
        return loss
    if parallel == "ddp":
        return wrap_ddp(loss, ranks)
    temperature = loss.network.log_temperature
    for towers, name in ((loss, "network.image_tower"), (momentum, "image_tower")):
        # The text layers are not sharded: they are called five times a step, encoder and decoder share half
        # of them, and gathering a shard at each call would cost more than it saves. Neither is the last image
        # block, which is not called as a whole where only the class token is needed.
        for block in list(towers.get_submodule(f"{name}.blocks").children())[:-1]:
            fully_shard(block)
        # The momentum encoders have no backward pass, at whose end FSDP would shard the weights again.
        fully_shard(towers, ignored_params={temperature}, reshard_after_forward=towers is momentum)
    register_fsdp_forward_method(momentum, "features")
    return loss


def wrap_ddp(module: nn.Module, ranks: Ranks) -> nn.Module:
    """Return `module` wrapped in DDP, or `module` itself in a run of one process."""
    if ranks.world_size == 1:
        return module
    return DistributedDataParallel(module, device_ids=[ranks.device] if ranks.device.type == "cuda" else None)


@contextmanager
def gradient_sync(module: nn.Module, last: bool) -> Iterator[None]:
    """Reduce gradients over the processes only with the `last` micro-batch of a step."""
    if isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    yield


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, ranks: Ranks) -> float:
    """Clip the gradients to a total norm of at most `max_norm`; return the norm before clipping."""
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    sharded = [parameter for parameter in with_gradient if isinstance(parameter, DTensor)]
    unsharded = [parameter for parameter in with_gradient if not isinstance(parameter, DTensor)]
    if sharded:
        for gradient in _gradients(unsharded):
            # FSDP does not manage scalars, so the temperature's gradient is averaged here.
            dist.all_reduce(gradient)
            gradient.div_(ranks.world_size)
    norms = [
        full_tensor(torch.nn.utils.get_total_norm(_gradients(group)))
        for group in (sharded, unsharded)
        if group
    ]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
    for group in (sharded, unsharded):
        torch.nn.utils.clip_grads_with_norm_(group, max_norm, norm)
    return float(norm)


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that may be sharded. Every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_tensors_by_name(tensors: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Return the whole tensors if `keep`, else an empty dict; without `keep`, one is held at a time."""
    found = {}
    for name, tensor in tensors:
        value = full_tensor(tensor.detach())
        if keep:
            found[name] = value
    return found


def copy_full_tensor(target: Tensor, value: Tensor) -> None:
    """Copy the whole tensor `value`, which every process holds, into `target`, which may be sharded."""
    if isinstance(target, DTensor):
        value = distribute_tensor(
            value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
        )
    target.copy_(value)


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], *, keep: bool
) -> dict[str, dict[str, Tensor]]:
    """Return the optimizer's state by parameter name, as whole tensors."""
    return {
        names[parameter]: full_tensors_by_name(optimizer.state[parameter].items(), keep=keep)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter in optimizer.state
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    names: Mapping[nn.Parameter, str],
    state: Mapping[str, Mapping[str, Any]],
) -> None:
    """Load what `optimizer_state` returned."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if names[parameter] not in state:
                continue
            own = optimizer.state[parameter] = {}
            for key, value in state[names[parameter]].items():
                like = {"dtype": value.dtype, "device": parameter.device}
                own[key] = torch.zeros_like(parameter) if value.ndim else torch.zeros((), **like)
                copy_full_tensor(own[key], value)


def _device(name: str, local_rank: int) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device is cuda, but torch sees no GPU here: use --set device=cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise SettingsError(
            f"torchrun has started process {local_rank + 1} of this machine, which has "
            f"{torch.cuda.device_count()} GPUs: use a smaller --nproc-per-node"
        )
    return torch.device("cuda", local_rank)
