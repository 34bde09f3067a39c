"""Which tiles a step sees: a pure function of seed and step, which makes resuming exact.

No loader has a place to remember: the order of an epoch follows from (seed, epoch), and what a sample shows
follows from (seed, step, tile). Which process works on a tile changes nothing of that: the batch of all
processes together is the same however many they are.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

# Megabatches of an epoch, at least: with fewer, a small data set's tiles would meet the same ones every time.
_MEGABATCHES = 8
# Batches that each worker makes ahead.
_AHEAD = 2


class TensorBatch:
    """A dataclass of tensors that is moved as one."""

    def to(self, device: torch.device) -> Self:
        """Return the batch on `device`."""
        return type(self)(**{n: tensor.to(device, non_blocking=True) for n, tensor in vars(self).items()})

    def pin_memory(self) -> Self:
        """Return the batch where a GPU can fetch it while it computes (called by torch's DataLoader)."""
        return type(self)(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})


BatchT = TypeVar("BatchT", bound=TensorBatch)


class StepBatches(ABC, Generic[BatchT]):
    """The batches of one split, step by step.

    Args:
        count: Tiles of the split.
        batch_size: Tiles of a step, at most `count`; what is left over at an epoch's end waits for another
            epoch's order. A multiple of `accumulate` times `world`.
        seed: Seed of all draws.
        accumulate: Parts of a step that are worked on one after the other.
        rank: The process whose share of each part is given.
        world: Processes that share each part.
        lengths: (count,) what tiles of a batch shall be alike in; None does not sort.
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
        world: int = 1,
        lengths: npt.NDArray[np.int64] | None = None,
        bucket_batches: int = 1,
    ) -> None:
        assert 1 <= batch_size <= count
        assert batch_size % (accumulate * world) == 0
        self.batch_size = batch_size
        self.steps_per_epoch = count // batch_size
        self.accumulate = accumulate
        self._count, self._seed = count, seed
        self._rank, self._world = rank, world
        self._lengths = lengths
        self._megabatch = max(1, min(bucket_batches, self.steps_per_epoch // _MEGABATCHES))
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @abstractmethod
    def of(self, chosen: npt.NDArray[np.int64], step: int) -> BatchT:
        """Return the batch of the tiles at places `chosen`, with the draws of `step`."""

    def at(self, step: int) -> list[BatchT]:
        """Return this process's share of the batch of `step`, counted from 0: one batch per part."""
        parts = self.places(step).reshape(self.accumulate, self._world, -1)
        return [self.of(part, step) for part in parts[:, self._rank]]

    def places(self, step: int) -> npt.NDArray[np.int64]:
        """Return (batch_size,) the places among the tiles of all processes' batch of `step`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self._order_of(epoch))
        places: npt.NDArray[np.int64] = self._order[1][place]
        return places

    def read_ahead(self, steps: range, workers: int, *, pin: bool = False) -> Iterator[list[BatchT]]:
        """Yield the batches of `steps` in their order; `workers` processes make them ahead.

        Args:
            steps: Numbers of steps.
            workers: 0 makes each batch when it is asked for.
            pin: Put them where a GPU can fetch them while it computes.
        """
        if not workers:
            yield from map(self.at, steps)
            return
        # Worker processes are forks: they share the texts and the mapped tiles, and never touch the GPU.
        yield from DataLoader(
            _Steps(self, steps),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=_AHEAD,
            pin_memory=pin,
            multiprocessing_context="fork",
        )

    def _order_of(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return (steps_per_epoch, batch_size) places: shuffled, tiles of like length in one batch.

        Rows are shuffled too, so that no process gets only the long ones.
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
    """Steps as torch's DataLoader wants them: place -> item."""

    def __init__(self, batches: StepBatches[BatchT], steps: range) -> None:
        self._batches, self._steps = batches, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, place: int) -> list[BatchT]:
        return self._batches.at(self._steps[place])
