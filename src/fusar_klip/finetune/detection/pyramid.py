"""ViTDet's simple feature pyramid: strides 4 to 64 from the last map of a plain ViT (arXiv 2203.16527, 3).

Written after the paper and Detectron2's modeling/backbone/vit.py (`SimpleFeaturePyramid`, norm "LN").
"""

import math

import torch.nn.functional as F
from timm.layers import LayerNorm2d  # type: ignore[attr-defined]
from torch import Tensor, nn

# B batch, W the ViT's width, C channels, G patches on a side

STRIDES = (4, 8, 16, 32)
"""The strides of the levels that the box heads use."""


class SimpleFeaturePyramid(nn.Module):
    """Builds each level from the ViT's last map: by transposed convolutions, unchanged, or by pooling.

    Args:
        width: W.
        patch: Side of a patch in pixels, a power of two.
        channels: C.
    """

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_level(width, round(math.log2(patch / s)), channels) for s in STRIDES)

    def forward(self, features_bwgg: Tensor) -> dict[str, Tensor]:
        """Return (B, C, S / stride, S / stride) by stride, "4" to "32", and "64" for proposals."""
        maps = {str(s): level(features_bwgg) for s, level in zip(STRIDES, self.levels, strict=True)}
        coarsest = str(STRIDES[-1])
        maps[str(2 * STRIDES[-1])] = F.max_pool2d(maps[coarsest], 1, stride=2)
        return maps


def _level(width: int, doublings: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in range(doublings):
        if n:
            layers += [LayerNorm2d(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        width //= 2
    if doublings < 0:
        layers.append(nn.MaxPool2d(2**-doublings))
    layers += [nn.Conv2d(width, channels, 1, bias=False), LayerNorm2d(channels)]
    layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels)]
    return nn.Sequential(*layers)
