"""Image keys and values for cross-attention, computed once per image for any number of texts.

ALBEF's and BLIP's code computes them for each image-text pair: three times per image for matching, once for
the masked text and once for the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fusar_klip.models.network.dropout import attention

# B texts, L longest text, M images, N keys of an image, H heads, C width of a head


@dataclass(frozen=True)
class _Part:
    """Keys and values of M images for each fusion layer, (M, H, N, C); text p attends to image p % M."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask_m11n: Tensor | None
    copies: int

    @property
    def images(self) -> int:
        return len(self.keys[0])

    @property
    def texts(self) -> int:
        return self.images * self.copies


class CrossAttentionCache:
    """The images' keys and values that fusion layers and decoder attend to.

    A cache serves `len(cache)` texts: the first attends to the first image, and so on. `KlipNetwork.image_kv`
    returns a cache of one text per image; `rows`, `tiled` and `+` arrange it for pairs.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = tuple(parts)

    @classmethod
    def of(
        cls, keys: Sequence[Tensor], values: Sequence[Tensor], mask_m11n: Tensor | None = None
    ) -> CrossAttentionCache:
        """Return a cache of (M, H, N, C) keys and values, one pair per fusion layer in order."""
        return cls([_Part(tuple(keys), tuple(values), mask_m11n, 1)])

    def __len__(self) -> int:
        """Return the number of texts that it serves."""
        return sum(part.texts for part in self._parts)

    def __add__(self, other: CrossAttentionCache) -> CrossAttentionCache:
        """Return a cache for these texts followed by the other's. Nothing is copied."""
        return CrossAttentionCache([*self._parts, *other._parts])

    def rows(self, rows_b: Tensor) -> CrossAttentionCache:
        """Return a cache whose text b attends to image `rows_b[b]`, (B,). Keys and values are copied."""
        keys, values, mask_m11n = self._plain()
        return CrossAttentionCache.of(
            [key.index_select(0, rows_b) for key in keys],
            [value.index_select(0, rows_b) for value in values],
            None if mask_m11n is None else mask_m11n.index_select(0, rows_b),
        )

    def tiled(self, copies: int) -> CrossAttentionCache:
        """Return a cache for `copies` texts per image, in rows of one text per image. Nothing is copied."""
        (part,) = self._parts
        return CrossAttentionCache([_Part(part.keys, part.values, part.mask_m11n, part.copies * copies)])

    def with_context(self, context: CrossAttentionCache, mask_bl: Tensor) -> CrossAttentionCache:
        """Return a cache whose texts attend to their image and to `context` where `mask_bl` is not 0."""
        keys, values, _ = self._plain()
        context_keys, context_values, _ = context._plain()
        seen_b11n = mask_bl.new_ones((len(mask_bl), keys[0].shape[2])).bool()
        return CrossAttentionCache.of(
            [torch.cat(pair, dim=2) for pair in zip(keys, context_keys, strict=True)],
            [torch.cat(pair, dim=2) for pair in zip(values, context_values, strict=True)],
            torch.cat([seen_b11n, mask_bl.bool()], dim=1)[:, None, None, :],
        )

    def attend(self, query_blhc: Tensor, layer: int, dropout: float) -> Tensor:
        """Return the output (B, L, H * C) of the cross-attention of one fusion layer."""
        assert len(self) == len(query_blhc), f"a cache for {len(self)} texts, not {len(query_blhc)}"
        outputs = []
        queries = torch.split(query_blhc, [part.texts for part in self._parts])
        for part, query in zip(self._parts, queries, strict=True):
            # All texts of one image form one long query, so its keys and values are not copied.
            length, heads, width = query.shape[1:]
            grouped = query.view(part.copies, part.images, length, heads, width).permute(1, 3, 0, 2, 4)
            output = attention(
                grouped.reshape(part.images, heads, part.copies * length, width),
                part.keys[layer],
                part.values[layer],
                mask=part.mask_m11n,
                causal=False,
                share=dropout,
            )
            output = output.view(part.images, heads, part.copies, length, width).permute(2, 0, 3, 1, 4)
            outputs.append(output.reshape(part.texts, length, heads * width))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _plain(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor | None]:
        """Return keys, values and mask with one image per text."""
        (part,) = self._parts
        if part.copies == 1:
            return part.keys, part.values, part.mask_m11n
        many = part.copies
        return (
            tuple(key.repeat(many, 1, 1, 1) for key in part.keys),
            tuple(value.repeat(many, 1, 1, 1) for value in part.values),
            None if part.mask_m11n is None else part.mask_m11n.repeat(many, 1, 1, 1),
        )
