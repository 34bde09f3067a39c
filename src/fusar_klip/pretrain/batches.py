"""The batch of a step, as a pure function of seed and step: what makes resuming exact.

No loader has a place to remember: the order of an epoch follows from (seed, epoch), and what a sample shows
follows from (seed, step, tile). Which process works on a tile changes nothing of that: the batch of all
processes together is the same however many they are.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fusar_klip.catalog import FIELDS
from fusar_klip.models import Preprocess, Tokenizer
from fusar_klip.models.losses import IGNORED
from fusar_klip.models.masking import mask_text
from fusar_klip.models.tokenizer import Segments
from fusar_klip.pretrain.corpus import TextedTiles
from fusar_klip.pretrain.settings import MaskSettings

# Megabatches of an epoch, at least: with fewer, a small data set's tiles would meet the same ones every time.
_MEGABATCHES = 8
# Batches that each worker makes ahead.
_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Tiles and texts of one forward pass. B tiles, S input size, L, M and T the longest text of each kind.

    Attributes:
        images: (B, 1, S, S) float32, standardised.
        tile_ids: (B,) int64, which tile each row is.
        gsd_m: (B,) float32, ground spacing of the input's pixels in metres; nan = not known.
        draws: (B, 2) float32 in [0, 1), by which ITM's hard negatives are drawn.
        text: (B, L) int64 ids of the text that is shown.
        text_mask: (B, L) int64, 1 = token.
        masked: (B, M) int64 ids of the same text with holes; noise is left out of it.
        masked_mask: (B, M) int64, 1 = token.
        decoder_input: (B, T) int64, [CLS] and the hidden spans without their last token.
        decoder_labels: (B, T) int64, the hidden spans; `losses.IGNORED` where there is nothing.
    """

    images: Tensor
    tile_ids: Tensor
    gsd_m: Tensor
    draws: Tensor
    text: Tensor
    text_mask: Tensor
    masked: Tensor
    masked_mask: Tensor
    decoder_input: Tensor
    decoder_labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})

    def pin_memory(self) -> "Batch":
        """Return the batch where a GPU can fetch it while it computes (called by torch's DataLoader)."""
        return Batch(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})


class Batches:
    """Batches of one split.

    Args:
        tiles: The split's tiles and texts.
        tokenizer: Joins and pads.
        preprocess: Standardises.
        masking: What MLM hides.
        batch_size: Tiles of a step, at most `len(tiles)`; what is left over at an epoch's end waits for
            another epoch's order. A multiple of `accumulate` times `world`.
        min_segments: Least number of segments shown; None shows every text whole and in its order.
        seed: Seed of all draws.
        bucket_batches: Batches among which texts are sorted by length; 1 does not sort.
        accumulate: Parts of a step that are worked on one after the other.
        rank: The process whose share of each part is given.
        world: Processes that share each part.
    """

    def __init__(
        self,
        tiles: TextedTiles,
        tokenizer: Tokenizer,
        preprocess: Preprocess,
        masking: MaskSettings,
        *,
        batch_size: int,
        min_segments: int | None,
        seed: int,
        bucket_batches: int = 1,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        assert 1 <= batch_size <= len(tiles)
        assert batch_size % (accumulate * world) == 0
        self.batch_size = batch_size
        self.steps_per_epoch = len(tiles) // batch_size
        self.accumulate = accumulate
        self.tiles = tiles
        self._tokenizer = tokenizer
        self._preprocess = preprocess
        self._masking = masking
        self._min_segments = min_segments
        self._seed = seed
        self._megabatch = max(1, min(bucket_batches, self.steps_per_epoch // _MEGABATCHES))
        self._rank, self._world = rank, world
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self._tokens = tiles.segments.tokens()

    def texts_changed(self, tiles: TextedTiles) -> None:
        """Go on with other texts of the same tiles; the order by length stays that of the first texts."""
        assert np.array_equal(tiles.rows, self.tiles.rows)
        self.tiles = tiles

    def at(self, step: int) -> list[Batch]:
        """Return this process's share of the batch of `step`, counted from 0: one `Batch` per part."""
        parts = self.places(step).reshape(self.accumulate, self._world, -1)
        return [self.of(part, step) for part in parts[:, self._rank]]

    def places(self, step: int) -> npt.NDArray[np.int64]:
        """Return (batch_size,) the places among the tiles of all processes' batch of `step`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self._order_of(epoch))
        places: npt.NDArray[np.int64] = self._order[1][place]
        return places

    def of(self, chosen: npt.NDArray[np.int64], step: int) -> Batch:
        """Return the batch of the tiles at places `chosen`, with the draws of `step`."""
        count = self._segments_shown(step)
        texts, masked, hidden, draws = [], [], [], []
        for place in map(int, chosen):
            rng = np.random.default_rng((self._seed, step, int(self.tiles.rows[place])))
            segments = self.tiles.segments[place]
            order = _shown(len(segments), count, rng)
            noise = self.tiles.noise.get(place, ())
            holes = mask_text(
                _pick(segments, [i for i in order if i not in noise]),
                self._tokenizer,
                rng,
                fraction=self._masking.fraction,
                span_tokens=self._masking.span_tokens,
                segment_probability=self._masking.segment_probability,
            )
            texts.append(self._tokenizer.join(_pick(segments, order)))
            masked.append(holes.visible)
            hidden.append(holes.hidden)
            draws.append(rng.random(2, np.float32))
        rows = self.tiles.rows[chosen]
        decoder_input, _ = self._tokenizer.pad([[self._tokenizer.cls_id, *spans[:-1]] for spans in hidden])
        # A text that is empty, or all noise, hides nothing: its row is there, and no label counts.
        labels, label_mask = self._tokenizer.pad([spans or [self._tokenizer.pad_id] for spans in hidden])
        nothing = torch.tensor([not spans for spans in hidden])
        return Batch(
            self._preprocess.standardise(self.tiles.images[rows]),
            torch.from_numpy(rows),
            torch.from_numpy(self.tiles.gsd_m[chosen]),
            torch.from_numpy(np.stack(draws)),
            *self._tokenizer.pad(texts),
            *self._tokenizer.pad(masked),
            decoder_input,
            labels.masked_fill((label_mask == 0) | nothing[:, None], IGNORED),
        )

    def read_ahead(self, steps: range, workers: int, *, pin: bool = False) -> Iterator[list[Batch]]:
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
        """Return (steps_per_epoch, batch_size) places: shuffled, texts of like length in one batch.

        Rows are shuffled too, so that no process gets only the long ones.
        """
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(len(self.tiles))[: self.steps_per_epoch * self.batch_size]
        if self._megabatch == 1:
            return order.reshape(-1, self.batch_size)
        tokens = self._tokens[order]
        megabatch_of = np.arange(len(order)) // (self._megabatch * self.batch_size)
        sorted_within = order[np.lexsort((tokens, megabatch_of))].reshape(-1, self.batch_size)
        return rng.permuted(rng.permutation(sorted_within), axis=1)

    def _segments_shown(self, step: int) -> int | None:
        """Draw how many segments the texts of `step` show: one number for all, or padding would rule."""
        if self._min_segments is None:
            return None
        most = max(self._min_segments, *(len(fields) for fields in FIELDS.values()))
        return int(np.random.default_rng((self._seed, step)).integers(self._min_segments, most + 1))


class _Steps(Dataset[list[Batch]]):
    """Steps as torch's DataLoader wants them: place -> item."""

    def __init__(self, batches: Batches, steps: range) -> None:
        self._batches, self._steps = batches, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, place: int) -> list[Batch]:
        return self._batches.at(self._steps[place])


def _shown(segments: int, count: int | None, rng: np.random.Generator) -> list[int]:
    """Return the places of the segments that are shown, in their order."""
    if count is None:
        return list(range(segments))
    return [int(place) for place in rng.permutation(segments)[:count]]


def _pick(segments: Segments, places: Collection[int]) -> Segments:
    return [segments[place] for place in places]
