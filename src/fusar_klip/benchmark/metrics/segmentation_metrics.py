"""OA, mIoU and the IoU of each class from confusion counts, with bootstrap intervals. Knows arrays only.

Letters: N images, K classes, B resamples.
"""

import re
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.metrics.bootstrap import Floats, Ints, Score, Statistic, score_of_sums
from fusar_klip.datasets.labelled_data import IGNORED


def confusion_counts(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Ints:
    """Return (K, K) pixel counts: counts[t, p] pixels of class t were predicted as class p.

    Unlabelled pixels do not count.

    Args:
        truth: (H, W) uint8 classes; `IGNORED` where there is none.
        predicted: (H, W) uint8 classes.
        classes: K.
    """
    known = truth != IGNORED
    pairs = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def segmentation_scores(counts: Ints, names: Sequence[str], groups: Ints | None, seed: int) -> list[Score]:
    """Score (N, K, K) confusion counts of N images: OA, mIoU, and the IoU of each class.

    The mean is over the classes that occur in the masks (in a resample: in its masks). A class that does not
    occur has no IoU of its own, whatever a model predicts. Chance is a uniform random prediction at every
    pixel.
    """
    images, classes = counts.shape[:2]
    totals = counts.reshape(images, classes**2).astype(np.float64)
    share = counts.sum((0, 2)) / max(1, counts.sum())
    # Of a class of share s, s / K of all pixels are predicted correctly; 1 / K of all pixels are predicted as
    # it.
    chance_iou = share / classes / (share + 1 / classes - share / classes)
    present = np.flatnonzero(share)
    metrics: list[tuple[str, Statistic, float]] = [
        ("oa", _overall_accuracy, 1 / classes),
        ("miou", _mean_iou, float(chance_iou[present].mean())),
    ]
    for number in present.tolist():
        slug = re.sub(r"[^a-z0-9]+", "_", names[number].lower()).strip("_")
        metrics.append((f"iou_{slug}", partial(_iou, number=number), float(chance_iou[number])))
    return [
        score_of_sums(metric, totals, statistic, groups, chance, seed)
        for metric, statistic, chance in metrics
    ]


def _matrices(sums: Floats) -> Floats:
    """Return (B, K, K) confusion matrices of (B, K K) sums."""
    classes = round(sums.shape[1] ** 0.5)
    return sums.reshape(-1, classes, classes)


def _overall_accuracy(sums: Floats) -> Floats:
    counts = _matrices(sums)
    return np.asarray(np.trace(counts, axis1=1, axis2=2) / np.maximum(counts.sum((1, 2)), 1))


def _ious(sums: Floats) -> Floats:
    """Return the (B, K) IoU of each class."""
    counts = _matrices(sums)
    hits = np.diagonal(counts, axis1=1, axis2=2)
    return np.asarray(hits / np.maximum(counts.sum(2) + counts.sum(1) - hits, 1))


def _iou(sums: Floats, number: int) -> Floats:
    return np.asarray(_ious(sums)[:, number])


def _mean_iou(sums: Floats) -> Floats:
    present = _matrices(sums).sum(2) > 0
    return np.asarray(np.where(present, _ious(sums), 0).sum(1) / np.maximum(present.sum(1), 1))
