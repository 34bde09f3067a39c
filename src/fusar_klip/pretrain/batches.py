"""The batch of a step, as a pure function of seed and step: what makes resuming exact.

No loader has a place to remember: the order of an epoch follows from (seed, epoch), and what a sample shows
follows from (seed, step, tile).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fusar_klip.catalog import FIELDS
from fusar_klip.models import Preprocess, Tokenizer
from fusar_klip.models.losses import IGNORED
from fusar_klip.models.masking import mask_text
from fusar_klip.models.tokenizer import Segments
from fusar_klip.pretrain.corpus import TextedTiles
from fusar_klip.pretrain.settings import MaskSettings


@dataclass(frozen=True)
class Batch:
    """One step's tiles and texts. B tiles, S input size, L, M and T the longest text of each kind.

    Attributes:
        images: (B, 1, S, S) float32, standardised.
        tile_ids: (B,) int64, which tile each row is.
        text: (B, L) int64 ids of the text that is shown.
        text_mask: (B, L) int64, 1 = token.
        masked: (B, M) int64 ids of the same text with holes.
        masked_mask: (B, M) int64, 1 = token.
        decoder_input: (B, T) int64, [CLS] and the hidden spans without their last token.
        decoder_labels: (B, T) int64, the hidden spans; `losses.IGNORED` where there is nothing.
    """

    images: Tensor
    tile_ids: Tensor
    text: Tensor
    text_mask: Tensor
    masked: Tensor
    masked_mask: Tensor
    decoder_input: Tensor
    decoder_labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


class Batches:
    """Batches of one split.

    Args:
        tiles: The split's tiles and texts.
        tokenizer: Joins and pads.
        preprocess: Standardises.
        masking: What MLM hides.
        batch_size: Tiles of a batch, at most `len(tiles)`; what is left over at an epoch's end waits for
            another epoch's order.
        min_segments: Least number of segments shown; None shows every text whole and in its order.
        seed: Seed of all draws.
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
    ) -> None:
        assert 1 <= batch_size <= len(tiles)
        self.batch_size = batch_size
        self.steps_per_epoch = len(tiles) // batch_size
        self._tiles = tiles
        self._tokenizer = tokenizer
        self._preprocess = preprocess
        self._masking = masking
        self._min_segments = min_segments
        self._seed = seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def at(self, step: int) -> Batch:
        """Return the batch of `step`, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self._seed, epoch)).permutation(len(self._tiles)))
        chosen = self._order[1][place * self.batch_size : (place + 1) * self.batch_size]
        return self.of(chosen, step)

    def of(self, chosen: np.ndarray, step: int) -> Batch:
        """Return the batch of the tiles at places `chosen`, with the draws of `step`."""
        count = self._segments_shown(step)
        texts, masked, hidden = [], [], []
        for place in chosen:
            rng = np.random.default_rng((self._seed, step, int(self._tiles.rows[place])))
            segments = _shown(self._tiles.segments[int(place)], count, rng)
            holes = mask_text(
                segments,
                self._tokenizer,
                rng,
                fraction=self._masking.fraction,
                span_tokens=self._masking.span_tokens,
                segment_probability=self._masking.segment_probability,
            )
            texts.append(self._tokenizer.join(segments))
            masked.append(holes.visible)
            hidden.append(holes.hidden)
        rows = self._tiles.rows[chosen]
        decoder_input, _ = self._tokenizer.pad([[self._tokenizer.cls_id, *spans[:-1]] for spans in hidden])
        labels, label_mask = self._tokenizer.pad(hidden)
        return Batch(
            self._preprocess.standardise(self._tiles.images[rows]),
            torch.from_numpy(rows),
            *self._tokenizer.pad(texts),
            *self._tokenizer.pad(masked),
            decoder_input,
            labels.masked_fill(label_mask == 0, IGNORED),
        )

    def _segments_shown(self, step: int) -> int | None:
        """Draw how many segments the texts of `step` show: one number for all, or padding would rule."""
        if self._min_segments is None:
            return None
        most = max(self._min_segments, *(len(fields) for fields in FIELDS.values()))
        return int(np.random.default_rng((self._seed, step)).integers(self._min_segments, most + 1))


def _shown(segments: Segments, count: int | None, rng: np.random.Generator) -> Segments:
    if count is None:
        return segments
    return [segments[i] for i in rng.permutation(len(segments))[:count]]
