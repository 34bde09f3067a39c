"""Dropout that is fast on a CPU, on values and on attention weights; torch's on other devices.

On a CPU torch draws one random number for each value, one after the other: 6 % of a training step of ViT-B
and BERT (perf/pretrain.py). Here each drawn number, 64 bits, decides on four values, which takes 1 %.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# B texts, H heads, L queries, N keys, C width of a head

_LEVELS = 2**16
"""A value is dropped where its 16 random bits are under `share` * 2**16; the share is exact to 8e-6."""


class _Dropped(torch.autograd.Function):
    """The kept values, scaled to preserve the expectation; backward needs only the mask."""

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
    """Return the values; in training, `share` of them are set to 0 and the others scaled up."""
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
        mask: bool, broadcast to (B, H, L, N), True = attended to; not together with `causal`.
        causal: Query l attends to the keys up to l.
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
