"""Attention maps of the class token and norms of the patch features over test images (paper, figure 16).

The maps show the image tower before the row trains it, at its own input size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from timm.models.vision_transformer import (  # type: ignore[attr-defined]
    Attention,
    VisionTransformer,
)
from torch import Tensor

from fusar_klip.benchmark.report.charts import report_figure
from fusar_klip.benchmark.results import ReportFigure
from fusar_klip.image_io import read_image
from fusar_klip.models import VisionEncoder
from fusar_klip.models.pretrained.plain_vit import PlainViT, patch_of

# B batch, S image side, T tokens (class token first), H heads, G patches on a side, W width

_IMAGES = 3
_TITLES = ("image", "attention, last block", "attention rollout", "norm of features")


def draw_attention_maps(model: VisionEncoder, files: Sequence[Path], seed: int) -> list[ReportFigure]:
    """Return one sheet of images, drawn at random, with three maps each.

    The list is empty for models whose image tower is no plain ViT or has no class token.
    """
    if not isinstance(model.image_tower, VisionTransformer):
        return []
    patch = patch_of(model)
    backbone = PlainViT(model, max(1, model.preprocess.size // patch) * patch).to(model.device).eval()
    plain = all(isinstance(block.attn, Attention) for block in backbone.tower.blocks)
    if backbone.tower.cls_token is None or not plain:
        return []
    side = backbone.grid * patch
    chosen = [files[i] for i in np.random.default_rng(seed).permutation(len(files))[:_IMAGES]]
    pictures = [Image.fromarray(read_image(file)) for file in chosen]
    squares = np.stack([np.asarray(p.resize((side, side), Image.Resampling.BILINEAR)) for p in pictures])
    maps = attention_maps(backbone, model.preprocess.standardise(squares).to(model.device))
    figure = Figure(figsize=(2.2 * len(_TITLES), 2.25 * len(chosen) + 0.3))
    grid = figure.subplots(len(chosen), len(_TITLES), squeeze=False)
    for row, square, *shown in zip(grid, squares, *maps, strict=True):
        for axes, heat in zip(row, [None, *shown], strict=True):
            axes.imshow(square, cmap="gray", vmin=0, vmax=255)
            if heat is not None:
                extent = (-0.5, side - 0.5, side - 0.5, -0.5)
                axes.imshow(heat, cmap="inferno", alpha=0.6, extent=extent, interpolation="bilinear")
            axes.set_axis_off()
    for axes, title in zip(grid[0], _TITLES, strict=True):
        axes.set_title(title, fontsize=8)
    figure.tight_layout()
    caption = (
        "attention of the class token, and norm of the patch features (bright: more, each map in its own "
        "range), in the image tower before this row trained it."
    )
    return [report_figure("heat-maps", figure, "Test images under attention and feature maps", caption)]


@torch.inference_mode()
def attention_maps(backbone: PlainViT, images_b1ss: Tensor) -> tuple[NDArray[np.float32], ...]:
    """Return (B, G, G) maps: the class token's attention in the last block, its rollout, the features' norms.

    Rollout (Abnar & Zuidema 2020): the product over the blocks of half the mean attention plus half the
    identity.
    """
    tokens_btw = backbone.embedded(images_b1ss)
    prefix = tokens_btw.shape[1] - backbone.grid**2
    same_tt = torch.eye(tokens_btw.shape[1], device=tokens_btw.device)
    rolled_btt = same_tt.expand(len(tokens_btw), -1, -1)
    attention_btt = rolled_btt
    for block in backbone.tower.blocks:
        attention_btt = _attention(block, tokens_btw).mean(1)
        rolled_btt = (0.5 * attention_btt + 0.5 * same_tt) @ rolled_btt
        tokens_btw = block(tokens_btw)
    # Before the last norm layer, which would give all patch features the same norm.
    rows = (attention_btt[:, 0], rolled_btt[:, 0], tokens_btw.norm(dim=2))
    shape = (len(images_b1ss), backbone.grid, backbone.grid)
    return tuple(row[:, prefix:].reshape(shape).float().cpu().numpy() for row in rows)


def _attention(block: Any, tokens_btw: Tensor) -> Tensor:
    """Return a block's attention, (B, H, T, T)."""
    attention = block.attn
    heads = attention.num_heads
    batch, count, _ = tokens_btw.shape
    qkv = attention.qkv(block.norm1(tokens_btw)).view(batch, count, 3, heads, -1)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4)
    scores = attention.q_norm(query) * attention.scale @ attention.k_norm(key).transpose(-2, -1)
    weights: Tensor = scores.softmax(dim=-1)
    return weights
