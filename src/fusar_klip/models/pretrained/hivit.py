"""HiViT: a ViT whose patches are built from 4 x 4 sub-patches by two stages without attention (SARATR-X).

Names and shapes are those of zhangxiaosong18/hivit (self_supervised/models/models_hivit.py); the code is
our own.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from torch import Tensor, nn

# B batch, N patches, S sub-patches on a side, W width of the main stage, H heads

_INNER = 4
_STAGES = 3
_STEM_RATIO, _RATIO = 3, 4
_EPS = 1e-6


class _Attention(nn.Module):
    """Self-attention, with a learned bias for each offset between patches where the weights have one."""

    def __init__(self, width: int, heads: int, grid: int, relative: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = (
            nn.Parameter(torch.zeros((2 * grid - 1) ** 2, heads)) if relative else None
        )

    def forward(self, tokens_bnw: Tensor, offsets_nn: Tensor) -> Tensor:
        batch, number, width = tokens_bnw.shape
        qkv = self.qkv(tokens_bnw).view(batch, number, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = None
        if self.relative_position_bias_table is not None:
            bias = self.relative_position_bias_table[offsets_nn].permute(2, 0, 1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, number, width))
        return projected


class _Block(nn.Module):
    def __init__(self, width: int, ratio: int, attention: _Attention | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS) if attention is not None else None
        self.attn = attention
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = Mlp(width, ratio * width)

    def forward(self, tokens: Tensor, offsets_nn: Tensor) -> Tensor:
        if self.attn is not None and self.norm1 is not None:
            tokens = tokens + self.attn(self.norm1(tokens), offsets_nn)
        fed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return fed


class _Merge(nn.Module):
    """Four neighbouring sub-patches become one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps=_EPS)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, tokens_bnssw: Tensor, offsets_nn: Tensor) -> Tensor:
        corners = [tokens_bnssw[..., row::2, column::2, :] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return merged


class _PatchEmbed(nn.Module):
    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, side, side)
        self.norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, images_b1ss: Tensor) -> Tensor:
        """Return (B, N, 4, 4, width)."""
        cells = self.proj(images_b1ss)
        batch, width, high, wide = cells.shape
        cells = cells.view(batch, width, high // _INNER, _INNER, wide // _INNER, _INNER)
        embedded: Tensor = self.norm(cells.permute(0, 2, 4, 3, 5, 1).flatten(1, 2))
        return embedded


class HiViT(nn.Module):
    """HiViT with one input channel; it has the methods of timm's ViTs.

    Args:
        grid: Patches on a side.
        side: Side of a sub-patch in pixels; a patch is four times as wide.
        width: W.
        stem_depth: Blocks of each stage without attention, two MLPs each.
        depth: Blocks of the main stage.
        heads: H.
        relative: Whether the attention has position biases.
    """

    def __init__(
        self, *, grid: int, side: int, width: int, stem_depth: int, depth: int, heads: int, relative: bool
    ) -> None:
        super().__init__()
        self.embed_dim = self.num_features = width
        self.patch_embed = _PatchEmbed(side, width // 2 ** (_STAGES - 1))
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, grid**2, width))
        self.blocks = nn.ModuleList()
        for stage in range(_STAGES - 1):
            here = width // 2 ** (_STAGES - 1 - stage)
            self.blocks.extend(_Block(here, _STEM_RATIO, None) for _ in range(2 * stem_depth))
            self.blocks.append(_Merge(here))
        self.blocks.extend(
            _Block(width, _RATIO, _Attention(width, heads, grid, relative)) for _ in range(depth)
        )
        self._depth = depth
        self.fc_norm = nn.LayerNorm(width, eps=_EPS)
        self.head: nn.Module = nn.Identity()
        places = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None, :] + grid - 1
        self.register_buffer("offsets_nn", apart[0] * (2 * grid - 1) + apart[1], persistent=False)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], heads: int) -> "HiViT":
        """Return the HiViT that such weights belong to."""
        blocks = {int(key.split(".")[1]) for key in state if key.startswith("blocks.")}
        merges = sorted(number for number in blocks if f"blocks.{number}.reduction.weight" in state)
        return cls(
            grid=round(state["absolute_pos_embed"].shape[1] ** 0.5),
            side=state["patch_embed.proj.weight"].shape[-1],
            width=state["absolute_pos_embed"].shape[2],
            stem_depth=merges[0] // 2,
            depth=max(blocks) - merges[-1],
            heads=heads,
            relative=any("relative_position_bias_table" in key for key in state),
        )

    def forward_features(self, images_b1ss: Tensor) -> Tensor:
        """Return the patch tokens, (B, N, W), not normed."""
        tokens: Tensor = self.patch_embed(images_b1ss)
        for block in self.blocks[: -self._depth]:
            tokens = block(tokens, self.offsets_nn)
        tokens = tokens[..., 0, 0, :] + self.absolute_pos_embed
        for block in self.blocks[-self._depth :]:
            tokens = block(tokens, self.offsets_nn)
        return tokens

    def forward_head(self, tokens_bnw: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the normed mean token (B, W), or the head's output."""
        pooled_bw: Tensor = self.fc_norm(tokens_bnw.mean(1))
        if pre_logits:
            return pooled_bw
        output: Tensor = self.head(pooled_bw)
        return output

    def forward(self, images_b1ss: Tensor) -> Tensor:
        """Return the head's output."""
        return self.forward_head(self.forward_features(images_b1ss))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a newly initialised one."""
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that are not decayed."""
        return {"absolute_pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return which parameters belong to which layer (timm's layer-wise decay)."""
        return {
            "stem": r"^absolute_pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^fc_norm", (99999,))],
        }
