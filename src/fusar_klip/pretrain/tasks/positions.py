"""Fixed positions of sines and cosines on two axes, which MAE and MoCo v3 use instead of learnt ones."""

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from torch import Tensor

from fusar_klip.models import ModelSettings
from fusar_klip.models.network.towers import ImageTower

# N image tokens (class token first), D width


def sines_and_cosines(model: ModelSettings, width: int) -> Tensor:
    """Return (1, N, D) float32; the class token's is 0."""
    side = model.image_size // model.patch_size
    return F.pad(build_sincos2d_pos_embed([side, side], dim=width), (0, 0, 1, 0))[None]


def fix_positions(tower: ImageTower, model: ModelSettings) -> None:
    """Give the tower such positions, and take them out of what is learnt."""
    assert tower.pos_embed is not None
    tower.pos_embed.requires_grad_(False)
    with torch.no_grad():
        tower.pos_embed.copy_(sines_and_cosines(model, model.image_width))
