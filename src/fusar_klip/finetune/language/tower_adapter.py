"""A published model's image tower under the method names of our own."""

from typing import Any

import torch
from torch import Tensor, nn

# B batch, S image side, N image tokens, W width


class ImageTowerAdapter(nn.Module):
    """An image tower in the place of `KlipNetwork.image_tower`; its pooled feature stands before its tokens.

    Args:
        tower: timm's ViT, or a tower with the same methods.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def tokens(self, images_b1ss: Tensor, gsd_m_b: Tensor | None = None) -> Tensor:
        """Return (B, 1 + N, W)."""
        tower: Any = self.tower
        tokens_bnw = tower.forward_features(images_b1ss)
        return torch.cat([tower.forward_head(tokens_bnw, pre_logits=True)[:, None], tokens_bnw], dim=1)

    def class_tokens(self, images_b1ss: Tensor, gsd_m_b: Tensor | None = None) -> Tensor:
        """Return (B, W)."""
        return self.tokens(images_b1ss)[:, 0]
