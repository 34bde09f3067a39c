"""SAR-JEPA's ViT: no position embedding, but contextual relative positions on the keys (iRPE, "product").

Names, shapes and buckets are those of waterdisappear/SAR-JEPA (few_shot_classification/finetune/irpe.py and
vision_transformer_irpe.py); the code is our own.
"""

import math

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

# B batch, N tokens (class token first), H heads, D width of a head, K buckets

# get_rpe_config(ratio=1.9): offsets up to ALPHA have a bucket each, farther ones share (eq. 18 of iRPE).
_RATIO = 1.9
_ALPHA, _BETA, _GAMMA = 1 * _RATIO, 2 * _RATIO, 8 * _RATIO
_REACH = int(_BETA)
BUCKETS = (2 * _REACH + 1) ** 2 + 1
"""One for each pair of row and column distance, and one for the class token."""


def offset_buckets(grid: int) -> Tensor:
    """Return (N, N) int64: the bucket of each pair of tokens, query in the rows."""
    apart = torch.arange(grid)[:, None] - torch.arange(grid)[None, :]
    near = apart.abs() <= _ALPHA
    # Near offsets get a logarithm of 1, which `where` below discards.
    distance = torch.where(near, 1, apart.abs()).float()
    far = _ALPHA + torch.log(distance / _ALPHA) / math.log(_GAMMA / _ALPHA) * (_BETA - _ALPHA)
    # Clipped at BETA, which is no whole number, and cut: REACH.
    shared = (apart.sign() * far.round().clip(max=_BETA)).long()
    step = torch.where(near, apart, shared) + _REACH
    rows = step[:, None, :, None].expand(grid, grid, grid, grid)
    columns = step[None, :, None, :].expand(grid, grid, grid, grid)
    pairs = (rows * (2 * _REACH + 1) + columns).reshape(grid**2, grid**2)
    return F.pad(pairs, (1, 0, 1, 0), value=BUCKETS - 1)


class _RelativeKeys(nn.Module):
    """The learned table of score offsets of each bucket, shared by all heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lookup_table_weight = nn.Parameter(torch.zeros(1, width, BUCKETS))

    def forward(self, query_bhnd: Tensor, buckets_nn: Tensor) -> Tensor:
        """Return (B, H, N, N)."""
        scores_bhnk = query_bhnd @ self.lookup_table_weight
        places = buckets_nn.expand(*scores_bhnk.shape[:2], -1, -1)
        return scores_bhnk.gather(3, places)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, buckets_nn: Tensor) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rpe_k = _RelativeKeys(width // heads)
        self.register_buffer("buckets_nn", buckets_nn, persistent=False)

    def forward(self, tokens_bnw: Tensor, attn_mask: Tensor | None = None, **_: object) -> Tensor:
        batch, number, width = tokens_bnw.shape
        qkv = self.qkv(tokens_bnw).view(batch, number, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        added = self.rpe_k(query, self.buckets_nn)
        if attn_mask is not None:
            added = added.masked_fill(~attn_mask, -torch.inf)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=added)
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, number, width))
        return projected


class IrpeTower(VisionTransformer):
    """timm's ViT with contextual relative positions on the keys.

    Args:
        size: Side of the input in pixels.
        patch: Side of a patch in pixels.
        width: Width of the tokens.
        depth: Blocks.
        heads: H.
    """

    def __init__(self, *, size: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__(
            img_size=size,
            patch_size=patch,
            in_chans=1,
            num_classes=0,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            pos_embed="none",
        )
        buckets_nn = offset_buckets(size // patch)
        for block in self.blocks:
            block.attn = _Attention(width, heads, buckets_nn)
