"""Average precision from matches, and its bootstrap interval without matching anew. Knows arrays only.

COCO's: precision, made falling, at 101 recalls, averaged over classes and, for `ap`, over ten IoU thresholds.

Letters: T thresholds, D detections of a class, H of them right, N images, U units, B resamples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fusar_klip.benchmark.metrics.box_matching import (
    SIZES,
    ClassMatches,
    Detections,
    GroundTruth,
    match_class,
)
from fusar_klip.benchmark.metrics.scores import Score, resamples

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
_EVERY = tuple(range(10))
# Metric, size of the boxes, thresholds.
_METRICS = (
    ("ap50", "all", (0,)),
    ("ap", "all", _EVERY),
    ("ap_small", "small", _EVERY),
    ("ap_medium", "medium", _EVERY),
    ("ap_large", "large", _EVERY),
)


def detection_scores(
    truths: Sequence[GroundTruth], found: Sequence[Detections], classes: int, groups: Ints | None, seed: int
) -> list[Score]:
    """Score the detections in N images: AP50, AP, and AP of small, medium and large boxes.

    A size of which there is no box has no score.

    Args:
        truths: The boxes of each image.
        found: The detections in each image.
        classes: Labels are 0 to `classes` - 1.
        groups: (N,) the group of each image, or None.
        seed: Fixes the bootstrap.
    """
    units = np.arange(len(truths)) if groups is None else np.unique(groups, return_inverse=True)[1]
    matches = {size: [match_class(truths, found, label, size) for label in range(classes)] for size in SIZES}
    scores = []
    for metric, size, thresholds in _METRICS:
        if not any(m.boxes.any() for m in matches[size]):
            continue
        value = float(average_precision(matches[size], thresholds, units, np.ones((1, units.max() + 1)))[0])
        low, high = _interval(matches[size], thresholds, units, seed) or (None, None)
        scores.append(
            Score(metric, value, len(truths), low, high, "image" if groups is None else "group", None)
        )
    return scores


def average_precision(
    matches: Sequence[ClassMatches], thresholds: Sequence[int], units: Ints, weights: Floats
) -> Floats:
    """Return (B,) AP of resamples, averaged over the classes that have boxes in them; nan where none has.

    Args:
        matches: Each class's matches.
        thresholds: Which of the matches' thresholds are averaged.
        units: (N,) the unit of each image.
        weights: (B, U) how often each unit counts.
    """
    values = np.stack(
        [np.mean([_class_precision(m, t, units, weights) for t in thresholds], axis=0) for m in matches]
    )
    there = ~np.isnan(values)
    return np.asarray(
        np.where(
            there.any(axis=0),
            np.where(there, values, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1),
            np.nan,
        )
    )


def _class_precision(matches: ClassMatches, threshold: int, units: Ints, weights: Floats) -> Floats:
    """Return (B,) AP of one class at one threshold; nan where a resample has no box of it."""
    boxes_b = weights @ np.bincount(units, weights=matches.boxes, minlength=weights.shape[1])
    counted = matches.counted[threshold]
    unit, right = units[matches.image[counted]], matches.right[threshold][counted]
    # Precision is asked for at right detections alone. Before each of them stand so many wrong ones: a sparse
    # sum over units, so that a resample costs no walk over all detections.
    hits_h = np.cumsum(right) - right
    columns = int(right.sum())
    if not columns:
        return np.where(boxes_b > 0, 0.0, np.nan)
    wrong = ~right & (hits_h < columns)
    shape = (columns, weights.shape[1])
    misses = csr_array((np.ones(int(wrong.sum())), (hits_h[wrong], unit[wrong])), shape=shape)
    hits_bh = np.cumsum(weights[:, unit[right]], axis=1)
    misses_bh = np.cumsum((misses @ weights.T).T, axis=1)
    precision_bh = hits_bh / np.maximum(hits_bh + misses_bh, np.spacing(1.0))
    falling_bh = np.maximum.accumulate(precision_bh[:, ::-1], axis=1)[:, ::-1]
    recall_bh = hits_bh / np.maximum(boxes_b, 1)[:, None]
    values = np.full(len(weights), np.nan)
    for b in np.flatnonzero(boxes_b > 0):
        places = np.searchsorted(recall_bh[b], RECALL_THRESHOLDS, side="left")
        reached = places < columns
        values[b] = falling_bh[b, places[reached]].sum() / len(RECALL_THRESHOLDS)
    return values


def _interval(
    matches: Sequence[ClassMatches], thresholds: Sequence[int], units: Ints, seed: int
) -> tuple[float, float] | None:
    count = int(units.max()) + 1
    if count < 2:
        return None
    values = np.concatenate(
        [average_precision(matches, thresholds, units, weights) for weights in resamples(count, seed)]
    )
    if np.isnan(values).all():
        return None
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
