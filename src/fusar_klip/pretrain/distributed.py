"""The processes of a run: one, or those that torchrun has started. The same command serves both.

Each holds one GPU, or a share of the CPU. What they compute together is in `objective`, how weights are
shared out in `sharding`; here is who they are, and how they wait for each other.
"""

import datetime
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fusar_klip.errors import FusarKlipError, SettingsError

T = TypeVar("T")

# One process may fill the tile cache or validate while the others wait.
_PATIENCE = datetime.timedelta(hours=12)


@dataclass(frozen=True)
class Ranks:
    """This process among all of them.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
        device: Where it computes.
    """

    rank: int
    world: int
    device: torch.device
    _control: dist.ProcessGroup | None = None

    @classmethod
    def alone(cls) -> "Ranks":
        """Return the ranks of a run of one process, on the CPU."""
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
        """The GPU that it computes on, if it does: whatever else is there stays untouched."""
        return [self.device] if self.on_gpu else []

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            dist.barrier(self._control)

    def any(self, value: bool) -> bool:
        """Return whether `value` is true in any process."""
        if self.world == 1:
            return value
        votes = torch.tensor(int(value))
        dist.all_reduce(votes, group=self._control)
        return bool(votes)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over the processes, the same bits in each."""
        if self.world > 1:
            dist.all_reduce(values)
            values = values / self.world
        return values

    def first_does(self, work: Callable[[], T]) -> T:
        """Let the first process do `work`; return what it returned, in every process.

        Raises:
            FusarKlipError: What it raised; the other processes end silently, since one sentence is enough.
        """
        if self.world == 1:
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
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes of this run, as torchrun's environment names them; alone without it.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        SettingsError: There is no GPU where one is asked for.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    where = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Ranks(0, 1, where)
        return
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if rank:
        # What concerns all is said once.
        logging.getLogger("fusar_klip").setLevel(logging.ERROR)
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        # Waiting must neither occupy a GPU nor run into its watchdog.
        control = dist.new_group(backend="gloo", timeout=_PATIENCE)
        assert isinstance(control, dist.ProcessGroup)
        yield Ranks(rank, world, where, control)
    finally:
        dist.destroy_process_group()


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
