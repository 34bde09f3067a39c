"""OA, mIoU and IoU by class from confusion counts, with bootstrap intervals. Knows arrays only.

Letters: N images, K classes, B resamples.
"""

import re
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.metrics.scores import Score, Statistic, score_of_sums
from fusar_klip.datasets.samples import IGNORED

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def confusion_counts(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Ints:
    """Return (K, K) pixels: counts[t, p] of class t were taken for p; pixels without a class do not count."""
    known = truth != IGNORED
    pairs = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def segmentation_scores(counts: Ints, names: Sequence[str], groups: Ints | None, seed: int) -> list[Score]:
    """Score (N, K, K) confusion counts of N images: OA, mIoU, and the IoU of each class.

    The mean is over the classes that the masks hold (in a resample: its masks); others have no IoU of their
    own, whatever a model takes for them. Chance is a uniform guess at every pixel.
    """
    images, classes = counts.shape[:2]
    totals = counts.reshape(images, classes**2).astype(np.float64)
    share = counts.sum((0, 2)) / max(1, counts.sum())
    # Of a class of share s, s / K is hit; 1 / K of all pixels is taken for it.
    guessed = share / classes / (share + 1 / classes - share / classes)
    there = np.flatnonzero(share)
    metrics: list[tuple[str, Statistic, float]] = [
        ("oa", _overall, 1 / classes),
        ("miou", _mean_iou, float(guessed[there].mean())),
    ]
    for number in there.tolist():
        slug = re.sub(r"[^a-z0-9]+", "_", names[number].lower()).strip("_")
        metrics.append((f"iou_{slug}", partial(_iou, number=number), float(guessed[number])))
    return [
        score_of_sums(metric, totals, statistic, groups, chance, seed)
        for metric, statistic, chance in metrics
    ]


def _square(sums: Floats) -> Floats:
    """Return (B, K, K) of (B, K K) sums."""
    classes = round(sums.shape[1] ** 0.5)
    return sums.reshape(-1, classes, classes)


def _overall(sums: Floats) -> Floats:
    counts = _square(sums)
    return np.asarray(np.trace(counts, axis1=1, axis2=2) / np.maximum(counts.sum((1, 2)), 1))


def _ious(sums: Floats) -> Floats:
    """Return (B, K)."""
    counts = _square(sums)
    hits = np.diagonal(counts, axis1=1, axis2=2)
    return np.asarray(hits / np.maximum(counts.sum(2) + counts.sum(1) - hits, 1))


def _iou(sums: Floats, number: int) -> Floats:
    return np.asarray(_ious(sums)[:, number])


def _mean_iou(sums: Floats) -> Floats:
    held = _square(sums).sum(2) > 0
    return np.asarray(np.where(held, _ious(sums), 0).sum(1) / np.maximum(held.sum(1), 1))
