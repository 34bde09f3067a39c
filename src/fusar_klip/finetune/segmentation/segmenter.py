"""Segmenter: a plain ViT whose patches are classified by learned class tokens (Strudel et al. 2021).

Written after the paper (arXiv 2105.05633, section 3.2, the mask transformer) and rstrudel/segmenter,
segm/model/decoder.py. For change detection, the images before and after an event go through the same tower.
The decoder gets each patch's feature after the event together with its difference from the one before, 2 W
values (ours: the paper has no such task).
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fusar_klip.finetune.segmentation.settings import SegmentationSettings
from fusar_klip.finetune.training_loop import parameter_groups
from fusar_klip.models import VisionEncoder
from fusar_klip.models.pretrained.plain_vit import PlainViT

# B batch, S window side, I images of a place (1, or 2 with the one before), G patches on a side, N = G G
# patches, W width, K classes

_HEAD = 64
_STD = 0.02


class MaskTransformer(nn.Module):
    """Transformer layers over patches and K class tokens; a class's mask is their normalised product.

    Args:
        inputs: Length of a patch's feature.
        width: W of the layers.
        classes: K.
        layers: Number of transformer layers.
    """

    def __init__(self, inputs: int, width: int, classes: int, layers: int) -> None:
        super().__init__()
        self.classes = classes
        self.project_in = nn.Linear(inputs, width)
        self.class_tokens = nn.Parameter(torch.randn(1, classes, width) * _STD)
        self.blocks = nn.ModuleList(
            Block(width, max(1, width // _HEAD), qkv_bias=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.project_patches = nn.Linear(width, width, bias=False)
        self.project_classes = nn.Linear(width, width, bias=False)
        for projection in (self.project_patches, self.project_classes):
            nn.init.normal_(projection.weight, std=width**-0.5)
        self.mask_norm = nn.LayerNorm(classes)

    def forward(self, features_bwgg: Tensor) -> Tensor:
        """Return the logits (B, K, G, G)."""
        patches_bnw = self.project_in(features_bwgg.flatten(2).transpose(1, 2))
        tokens_bnw = torch.cat([patches_bnw, self.class_tokens.expand(len(patches_bnw), -1, -1)], dim=1)
        for block in self.blocks:
            tokens_bnw = block(tokens_bnw)
        tokens_bnw = self.norm(tokens_bnw)
        patches_bnw, classes_bkw = tokens_bnw[:, : -self.classes], tokens_bnw[:, -self.classes :]
        patches_bnw = F.normalize(self.project_patches(patches_bnw), dim=-1)
        classes_bkw = F.normalize(self.project_classes(classes_bkw), dim=-1)
        masks_bnk = self.mask_norm(patches_bnw @ classes_bkw.transpose(1, 2))
        logits_bkgg: Tensor = masks_bnk.transpose(1, 2).reshape(-1, self.classes, *features_bwgg.shape[2:])
        return logits_bkgg


class Segmenter(nn.Module):
    """Class logits of each pixel of a window.

    Args:
        model: The pretrained model, whose image tower is copied.
        classes: K.
        settings: Sizes, and whether there are images before an event.

    Raises:
        CheckpointError: The model's tower is no plain ViT.
    """

    def __init__(self, model: VisionEncoder, classes: int, settings: SegmentationSettings) -> None:
        super().__init__()
        self.backbone = PlainViT(model, settings.input_size)
        width = self.backbone.width
        self.decoder = MaskTransformer(width * (2 if settings.before else 1), width, classes, settings.layers)

    def forward(self, images_biss: Tensor) -> Tensor:
        """Return (B, K, S, S) float32 of (B, I, S, S): the image, and the one before the event if I is 2."""
        features_bwgg = self.backbone(images_biss.flatten(0, 1)[:, None])
        if images_biss.shape[1] == 2:
            after, before = features_bwgg[::2], features_bwgg[1::2]
            features_bwgg = torch.cat([after, after - before], dim=1)
        logits_bkgg = self.decoder(features_bwgg).float()
        return F.interpolate(logits_bkgg, images_biss.shape[-2:], mode="bilinear")

    def groups(self, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups."""
        return parameter_groups(self.backbone.tower, [self.decoder], weight_decay, layer_decay)
