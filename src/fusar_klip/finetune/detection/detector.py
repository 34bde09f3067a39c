"""ViTDet: a plain ViT, the simple feature pyramid, proposals, and one or three stages of box heads."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from fusar_klip.finetune.detection.heads import DetectionTarget, DetectorOutput, make_heads, make_proposals
from fusar_klip.finetune.detection.pyramid import STRIDES, SimpleFeaturePyramid
from fusar_klip.finetune.detection.settings import DetectionSettings
from fusar_klip.finetune.training_loop import parameter_groups
from fusar_klip.models import VisionEncoder
from fusar_klip.models.pretrained.plain_vit import PlainViT, patch_of

# B batch, S image size

_RATIOS = (0.5, 1.0, 2.0)


class Detector(nn.Module):
    """Detects boxes in square images.

    Args:
        model: The pretrained model, whose image tower is copied.
        classes: Number of classes without the background.
        settings: Sizes and types of the parts.

    Raises:
        CheckpointError: The model's tower is no plain ViT.
    """

    def __init__(self, model: VisionEncoder, classes: int, settings: DetectionSettings) -> None:
        super().__init__()
        self.side = settings.input_size
        self.backbone = PlainViT(
            model,
            settings.input_size,
            window=settings.window,
            global_blocks=settings.global_blocks,
            prefix=False,
        )
        self.pyramid = SimpleFeaturePyramid(self.backbone.width, patch_of(model), settings.channels)
        sizes = tuple((settings.anchor_size * 2**level,) for level in range(len(STRIDES) + 1))
        anchors = AnchorGenerator(sizes, (_RATIOS,) * len(sizes))
        self.proposals = make_proposals(anchors, len(_RATIOS), settings.channels, settings.regions)
        self.heads = make_heads(
            [str(stride) for stride in STRIDES],
            settings.channels,
            classes,
            cascade=settings.head == "cascade",
            box_head=settings.box_head,
            regions=settings.regions,
        )

    def forward(
        self, images_b1ss: Tensor, sizes: Sequence[tuple[int, int]], targets: Sequence[DetectionTarget]
    ) -> Tensor:
        """Return the sum of the losses, a scalar; `sizes` are the images' height and width in the squares."""
        features, images = self._features(images_b1ss, sizes)
        boxes, proposal_losses = self.proposals(images, features, list(targets))
        _, head_losses = self.heads(features, boxes, images.image_sizes, list(targets))
        return torch.stack([*proposal_losses.values(), *head_losses.values()]).sum()

    @torch.inference_mode()
    def detect(self, images_b1ss: Tensor, sizes: Sequence[tuple[int, int]]) -> DetectorOutput:
        """Return each image's `boxes` (N, 4), `scores` (N,), descending, and `labels` (N,) from 1."""
        features, images = self._features(images_b1ss, sizes)
        boxes, _ = self.proposals(images, features)
        detections: DetectorOutput = self.heads(features, boxes, images.image_sizes)[0]
        return detections

    def groups(self, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups."""
        heads: list[nn.Module] = [self.pyramid, self.proposals, self.heads]
        return parameter_groups(self.backbone.tower, heads, weight_decay, layer_decay)

    def _features(
        self, images_b1ss: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> tuple[dict[str, Tensor], ImageList]:
        maps: dict[str, Tensor] = self.pyramid(self.backbone(images_b1ss))
        return {stride: part.float() for stride, part in maps.items()}, ImageList(images_b1ss, list(sizes))
