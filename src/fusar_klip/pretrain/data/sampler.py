"""The tiles of each step, as a pure function of seed and step, which makes resuming exact.

There is no loader state to save: the order of an epoch depends on (seed, epoch), and a sample on (seed, step,
tile). It does not matter which process works on a tile: the batch over all processes is the same for any
number of processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

# Minimum number of megabatches (groups sorted by length) in an epoch: with fewer, the batches of a small data
# set would hardly change from epoch to epoch.
_MIN_MEGABATCHES = 8
# Batches that each worker prefetches.
_PREFETCH_FACTOR = 2


class TensorBatch:
    """A dataclass of tensors that is moved as one."""

    def to(self, device: torch.device) -> Self:
        """Return the batch on `device`."""
        return type(self)(**{n: tensor.to(device, non_blocking=True) for n, tensor in vars(self).items()})

    def pin_memory(self) -> Self:
        """Return the batch in pinned memory (called by torch's DataLoader)."""
        return type(self)(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})


BatchT = TypeVar("BatchT", bound=TensorBatch)


class StepBatches(ABC, Generic[BatchT]):
    """The batches of one split, step by step.

    Args:
        count: Tiles of the split.
        batch_size: Tiles of a step, at most `count`; the tiles left over at the end of an epoch are dropped
            from that epoch. A multiple of `accumulate` times `world_size`.
        seed: Seed of all draws.
        accumulate: Micro-batches per step.
        rank: This process.
        world_size: Number of processes that share each micro-batch.
        lengths: (count,) text lengths, which are similar within a batch; None does not sort.
        bucket_batches: Batches among which tiles are sorted by `lengths`; 1 does not sort.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        seed: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        lengths: npt.NDArray[np.int64] | None = None,
        bucket_batches: int = 1,
    ) -> None:
        assert 1 <= batch_size <= count
        assert batch_size % (accumulate * world_size) == 0
        self.batch_size = batch_size
        self.steps_per_epoch = count // batch_size
        self.accumulate = accumulate
        self._count, self._seed = count, seed
        self._rank, self._world_size = rank, world_size
        self._lengths = lengths
        self._megabatch = max(1, min(bucket_batches, self.steps_per_epoch // _MIN_MEGABATCHES))
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @abstractmethod
    def collate(self, indices: npt.NDArray[np.int64], step: int) -> BatchT:
        """Return the batch of the tiles at `indices`, with the random draws of `step`."""

    def micro_batches(self, step: int) -> list[BatchT]:
        """Return this process's share of the batch of `step`, counted from 0: one entry per micro-batch."""
        micro_batches = self.tile_indices(step).reshape(self.accumulate, self._world_size, -1)
        return [self.collate(micro_batch, step) for micro_batch in micro_batches[:, self._rank]]

    def tile_indices(self, step: int) -> npt.NDArray[np.int64]:
        """Return (batch_size,) the indices of the tiles of `step`, over all processes."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self._epoch_order(epoch))
        indices: npt.NDArray[np.int64] = self._order[1][step_in_epoch]
        return indices

    def prefetch(self, steps: range, workers: int, *, pin: bool = False) -> Iterator[list[BatchT]]:
        """Yield the batches of `steps` in order; `workers` processes prefetch them.

        Args:
            steps: Numbers of steps.
            workers: Number of processes; 0 makes each batch on demand.
            pin: Use pinned memory.
        """
        if not workers:
            yield from map(self.micro_batches, steps)
            return
        # Workers are forked: they share the texts and the memory-mapped tiles, and never use the GPU.
        yield from DataLoader(
            _Steps(self, steps),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=_PREFETCH_FACTOR,
            pin_memory=pin,
            multiprocessing_context="fork",
        )

    def _epoch_order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return (steps_per_epoch, batch_size) indices: shuffled, with texts of similar length in one batch.

        Rows are shuffled too, so that no process gets only long texts.
        """
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(self._count)[: self.steps_per_epoch * self.batch_size]
        if self._megabatch == 1 or self._lengths is None:
            return order.reshape(-1, self.batch_size)
        lengths = self._lengths[order]
        megabatch_of = np.arange(len(order)) // (self._megabatch * self.batch_size)
        sorted_within = order[np.lexsort((lengths, megabatch_of))].reshape(-1, self.batch_size)
        return rng.permuted(rng.permutation(sorted_within), axis=1)


class _Steps(Dataset[list[BatchT]]):
    """The steps as a map-style `Dataset` for torch's DataLoader."""

    def __init__(self, batches: StepBatches[BatchT], steps: range) -> None:
        self._batches, self._steps = batches, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> list[BatchT]:
        return self._batches.micro_batches(self._steps[index])
