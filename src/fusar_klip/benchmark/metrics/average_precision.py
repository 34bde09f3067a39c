"""COCO's average precision, with a bootstrap interval that reuses the matches. Knows arrays only.

AP is the interpolated precision at 101 recalls, averaged over classes and, for `ap`, over ten IoU thresholds.

Letters: D detections of a class, H of them true positives, N images, U units, B resamples.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from fusar_klip.benchmark.metrics.bootstrap import Floats, Ints, Score, resamples
from fusar_klip.benchmark.metrics.box_matching import (
    AREA_RANGES,
    ClassMatches,
    Detections,
    GroundTruth,
    match_class,
)

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
_ALL_THRESHOLDS = tuple(range(10))
# Metric, range of areas, numbers of the IoU thresholds.
_METRICS = (
    ("ap50", "all", (0,)),
    ("ap", "all", _ALL_THRESHOLDS),
    ("ap_small", "small", _ALL_THRESHOLDS),
    ("ap_medium", "medium", _ALL_THRESHOLDS),
    ("ap_large", "large", _ALL_THRESHOLDS),
)


def detection_scores(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: int,
    groups: Ints | None,
    seed: int,
) -> list[Score]:
    """Score the detections in N images: AP50, AP, and AP of small, medium and large boxes.

    A range of areas without boxes has no score.

    Args:
        truths: The boxes of each image.
        detections: The detections in each image.
        classes: Labels are 0 to `classes` - 1.
        groups: (N,) the group of each image, or None.
        seed: Fixes the bootstrap.
    """
    units = np.arange(len(truths)) if groups is None else np.unique(groups, return_inverse=True)[1]
    matches = {
        area: [match_class(truths, detections, label, area) for label in range(classes)]
        for area in AREA_RANGES
    }
    scores = []
    for metric, area, thresholds in _METRICS:
        if not any(m.box_counts.any() for m in matches[area]):
            continue
        value = float(average_precision(matches[area], thresholds, units, np.ones((1, units.max() + 1)))[0])
        low, high = _interval(matches[area], thresholds, units, seed) or (None, None)
        scores.append(
            Score(metric, value, len(truths), low, high, "image" if groups is None else "group", None)
        )
    return scores


def average_precision(
    matches: Sequence[ClassMatches], thresholds: Sequence[int], units: Ints, weights: Floats
) -> Floats:
    """Return the (B,) AP of resamples, averaged over the classes that have boxes in them; nan where none has.

    Args:
        matches: Each class's matches.
        thresholds: Numbers of the IoU thresholds that are averaged over.
        units: (N,) the unit of each image.
        weights: (B, U) how often each unit counts.
    """
    values = np.stack(
        [np.mean([_class_precision(m, t, units, weights) for t in thresholds], axis=0) for m in matches]
    )
    has_boxes = ~np.isnan(values)
    return np.asarray(
        np.where(
            has_boxes.any(axis=0),
            np.where(has_boxes, values, 0).sum(axis=0) / np.maximum(has_boxes.sum(axis=0), 1),
            np.nan,
        )
    )


def _class_precision(matches: ClassMatches, threshold: int, units: Ints, weights: Floats) -> Floats:
    """Return the (B,) AP of one class at one threshold; nan where a resample has no box of it."""
    boxes_b = weights @ np.bincount(units, weights=matches.box_counts, minlength=weights.shape[1])
    counted = matches.counted[threshold]
    unit, correct = units[matches.image[counted]], matches.correct[threshold][counted]
    # Only the precision at true positives matters. This counts the true positives before each detection: a
    # sparse sum over units, so that a resample does not need to pass over all detections.
    before_d = np.cumsum(correct) - correct
    columns = int(correct.sum())
    if not columns:
        return np.where(boxes_b > 0, 0.0, np.nan)
    false = ~correct & (before_d < columns)
    shape = (columns, weights.shape[1])
    false_positives = csr_array((np.ones(int(false.sum())), (before_d[false], unit[false])), shape=shape)
    true_bh = np.cumsum(weights[:, unit[correct]], axis=1)
    false_bh = np.cumsum((false_positives @ weights.T).T, axis=1)
    precision_bh = true_bh / np.maximum(true_bh + false_bh, np.spacing(1.0))
    interpolated_bh = np.maximum.accumulate(precision_bh[:, ::-1], axis=1)[:, ::-1]
    recall_bh = true_bh / np.maximum(boxes_b, 1)[:, None]
    values = np.full(len(weights), np.nan)
    for b in np.flatnonzero(boxes_b > 0):
        places = np.searchsorted(recall_bh[b], RECALL_THRESHOLDS, side="left")
        reached = places < columns
        values[b] = interpolated_bh[b, places[reached]].sum() / len(RECALL_THRESHOLDS)
    return values


def _interval(
    matches: Sequence[ClassMatches], thresholds: Sequence[int], units: Ints, seed: int
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval; None for fewer than two units."""
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
