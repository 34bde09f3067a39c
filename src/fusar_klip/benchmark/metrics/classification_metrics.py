"""Top-k accuracy and macro F1 of class probabilities, with intervals and chance levels. Knows arrays only.

Letters: N images, K classes, B resamples.
"""

from collections.abc import Sequence

import numpy as np

from fusar_klip.benchmark.metrics.bootstrap import Floats, Ints, Score, Statistic, mean_of_sums, score_of_sums
from fusar_klip.benchmark.settings import ClassMetric


def classification_scores(
    probabilities: Floats, labels: Ints, groups: Ints | None, metrics: Sequence[ClassMetric], seed: int
) -> list[Score]:
    """Score class probabilities against labels; every score is in [0, 1].

    Args:
        probabilities: (N, K) class probabilities.
        labels: (N,) classes, 0 to K - 1.
        groups: (N,) the group of each image, or None.
        metrics: What is scored.
        seed: Fixes the bootstrap.
    """
    classes = probabilities.shape[1]
    ones = np.ones(len(labels))
    scores = []
    for metric in metrics:
        match metric:
            case "top1" | "top3":
                k = min(1 if metric == "top1" else 3, classes)
                totals = np.stack([top_k_hits(probabilities, labels, k), ones], axis=1)
                statistic: Statistic = mean_of_sums
                chance = k / classes
            case "macro_f1":
                totals = _one_hot_counts(probabilities.argmax(axis=1), labels, classes)
                statistic = _macro_f1
                share = np.bincount(labels, minlength=classes) / len(labels)
                # A uniform random prediction has precision `share` and recall 1 / K in each class.
                chance = float(np.mean(2 * share / classes / (share + 1 / classes)))
        scores.append(score_of_sums(metric, totals, statistic, groups, chance, seed))
    return scores


def top_k_hits(probabilities: Floats, labels: Ints, k: int) -> Floats:
    """Return (N,) 1.0 where the label is among the k most probable classes; ties go to the first class."""
    top_k = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return np.asarray((top_k == labels[:, None]).any(axis=1), dtype=np.float64)


def _one_hot_counts(predicted: Ints, labels: Ints, classes: int) -> Floats:
    """Return (N, 3 K): each image's true positive, prediction and label, one-hot over the classes."""
    eye = np.eye(classes)
    return np.concatenate([eye[labels] * (predicted == labels)[:, None], eye[predicted], eye[labels]], axis=1)


def _macro_f1(sums: Floats) -> Floats:
    """F1 = 2 TP / (predictions + labels), averaged over the classes; 0 for a class with neither."""
    true_positives, predictions, labels = np.split(sums, 3, axis=1)
    return np.asarray((2 * true_positives / np.maximum(predictions + labels, 1)).mean(axis=1))
