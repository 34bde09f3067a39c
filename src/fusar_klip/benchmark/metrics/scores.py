"""Metrics with 95 % bootstrap intervals and chance levels: top-k, macro F1, recall at K.

Knows arrays only, no data set and no model. Every value, interval end and chance level is a share in
[0, 1].

Letters: N images or queries, K classes, G gallery items, U units that the bootstrap resamples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.settings import ClassMetric

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]

RESAMPLES = 2000
# The draws of one block, resamples x units: 32 MiB of float64.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Score:
    """One metric of one row, as `results.json` holds it."""

    metric: str
    value: float
    n: int
    """Images or queries that the value is a mean over."""
    ci_low: float | None
    """Lower end of the 95 % percentile bootstrap interval; None where there are not two units."""
    ci_high: float | None
    ci_unit: Literal["image", "group"]
    """What was resampled. Images of one group (near-duplicates, one ground) are not independent, so whole
    groups are drawn where the data set names them."""
    chance: float | None
    """What guessing at random gives; None where that has no plain meaning."""


def bootstrap_interval(totals: Floats, statistic: Statistic, seed: int) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of a statistic of sums; None for fewer than two units.

    Args:
        totals: (U, M) what each unit adds to M sums.
        statistic: Maps (B, M) sums of B resamples to their (B,) values.
        seed: Fixes the resamples.
    """
    if len(totals) < 2:
        return None
    values = np.concatenate([statistic(weights @ totals) for weights in resamples(len(totals), seed)])
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def classification_scores(
    probabilities: Floats, labels: Ints, groups: Ints | None, metrics: Sequence[ClassMetric], seed: int
) -> list[Score]:
    """Score (N, K) class probabilities against (N,) labels; `groups` is (N,) or None."""
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
                totals = _confusion_parts(probabilities.argmax(axis=1), labels, classes)
                statistic = _macro_f1
                share = np.bincount(labels, minlength=classes) / len(labels)
                # A uniform guess has precision `share` and recall 1 / K in each class.
                chance = float(np.mean(2 * share / classes / (share + 1 / classes)))
        scores.append(score_of_sums(metric, totals, statistic, groups, chance, seed))
    return scores


def top_k_hits(probabilities: Floats, labels: Ints, k: int) -> Floats:
    """Return (N,) 1.0 where the label is among the k likeliest classes; of equals the first class wins."""
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return np.asarray((likeliest == labels[:, None]).any(axis=1), dtype=np.float64)


def recall_hits(similarity: Floats, relevant: NDArray[np.bool_], k: int) -> Floats:
    """Return (N,) the probability that a relevant item is among the k most similar ones.

    It is 0 or 1 unless items tie: ties are broken at random, in expectation, so that a collapsed model
    scores chance and not whatever the order of the gallery gives.

    Args:
        similarity: (N, G) similarity of each query to each gallery item.
        relevant: (N, G) which items answer the query, at least one for each.
        k: The length of the list.
    """
    best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)
    above = (similarity > best).sum(axis=1)
    tied = similarity == best
    return _any_drawn(tied.sum(axis=1), (tied & relevant).sum(axis=1), k - above)


def recall_scores(
    hits: Floats, chance: Floats, names: Sequence[str], mean_name: str, groups: Ints | None, seed: int
) -> list[Score]:
    """Score (N, M) hits of N image-text pairs in M recalls, and the mean of the M.

    Args:
        hits: Column m holds each pair's hit in recall m (its image's or its text's as the query).
        chance: (N, M) the probability of each hit when the gallery is shuffled.
        names: M names of metrics.
        mean_name: The name of their mean's metric.
        groups: (N,) the group of each pair, or None.
        seed: Fixes the bootstrap.
    """
    columns = [(name, hits[:, m], chance[:, m]) for m, name in enumerate(names)]
    columns.append((mean_name, hits.mean(axis=1), chance.mean(axis=1)))
    ones = np.ones(len(hits))
    return [
        score_of_sums(name, np.stack([values, ones], axis=1), mean_of_sums, groups, float(guess.mean()), seed)
        for name, values, guess in columns
    ]


def recall_chance(relevant: NDArray[np.bool_], k: int) -> Floats:
    """Return (N,) the probability that one of k items drawn at random from the gallery is relevant."""
    items = np.full(len(relevant), relevant.shape[1], dtype=np.int64)
    return _any_drawn(items, relevant.sum(axis=1), np.full(len(relevant), k, dtype=np.int64))


def score_of_sums(
    metric: str, totals: Floats, statistic: Statistic, groups: Ints | None, chance: float | None, seed: int
) -> Score:
    """Score a statistic of sums over images: (N, M) what each image adds; see `bootstrap_interval`."""
    value = float(statistic(totals.sum(axis=0, keepdims=True))[0])
    units = totals
    if groups is not None:
        members = np.unique(groups, return_inverse=True)[1]
        units = np.zeros((members.max() + 1, totals.shape[1]))
        np.add.at(units, members, totals)
    low, high = bootstrap_interval(units, statistic, seed) or (None, None)
    return Score(metric, value, len(totals), low, high, "image" if groups is None else "group", chance)


def resamples(units: int, seed: int) -> Iterator[Floats]:
    """Yield blocks of (B, U) weights: how often each unit is drawn, with replacement, in each resample."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // units)
    for start in range(0, RESAMPLES, block):
        draws = rng.multinomial(units, np.full(units, 1 / units), size=min(block, RESAMPLES - start))
        yield draws.astype(np.float64)


def _any_drawn(items: Ints, wanted: Ints, draws: Ints) -> Floats:
    """Return the probability that `draws` of `items` without replacement hold one of the `wanted`."""
    draws = np.clip(draws, 0, items)
    missed = np.ones(len(items))
    for step in range(int(draws.max(initial=0))):
        left = items - step
        missed *= np.where(step < draws, np.maximum(left - wanted, 0) / np.maximum(left, 1), 1.0)
    return 1.0 - missed


def mean_of_sums(sums: Floats) -> Floats:
    """Return (B,) means of (B, 2) sums of values and of how many there are."""
    return np.asarray(sums[:, 0] / sums[:, 1])


def _confusion_parts(predicted: Ints, labels: Ints, classes: int) -> Floats:
    """Return (N, 3 K): each image's true positive, prediction and label, one-hot over the classes."""
    eye = np.eye(classes)
    return np.concatenate([eye[labels] * (predicted == labels)[:, None], eye[predicted], eye[labels]], axis=1)


def _macro_f1(sums: Floats) -> Floats:
    """F1 = 2 TP / (predictions + labels), averaged over the classes; 0 for a class with neither."""
    hits, predictions, labels = np.split(sums, 3, axis=1)
    return np.asarray((2 * hits / np.maximum(predictions + labels, 1)).mean(axis=1))
