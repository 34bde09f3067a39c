"""Batches of tiles with texts, for the `klip` task; `sampler.py` selects the tiles of a step."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusar_klip.catalog import FIELDS
from fusar_klip.models import Preprocess, Tokenizer
from fusar_klip.models.losses import IGNORE_INDEX
from fusar_klip.models.masking import mask_text
from fusar_klip.models.tokenizer import Segments
from fusar_klip.pretrain.data.dataset import ImageTextTiles, gsd_m_or_hidden
from fusar_klip.pretrain.data.sampler import StepBatches, TensorBatch
from fusar_klip.pretrain.settings import MaskSettings


@dataclass(frozen=True)
class ImageTextBatch(TensorBatch):
    """Tiles and texts of one forward pass. B tiles, S input size, L, M and T the longest text of each kind.

    Attributes:
        images: (B, 1, S, S) float32, standardised.
        tile_ids: (B,) int64, which tile each row is.
        gsd_m: (B,) float32, ground spacing of the input's pixels in metres; nan = not known.
        draws: (B, 2) float32 in [0, 1), random numbers by which ITM's negative pairs are drawn.
        text: (B, L) int64 ids of the text that is shown.
        text_mask: (B, L) int64, 1 = token.
        masked: (B, M) int64 ids of the same text with masked spans; without noise.
        masked_mask: (B, M) int64, 1 = token.
        decoder_input: (B, T) int64, [CLS] and the masked spans without their last token.
        decoder_labels: (B, T) int64, the masked spans; `losses.IGNORE_INDEX` elsewhere.
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


class ImageTextBatches(StepBatches[ImageTextBatch]):
    """Batches of one split.

    Args:
        tiles: The split's tiles and texts.
        tokenizer: Joins and pads.
        preprocess: Standardises.
        masking: Which tokens MLM masks.
        batch_size: Tiles of a step, at most `len(tiles)`; the tiles left over at the end of an epoch are
            dropped from that epoch. A multiple of `accumulate` times `world_size`.
        min_segments: Least number of segments shown; None, for validation, shows every text whole and in
            order, and every spacing.
        seed: Seed of all draws.
        bucket_batches: Batches among which texts are sorted by length; 1 does not sort.
        accumulate: Micro-batches per step.
        rank: This process.
        world_size: Number of processes that share each micro-batch.
    """

    def __init__(
        self,
        tiles: ImageTextTiles,
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
        world_size: int = 1,
    ) -> None:
        super().__init__(
            len(tiles),
            batch_size=batch_size,
            seed=seed,
            accumulate=accumulate,
            rank=rank,
            world_size=world_size,
            lengths=tiles.segments.tokens(),
            bucket_batches=bucket_batches,
        )
        self.tiles = tiles
        self._tokenizer = tokenizer
        self._preprocess = preprocess
        self._masking = masking
        self._min_segments = min_segments

    def change_texts(self, tiles: ImageTextTiles) -> None:
        """Use other texts of the same tiles from now on; sorting by length still uses the first texts."""
        assert np.array_equal(tiles.rows, self.tiles.rows)
        self.tiles = tiles

    def collate(self, indices: npt.NDArray[np.int64], step: int) -> ImageTextBatch:
        """Return the batch of the tiles at `indices`, with the random draws of `step`."""
        count = self._draw_segment_count(step)
        texts, masked, hidden, draws, gsd_m = [], [], [], [], []
        for index in map(int, indices):
            rng = np.random.default_rng((self._seed, step, int(self.tiles.rows[index])))
            segments = self.tiles.segments[index]
            order = _sample_segments(len(segments), count, rng)
            noise = self.tiles.noise.get(index, ())
            masked_text = mask_text(
                _select(segments, [i for i in order if i not in noise]),
                self._tokenizer,
                rng,
                fraction=self._masking.fraction,
                span_tokens=self._masking.span_tokens,
                segment_probability=self._masking.segment_probability,
            )
            texts.append(self._tokenizer.join(_select(segments, order)))
            masked.append(masked_text.visible)
            hidden.append(masked_text.hidden)
            draws.append(rng.random(2, np.float32))
            spacing = float(self.tiles.gsd_m[index])
            gsd_m.append(spacing if self._min_segments is None else gsd_m_or_hidden(spacing, rng))
        rows = self.tiles.rows[indices]
        decoder_input, _ = self._tokenizer.pad([[self._tokenizer.cls_id, *spans[:-1]] for spans in hidden])
        # An empty text, or one that is all noise, has no masked span: its row has no labels.
        labels, label_mask = self._tokenizer.pad([spans or [self._tokenizer.pad_id] for spans in hidden])
        is_empty_b = torch.tensor([not spans for spans in hidden])
        return ImageTextBatch(
            self._preprocess.standardise(self.tiles.images[rows]),
            torch.from_numpy(rows),
            torch.tensor(gsd_m),
            torch.from_numpy(np.stack(draws)),
            *self._tokenizer.pad(texts),
            *self._tokenizer.pad(masked),
            decoder_input,
            labels.masked_fill((label_mask == 0) | is_empty_b[:, None], IGNORE_INDEX),
        )

    def _draw_segment_count(self, step: int) -> int | None:
        """Draw the number of segments per text in `step`: one number for all texts, to avoid padding."""
        if self._min_segments is None:
            return None
        most = max(self._min_segments, *(len(fields) for fields in FIELDS.values()))
        return int(np.random.default_rng((self._seed, step)).integers(self._min_segments, most + 1))


def _sample_segments(total: int, count: int | None, rng: np.random.Generator) -> list[int]:
    """Return `count` random indices of `total` segments, in random order; without `count` all, in order."""
    if count is None:
        return list(range(total))
    return [int(index) for index in rng.permutation(total)[:count]]


def _select(segments: Segments, indices: Collection[int]) -> Segments:
    return [segments[index] for index in indices]
