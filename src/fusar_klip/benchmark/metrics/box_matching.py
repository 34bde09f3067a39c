"""Detections against boxes, image by image, as COCO's evaluation matches them. Knows arrays only.

What COCO's `COCOeval.evaluateImg` does for boxes: detections, likeliest first, take the free box of the
largest IoU that reaches the threshold; ignored boxes (crowd, difficult, or of another size than asked for)
are taken last, hide what they overlap, and a detection that takes one, or takes none and is of another
size, counts not.
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
"""So many likeliest detections of a class are counted in an image (COCO)."""
SIZES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Areas in square pixels of the image (COCO)."""


@dataclass(frozen=True)
class GroundTruth:
    """The boxes of one image; N of them."""

    boxes: Floats
    """(N, 4) left, top, right, bottom."""
    labels: Ints
    """(N,) class."""
    ignored: Bools
    """(N,) whether neither finding nor missing it counts."""


@dataclass(frozen=True)
class Detections:
    """The detections in one image; D of them."""

    boxes: Floats
    """(D, 4) left, top, right, bottom."""
    scores: Floats
    """(D,) in 0 to 1."""
    labels: Ints
    """(D,) class."""


@dataclass(frozen=True)
class ClassMatches:
    """All images' detections of one class, of one size, at T thresholds; D of them, likeliest first."""

    image: Ints
    """(D,) the image's number."""
    right: Bools
    """(T, D) whether it found a box."""
    counted: Bools
    """(T, D) whether it counts at all."""
    boxes: Ints
    """(N,) boxes to be found in each image."""


def match_class(
    truths: Sequence[GroundTruth], found: Sequence[Detections], label: int, size: str
) -> ClassMatches:
    """Match all images' detections of one class with its boxes."""
    matched = [_match_image(t, f, label, *SIZES[size]) for t, f in zip(truths, found, strict=True)]
    scores = np.concatenate([scores for scores, _, _, _ in matched])
    # Stable, as COCO's mergesort: of equals the first image's stands first.
    order = np.argsort(-scores, kind="stable")
    image = np.repeat(np.arange(len(matched)), [len(scores) for scores, _, _, _ in matched])
    right = np.concatenate([right for _, right, _, _ in matched], axis=1)
    counted = np.concatenate([counted for _, _, counted, _ in matched], axis=1)
    boxes = np.array([boxes for _, _, _, boxes in matched], dtype=np.int64)
    return ClassMatches(image[order], right[:, order], counted[:, order], boxes)


def match_image(truth: GroundTruth, found: Detections) -> tuple[Ints, Bools]:
    """Match one image's detections of all classes at IoU 0.5.

    Returns:
        (D,) 1 for a right detection, 0 for a false one, -1 for one that counts not; and (N,) whether a box
        was missed.
    """
    verdict = np.zeros(len(found.scores), dtype=np.int64)
    missed = ~truth.ignored
    for label in np.unique(found.labels):
        here = np.flatnonzero(found.labels == label)
        here = here[np.argsort(-found.scores[here], kind="stable")]
        there = np.flatnonzero(truth.labels == label)
        there = there[np.argsort(truth.ignored[there], kind="stable")]
        ignored = truth.ignored[there]
        taken = _taken(
            overlaps(found.boxes[here], truth.boxes[there], ignored), ignored, ignored, IOU_THRESHOLDS[0]
        )
        hit = taken >= 0
        verdict[here[hit]] = np.where(ignored[taken[hit]], -1, 1)
        missed[there[taken[hit]]] = False
    return verdict, missed


def overlaps(found: Floats, boxes: Floats, crowd: Bools) -> Floats:
    """Return (D, N) IoU; for a crowd, the share of the detection that lies in it."""
    left_top = np.maximum(found[:, None, :2], boxes[None, :, :2])
    right_bottom = np.minimum(found[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.maximum(right_bottom - left_top, 0), axis=2)
    own, other = areas(found)[:, None], areas(boxes)[None]
    union = np.where(crowd[None], own, own + other - shared)
    return np.asarray(shared / np.maximum(union, np.spacing(1.0)))


def areas(boxes: Floats) -> Floats:
    """Return (N,) areas."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _match_image(
    truth: GroundTruth, found: Detections, label: int, smallest: float, largest: float
) -> tuple[Floats, Bools, Bools, int]:
    """Return scores (D,), right (T, D), counted (T, D) and the number of boxes to be found."""
    here = found.labels == label
    order = np.argsort(-found.scores[here], kind="stable")[:MAX_DETECTIONS]
    scores, boxes = found.scores[here][order], found.boxes[here][order]
    there = truth.labels == label
    crowd, wanted = truth.ignored[there], truth.boxes[there]
    ignored = crowd | (areas(wanted) < smallest) | (areas(wanted) > largest)
    ignored_last = np.argsort(ignored, kind="stable")
    crowd, wanted, ignored = crowd[ignored_last], wanted[ignored_last], ignored[ignored_last]
    iou = overlaps(boxes, wanted, crowd)
    taken = np.stack([_taken(iou, ignored, crowd, threshold) for threshold in IOU_THRESHOLDS])
    outside = (areas(boxes) < smallest) | (areas(boxes) > largest)
    hit = taken >= 0
    hidden = np.zeros_like(hit)
    hidden[hit] = ignored[taken[hit]]
    counted = ~hidden & ~(~hit & outside[None])
    return scores, hit & ~hidden, counted, int((~ignored).sum())


def _taken(iou: Floats, ignored: Bools, crowd: Bools, threshold: float) -> Ints:
    """Return (D,) which box each detection takes, -1 for none; ignored boxes stand last."""
    taken = np.full(len(iou), -1, dtype=np.int64)
    free = np.ones(len(ignored), dtype=np.bool_)
    least = min(threshold, 1 - 1e-10)
    for detection in np.flatnonzero((iou >= least).any(axis=1)):
        possible = (iou[detection] >= least) & (free | crowd)
        if (possible & ~ignored).any():
            possible &= ~ignored
        if possible.any():
            candidates = np.flatnonzero(possible)
            # Of equals COCO takes the last one.
            best = candidates[::-1][np.argmax(iou[detection, candidates[::-1]])]
            taken[detection] = best
            free[best] = False
    return taken
