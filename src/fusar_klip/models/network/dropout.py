"""Dropout that costs a CPU little, alone and on an attention's weights. It is torch's where that is fast.

On a CPU torch draws one number after the other, one for each value: 6 % of a training step of ViT-B and BERT
(perf/pretrain.py). Here each drawn number, 64 bits, decides on four values, which takes 1 %.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# B texts, H heads, L queries, N keys, C width of a head

_LEVELS = 2**16
"""A value is dropped where its 16 random bits are under `share` * 2**16: the share is right to 8e-6."""


class _Dropped(torch.autograd.Function):
    """The values that were kept, scaled so that their expectation stays; backward needs the mask alone."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, share: float) -> Tensor:
        threshold = round(share * _LEVELS)
        draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: values.numel()].view(values.shape)
        kept = bits >= threshold - _LEVELS // 2
        ctx.save_for_backward(kept)
        ctx.scale = _LEVELS / (_LEVELS - threshold)
        return (values * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (kept,) = gradients, ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None


def dropout(values: Tensor, share: float, training: bool) -> Tensor:
    """Return the values, while training with `share` of them set to 0 and the others scaled up to match."""
    if not training or share == 0 or values.device.type != "cpu":
        return F.dropout(values, share, training)
    dropped: Tensor = _Dropped.apply(values, share)
    return dropped


def attention(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, causal: bool, share: float
) -> Tensor:
    """Return softmax(q k^T / sqrt(C)) v, (B, H, L, C), with dropout on the softmax.

    Args:
        query: (B, H, L, C).
        key: (B, H, N, C).
        value: (B, H, N, C).
        mask: bool, broadcast to (B, H, L, N), True = may be looked at; not together with `causal`.
        causal: Query l sees the keys up to l.
        share: Dropout of the weights; 0 while not training.
    """
    if share == 0 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=share, is_causal=causal
        )
    scores_bhln = (query * query.shape[-1] ** -0.5) @ key.mT
    if causal:
        mask = torch.ones(scores_bhln.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        # Not -inf: a text without tokens has no key, and its softmax would be nan.
        scores_bhln = scores_bhln.masked_fill(~mask, torch.finfo(scores_bhln.dtype).min)
    return dropout(scores_bhln.softmax(dim=-1), share, training=True) @ value
