"""A model's plain ViT as a backbone for images of any size, which returns a grid of patch features.

Position embeddings are resampled to the grid (bicubic). Blocks may attend within windows only, except for
some with global attention (ViTDet: Li et al. 2022, arXiv 2203.16527, section 3).
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import (  # type: ignore[attr-defined]
    resample_abs_pos_embed,
    resample_patch_embed,
)
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fusar_klip.errors import CheckpointError
from fusar_klip.models.pretrained.irpe import IrpeTower, offset_buckets
from fusar_klip.models.protocols import VisionEncoder

# B batch, S image size, P patch size, G patches on a side, L tokens of a window's side, M windows, W width,
# T prefix tokens (class token, registers)


class PlainViT(nn.Module):
    """A copy of a model's image tower that returns features on the grid of patches.

    Args:
        model: The model; it is not changed.
        size: Side of the square input in pixels, a multiple of `patch_of(model)`.
        window: Side of the windows in patches; 0 gives all blocks global attention.
        global_blocks: Number of blocks with global attention, evenly spaced, including the last.
        prefix: Whether class token and registers are kept (Segmenter); else they are dropped (ViTDet), and
            so is the last norm, which pretraining applied to them too.

    Raises:
        CheckpointError: The model's tower is no plain ViT.
    """

    def __init__(
        self,
        model: VisionEncoder,
        size: int,
        *,
        window: int = 0,
        global_blocks: int = 0,
        prefix: bool = True,
    ) -> None:
        super().__init__()
        tower: Any = copy.deepcopy(_plain(model))
        self.patch = patch_of(model)
        self.grid = size // self.patch
        self.width = int(tower.embed_dim)
        self.prefix = prefix
        assert size % self.patch == 0, f"{size} pixels are no whole number of patches of {self.patch}"
        assert not (window and prefix), "class tokens have no place in windows"
        _resample(tower, self.patch, self.grid)
        tower.head = nn.Identity()
        depth = len(tower.blocks)
        # Four blocks of twelve: numbers 2, 5, 8 and 11.
        count = min(global_blocks, depth)
        whole = {round(depth * (n + 1) / count) - 1 for n in range(count)}
        self.windows = [0 if not window or n in whole else min(window, self.grid) for n in range(depth)]
        if isinstance(tower, IrpeTower):
            _relate(tower, [window or self.grid for window in self.windows], prefix)
        self.tower = tower

    def forward(self, images_b1ss: Tensor) -> Tensor:
        """Return (B, W, G, G)."""
        tokens_bnw = self.tokens(images_b1ss)
        patches_bnw = tokens_bnw[:, tokens_bnw.shape[1] - self.grid**2 :]
        grid_bwgg: Tensor = patches_bnw.transpose(1, 2).reshape(-1, self.width, self.grid, self.grid)
        return grid_bwgg

    def tokens(self, images_b1ss: Tensor) -> Tensor:
        """Return the last block's tokens, (B, T + G G, W); T = 0 without `prefix`."""
        tokens_bnw = self.embedded(images_b1ss)
        for block, window in zip(self.tower.blocks, self.windows, strict=True):
            tokens_bnw = _windowed(block, tokens_bnw, self.grid, window) if window else block(tokens_bnw)
        if self.prefix:
            tokens_bnw = self.tower.norm(tokens_bnw)
        return tokens_bnw

    def embedded(self, images_b1ss: Tensor) -> Tensor:
        """Return the input of the first block."""
        tower = self.tower
        patches_bnw = tower.patch_embed.proj(images_b1ss).flatten(2).transpose(1, 2)
        tokens_bnw = tower._pos_embed(tower.patch_embed.norm(patches_bnw))
        if getattr(tower, "gsd_embedding", None) is not None:
            # Labelled images have no known spacing.
            unknown_b = torch.full((len(images_b1ss),), torch.nan, device=images_b1ss.device)
            tokens_bnw = tokens_bnw + tower.gsd_embedding(unknown_b)[:, None]
        if not self.prefix:
            tokens_bnw = tokens_bnw[:, tower.num_prefix_tokens :]
        normed_bnw: Tensor = tower.norm_pre(tokens_bnw)
        return normed_bnw


def patch_of(model: VisionEncoder) -> int:
    """Return the side of a patch as `PlainViT` cuts them: the model's own, but 16 instead of 14 pixels.

    The strides of a feature pyramid are powers of two, so a kernel of 14 is resampled to 16 (timm's
    pseudo-inverse resize, after FlexiViT).

    Raises:
        CheckpointError: The model's tower is no plain ViT.
    """
    side = int(_plain(model).patch_embed.proj.kernel_size[0])
    return int(2 ** round(torch.tensor(float(side)).log2().item()))


def _plain(model: VisionEncoder) -> Any:
    tower = model.image_tower
    if not isinstance(tower, VisionTransformer):
        raise CheckpointError(
            f"{model.title} has a {type(tower).__name__} as its image tower, and detection and segmentation "
            "need a plain ViT whose position embeddings can be resampled: choose another model"
        )
    return tower


def _relate(tower: Any, sides: Sequence[int], prefix: bool) -> None:
    """Fit SAR-JEPA's relative positions to the grid or window of each block."""
    for block, side in zip(tower.blocks, sides, strict=True):
        buckets_nn = offset_buckets(side)
        block.attn.buckets_nn = buckets_nn if prefix else buckets_nn[1:, 1:]


@torch.no_grad()
def _resample(tower: Any, patch: int, grid: int) -> None:
    """Fit patch kernel and position embedding to another patch size and grid."""
    projection = tower.patch_embed.proj
    if projection.kernel_size[0] != patch:
        kernel = resample_patch_embed(projection.weight, [patch, patch])
        tower.patch_embed.proj = nn.Conv2d(1, len(kernel), patch, patch, bias=projection.bias is not None)
        tower.patch_embed.proj.weight.copy_(kernel)
        if projection.bias is not None:
            tower.patch_embed.proj.bias.copy_(projection.bias)
    if tower.pos_embed is not None:
        prefix = 0 if tower.no_embed_class else tower.num_prefix_tokens
        resampled = resample_abs_pos_embed(tower.pos_embed, [grid, grid], num_prefix_tokens=prefix)
        tower.pos_embed = nn.Parameter(resampled.clone())
    # `_pos_embed` otherwise resamples at each call.
    tower.dynamic_img_size = False


def _windowed(block: Any, tokens_bnw: Tensor, grid: int, window: int) -> Tensor:
    """Return a block's output where tokens attend only within their window of the grid.

    Windows that extend beyond the grid are padded with masked tokens.
    """
    batch, _, width = tokens_bnw.shape
    across = -(-grid // window)
    margin = across * window - grid

    def cut(values: Tensor) -> Tensor:
        """From (B, G, G, C) to (B M, L, C)."""
        padded = F.pad(values, (0, 0, 0, margin, 0, margin))
        cells = padded.view(len(values), across, window, across, window, -1).transpose(2, 3)
        return cells.reshape(-1, window**2, values.shape[-1])

    normed_blw = cut(block.norm1(tokens_bnw).view(batch, grid, grid, width))
    mask = None
    if margin:
        there_ml = cut(torch.ones(1, grid, grid, 1, device=tokens_bnw.device))[..., 0] > 0
        mask = there_ml.repeat(batch, 1)[:, None, None, :]
    attended_blw = block.attn(normed_blw, attn_mask=mask)
    cells = attended_blw.reshape(batch, across, across, window, window, width).transpose(2, 3)
    whole = cells.reshape(batch, across * window, across * window, width)[:, :grid, :grid]
    tokens_bnw = tokens_bnw + block.drop_path1(block.ls1(whole.flatten(1, 2)))
    fed_bnw: Tensor = tokens_bnw + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens_bnw))))
    return fed_bnw
