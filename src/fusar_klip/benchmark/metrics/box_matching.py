"""Matching of detections to ground-truth boxes, image by image, as in COCO's evaluation. Knows arrays only.

It does what `COCOeval.evaluateImg` of pycocotools does for boxes. Detections, in the order of their score,
take the unmatched box of the largest IoU that reaches the threshold. Ignored boxes (crowd, difficult, or
outside the range of areas) are matched last. A detection that matches an ignored box does not count, nor does
an unmatched detection whose own area is outside the range.

Letters: N boxes (or images), D detections, T IoU thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds."""
MAX_DETECTIONS = 100
"""Number of detections of a class, those of the highest score, that count in an image (COCO)."""
AREA_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Areas in square pixels of the image (COCO)."""


@dataclass(frozen=True)
class GroundTruth:
    """The N boxes of one image."""

    boxes: Floats
    """(N, 4) left, top, right, bottom in pixels."""
    labels: Ints
    """(N,) classes."""
    ignored: Bools
    """(N,) whether the box is ignored: neither detecting nor missing it counts."""


@dataclass(frozen=True)
class Detections:
    """The D detections in one image."""

    boxes: Floats
    """(D, 4) left, top, right, bottom in pixels."""
    scores: Floats
    """(D,) in 0 to 1."""
    labels: Ints
    """(D,) classes."""


@dataclass(frozen=True)
class ClassMatches:
    """All images' D detections of one class in one range of areas, at T thresholds, highest score first."""

    image: Ints
    """(D,) number of the detection's image."""
    correct: Bools
    """(T, D) whether it matches a box: true positives."""
    counted: Bools
    """(T, D) whether it counts at all."""
    box_counts: Ints
    """(N,) number of boxes to detect in each of N images."""


def match_class(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], label: int, area: str
) -> ClassMatches:
    """Match all images' detections of one class, in one of `AREA_RANGES`, to its boxes."""
    matched = [
        _match_class_in_image(t, d, label, *AREA_RANGES[area])
        for t, d in zip(truths, detections, strict=True)
    ]
    scores = np.concatenate([scores for scores, _, _, _ in matched])
    # Stable, as COCO's mergesort: of equal scores the first image's stands first.
    order = np.argsort(-scores, kind="stable")
    image = np.repeat(np.arange(len(matched)), [len(scores) for scores, _, _, _ in matched])
    correct = np.concatenate([correct for _, correct, _, _ in matched], axis=1)
    counted = np.concatenate([counted for _, _, counted, _ in matched], axis=1)
    box_counts = np.array([count for _, _, _, count in matched], dtype=np.int64)
    return ClassMatches(image[order], correct[:, order], counted[:, order], box_counts)


def match_image(truth: GroundTruth, detections: Detections) -> tuple[Ints, Bools]:
    """Match one image's detections of all classes to its boxes at IoU 0.5.

    Returns:
        (D,) 1 for a true positive, 0 for a false positive, -1 for a detection that does not count; and (N,)
        whether a box is missed.
    """
    outcome = np.zeros(len(detections.scores), dtype=np.int64)
    missed = ~truth.ignored
    for label in np.unique(detections.labels):
        own = np.flatnonzero(detections.labels == label)
        own = own[np.argsort(-detections.scores[own], kind="stable")]
        boxes = np.flatnonzero(truth.labels == label)
        boxes = boxes[np.argsort(truth.ignored[boxes], kind="stable")]
        ignored = truth.ignored[boxes]
        iou = box_iou(detections.boxes[own], truth.boxes[boxes], ignored)
        match = _greedy_match(iou, ignored, ignored, IOU_THRESHOLDS[0])
        matched = match >= 0
        outcome[own[matched]] = np.where(ignored[match[matched]], -1, 1)
        missed[boxes[match[matched]]] = False
    return outcome, missed


def box_iou(detected: Floats, boxes: Floats, crowd: Bools) -> Floats:
    """Return the (D, N) IoU; for a crowd box, the share of the detection's area that lies in it."""
    left_top = np.maximum(detected[:, None, :2], boxes[None, :, :2])
    right_bottom = np.minimum(detected[:, None, 2:], boxes[None, :, 2:])
    intersection = np.prod(np.maximum(right_bottom - left_top, 0), axis=2)
    own, other = box_areas(detected)[:, None], box_areas(boxes)[None]
    union = np.where(crowd[None], own, own + other - intersection)
    return np.asarray(intersection / np.maximum(union, np.spacing(1.0)))


def box_areas(boxes: Floats) -> Floats:
    """Return the (N,) areas in square pixels."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _match_class_in_image(
    truth: GroundTruth, detections: Detections, label: int, smallest: float, largest: float
) -> tuple[Floats, Bools, Bools, int]:
    """Return scores (D,), correct (T, D), counted (T, D) and the number of boxes to detect."""
    own = detections.labels == label
    order = np.argsort(-detections.scores[own], kind="stable")[:MAX_DETECTIONS]
    scores, detected = detections.scores[own][order], detections.boxes[own][order]
    of_class = truth.labels == label
    crowd, boxes = truth.ignored[of_class], truth.boxes[of_class]
    ignored = crowd | (box_areas(boxes) < smallest) | (box_areas(boxes) > largest)
    ignored_last = np.argsort(ignored, kind="stable")
    crowd, boxes, ignored = crowd[ignored_last], boxes[ignored_last], ignored[ignored_last]
    iou = box_iou(detected, boxes, crowd)
    match = np.stack([_greedy_match(iou, ignored, crowd, threshold) for threshold in IOU_THRESHOLDS])
    outside = (box_areas(detected) < smallest) | (box_areas(detected) > largest)
    matched = match >= 0
    matched_ignored = np.zeros_like(matched)
    matched_ignored[matched] = ignored[match[matched]]
    counted = ~matched_ignored & ~(~matched & outside[None])
    return scores, matched & ~matched_ignored, counted, int((~ignored).sum())


def _greedy_match(iou: Floats, ignored: Bools, crowd: Bools, threshold: float) -> Ints:
    """Return (D,) the box that each detection matches, -1 for none; ignored boxes come last in `iou`."""
    match = np.full(len(iou), -1, dtype=np.int64)
    free = np.ones(len(ignored), dtype=np.bool_)
    least = min(threshold, 1 - 1e-10)
    for detection in np.flatnonzero((iou >= least).any(axis=1)):
        possible = (iou[detection] >= least) & (free | crowd)
        if (possible & ~ignored).any():
            possible &= ~ignored
        if possible.any():
            candidates = np.flatnonzero(possible)
            # Of equal IoUs COCO takes the last one.
            best = candidates[::-1][np.argmax(iou[detection, candidates[::-1]])]
            match[detection] = best
            free[best] = False
    return match
