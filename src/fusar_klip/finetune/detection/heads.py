"""torchvision's proposals and box heads, extended by ignored boxes and by the cascade.

An anchor or region of which at least half lies in an ignored box (crowd, difficult), and which matches no
object, does not enter the loss.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image

from fusar_klip.finetune.detection.settings import BoxHead

# R regions of all images, K classes with the background as number 0, C channels

DetectionTarget = Mapping[str, Tensor]
"""An image's `boxes` (N, 4) as left, top, right, bottom in pixels, `labels` (N,) from 1, `ignored` (M, 4)."""
DetectorOutput = list[dict[str, Tensor]]

ROI_SIDE = 7
IGNORED_SHARE = 0.5

# Cai & Vasconcelos 2018: each stage's IoU, and the weights of its regression, whose targets get smaller.
CASCADE = ((0.5, (10.0, 10.0, 5.0, 5.0)), (0.6, (20.0, 20.0, 10.0, 10.0)), (0.7, (30.0, 30.0, 15.0, 15.0)))


class Proposals(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's RPN, whose loss excludes ignored boxes."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: Sequence[DetectionTarget]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return labels (1 object, 0 background, -1 ignored) and matched boxes of each image's anchors."""
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        for label, boxes, target in zip(labels, anchors, targets, strict=True):
            label[_within(boxes, target["ignored"]) & (label == 0)] = -1
        return labels, matched


class FloatRpnHead(RPNHead):  # type: ignore[misc]
    """torchvision's RPN head with float32 outputs under autocast too: boxes need the precision."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits and regressions of each level."""
        logits, regressions = super().forward(x)
        return [part.float() for part in logits], [part.float() for part in regressions]


class BoxHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's box heads (Faster R-CNN), whose loss excludes ignored boxes."""

    _ignored: Sequence[Tensor] = ()

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Sequence[DetectionTarget] | None = None,
    ) -> tuple[DetectorOutput, dict[str, Tensor]]:
        """Return each image's detections (evaluation) and the losses (training)."""
        self._ignored = [target["ignored"] for target in targets or ()]
        return self._forward(features, proposals, image_shapes, targets)

    def _forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Sequence[DetectionTarget] | None,
    ) -> tuple[DetectorOutput, dict[str, Tensor]]:
        answer: tuple[DetectorOutput, dict[str, Tensor]] = super().forward(
            features, proposals, image_shapes, targets
        )
        return answer

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the index of each region's matched box, and its class: 0 background, -1 ignored."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        for label, boxes, ignored in zip(labels, proposals, self._ignored, strict=True):
            label[_within(boxes, ignored) & (label == 0)] = -1
        return matched, labels


class CascadeHeads(BoxHeads):
    """Cascade R-CNN (Cai & Vasconcelos 2018): three stages, each on the refined boxes of the one before.

    As in Detectron2: class-agnostic regression, no sampling after the first stage, a third of each stage's
    gradient flows into the pyramid, and class probabilities are the mean over the stages.

    Args:
        stages: Box head and predictor of each stage.
        shared: torchvision's further arguments.
    """

    def __init__(self, stages: Sequence[tuple[nn.Module, nn.Module]], **shared: Any) -> None:
        (iou, weights), *_ = CASCADE
        super().__init__(
            box_head=None,
            box_predictor=None,
            fg_iou_thresh=iou,
            bg_iou_thresh=iou,
            bbox_reg_weights=weights,
            **shared,
        )
        self.stages = nn.ModuleList(nn.ModuleList(stage) for stage in stages)
        self._matchers: list[Any] = [Matcher(iou, iou, allow_low_quality_matches=False) for iou, _ in CASCADE]
        self._coders: list[Any] = [BoxCoder(weights) for _, weights in CASCADE]

    def _forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Sequence[DetectionTarget] | None,
    ) -> tuple[DetectorOutput, dict[str, Tensor]]:
        labels: list[Tensor] = []
        matched: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        probabilities = []
        for number, stage in enumerate(self.stages):
            box_head, predictor = cast(nn.ModuleList, stage)
            self.proposal_matcher, self.box_coder = self._matchers[number], self._coders[number]
            if targets is not None:
                if number == 0:
                    proposals, found, labels, _ = self.select_training_samples(proposals, targets)
                else:
                    known = [[target[name] for target in targets] for name in ("boxes", "labels")]
                    found, labels = self.assign_targets_to_proposals(proposals, *known)
                matched = [_boxes_of(t, f) for t, f in zip(targets, found, strict=True)]
            regions = self.box_roi_pool(features, proposals, image_shapes)
            if self.training:
                regions = _scaled_gradient(regions, 1 / len(CASCADE))
            logits_rk, regression_r4 = predictor(box_head(regions))
            if targets is not None:
                parts = _losses(logits_rk, regression_r4, labels, self.box_coder.encode(matched, proposals))
                losses |= {f"{name}_{number}": loss for name, loss in parts.items()}
            probabilities.append(logits_rk.softmax(dim=1))
            refined = self.box_coder.decode(regression_r4.detach(), proposals)[:, 0]
            counts = [len(boxes) for boxes in proposals]
            proposals = [
                clip_boxes_to_image(boxes, shape)
                for boxes, shape in zip(refined.split(counts), image_shapes, strict=True)
            ]
        if targets is not None:
            return [], losses
        return self._detections(torch.stack(probabilities).mean(0), proposals, image_shapes), {}

    def _detections(
        self, probabilities_rk: Tensor, boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> DetectorOutput:
        """Return torchvision's final detections from the refined boxes and their class probabilities."""
        no_offsets_r = torch.zeros(
            len(probabilities_rk), 4 * probabilities_rk.shape[1], device=boxes[0].device
        )
        # torchvision applies a softmax, which recovers the probabilities from their logarithms.
        kept = self.postprocess_detections(probabilities_rk.log(), no_offsets_r, boxes, image_shapes)
        return [{"boxes": b, "scores": s, "labels": n} for b, s, n in zip(*kept, strict=True)]


def make_proposals(anchors: nn.Module, ratios: int, channels: int, regions: int) -> Proposals:
    """Return the RPN: two convolutions (ViTDet), and torchvision's numbers of proposals."""
    return Proposals(
        anchors,
        FloatRpnHead(channels, ratios, conv_depth=2),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=regions // 2,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2000, "testing": 1000},
        post_nms_top_n={"training": 2 * regions, "testing": 2 * regions},
        nms_thresh=0.7,
    )


def make_heads(
    levels: Sequence[str], channels: int, classes: int, *, cascade: bool, box_head: BoxHead, regions: int
) -> BoxHeads:
    """Return the box heads for `classes` classes, the background not counted."""
    shared: dict[str, Any] = {
        "box_roi_pool": MultiScaleRoIAlign(list(levels), ROI_SIDE, sampling_ratio=2),
        "batch_size_per_image": regions,
        "positive_fraction": 0.25,
        "score_thresh": 0.001,
        "nms_thresh": 0.5,
        "detections_per_img": 100,
    }
    width = 4 * channels
    if cascade:
        stages = [
            (_box_head(channels, width, box_head), _Predictor(width, classes + 1, boxes=1)) for _ in CASCADE
        ]
        return CascadeHeads(stages, **shared)
    (iou, weights), *_ = CASCADE
    return BoxHeads(
        box_head=_box_head(channels, width, box_head),
        box_predictor=_Predictor(width, classes + 1, boxes=classes + 1),
        fg_iou_thresh=iou,
        bg_iou_thresh=iou,
        bbox_reg_weights=weights,
        **shared,
    )


class _Predictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's predictor with a given number of box regressions, and float32 outputs."""

    def __init__(self, width: int, classes: int, boxes: int) -> None:
        super().__init__(width, classes)
        self.bbox_pred = nn.Linear(width, 4 * boxes)
        # Detectron2's initial standard deviations: small box offsets and nearly equal class scores.
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        for layer in (self.cls_score, self.bbox_pred):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, regression = super().forward(x)
        return logits.float(), regression.float()


class _LayerNormOfMaps(nn.GroupNorm):
    """Layer norm over the channels of (R, C, 7, 7) at each pixel, as in ViTDet."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        normed = F.layer_norm(
            input.permute(0, 2, 3, 1), (self.num_channels,), self.weight, self.bias, self.eps
        )
        return normed.permute(0, 3, 1, 2)


def _box_head(channels: int, width: int, kind: BoxHead) -> Any:
    if kind == "linear":
        return TwoMLPHead(channels * ROI_SIDE**2, width)
    return FastRCNNConvFCHead(
        (channels, ROI_SIDE, ROI_SIDE), [channels] * 4, [width], norm_layer=_LayerNormOfMaps
    )


def _losses(
    logits_rk: Tensor, regression_r4: Tensor, labels: list[Tensor], targets: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the losses of one cascade stage, without regions of the label -1."""
    label_r, target_r4 = torch.cat(labels), torch.cat(list(targets))
    positive_r = label_r > 0
    counted = (label_r >= 0).sum().clamp(min=1)
    box = F.smooth_l1_loss(regression_r4[positive_r], target_r4[positive_r], beta=1 / 9, reduction="sum")
    classification = F.cross_entropy(logits_rk, label_r, ignore_index=-1, reduction="sum")
    return {"loss_classifier": classification / counted, "loss_box_reg": box / counted}


def _boxes_of(target: DetectionTarget, found: Tensor) -> Tensor:
    """Return the matched boxes; zeros where the image has none, which are not used."""
    boxes = target["boxes"]
    return boxes[found] if len(boxes) else boxes.new_zeros(len(found), 4)


def _within(boxes: Tensor, ignored: Tensor) -> Tensor:
    """Return (N,) whether at least half of a box lies in an ignored box."""
    if not len(ignored):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    left_top = torch.maximum(boxes[:, None, :2], ignored[None, :, :2])
    right_bottom = torch.minimum(boxes[:, None, 2:], ignored[None, :, 2:])
    shared = (right_bottom - left_top).clamp(min=0).prod(dim=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1e-6)
    return (shared.amax(dim=1) / area) >= IGNORED_SHARE


def _scaled_gradient(values: Tensor, share: float) -> Tensor:
    """Return the same values with the gradient multiplied by `share`."""
    return values * share + values.detach() * (1 - share)
