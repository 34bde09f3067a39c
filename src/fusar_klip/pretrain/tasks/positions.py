"""Fixed 2D sine-cosine position embeddings, which MAE and MoCo v3 use instead of learned ones."""

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from torch import Tensor

from fusar_klip.models import ModelSettings
from fusar_klip.models.network.towers import ImageTower

# N image tokens (class token first), D width


def sincos_positions(model: ModelSettings, width: int) -> Tensor:
    """Return (1, N, D) float32; 0 for the class token."""
    side = model.image_size // model.patch_size
    return F.pad(build_sincos2d_pos_embed([side, side], dim=width), (0, 0, 1, 0))[None]


def use_fixed_positions(tower: ImageTower, model: ModelSettings) -> None:
    """Set the tower's position embeddings to sine-cosine ones, and freeze them."""
    assert tower.pos_embed is not None
    tower.pos_embed.requires_grad_(False)
    with torch.no_grad():
        tower.pos_embed.copy_(sincos_positions(model, model.image_width))
