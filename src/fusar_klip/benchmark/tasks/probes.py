"""Linear probe and k-nearest neighbours on frozen features; their one setting is chosen on a held-out fifth.

Knows arrays only. The test part is read once, after the choice.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fusar_klip.benchmark.settings import KnnRow, LinearProbeRow
from fusar_klip.errors import DatasetError

Features = NDArray[np.float32]
Ints = NDArray[np.int64]
Number = TypeVar("Number", int, float)

_FOLDS = 5
# What rounding leaves of a constant feature's spread, relative to its mean, in float32.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class ProbeResult:
    """A probe's answer on the test part."""

    probabilities: NDArray[np.float64]
    """(N_test, K) class probabilities."""
    chosen: dict[str, Any]
    """The chosen setting, the held-out accuracy of every candidate, and the number of held-out images."""
    notes: list[str]


def held_out_fifth(labels: Ints, groups: Ints | None, seed: int) -> tuple[Ints, Ints]:
    """Split training images into four fifths to fit on and one to choose on, with no group in both.

    Args:
        labels: (N,) class of each training image; the fifth keeps the classes' shares.
        groups: (N,) groups that stay together, or None.
        seed: Fixes the split.

    Returns:
        Indices to fit on and indices held out, ascending.

    Raises:
        DatasetError: A class has fewer than five images, or there are fewer than five groups.
    """
    fewest = int(np.bincount(labels).min())
    if fewest < _FOLDS:
        raise DatasetError(
            f"a class has {fewest} training images, and at least {_FOLDS} of each are needed to choose a "
            "probe's settings: add images, or take the class out of the split"
        )
    units = np.arange(len(labels)) if groups is None else groups
    if len(np.unique(units)) < _FOLDS:
        raise DatasetError(
            f"the training part has fewer than {_FOLDS} groups, too few to hold a fifth out: name finer "
            "groups in the split file, or leave its group column out"
        )
    folds = StratifiedGroupKFold(n_splits=_FOLDS, shuffle=True, random_state=seed)
    fit, held_out = next(folds.split(np.zeros(len(labels)), labels, units))
    return fit, held_out


def linear_probe(
    train: Features, labels: Ints, groups: Ints | None, test: Features, row: LinearProbeRow
) -> ProbeResult:
    """Fit a logistic regression on standardised features; choose C, then refit on all training images.

    Args:
        train: (N, W) training features.
        labels: (N,) their classes, 0 to K - 1, each present.
        groups: (N,) groups that stay together while choosing, or None.
        test: (N_test, W) test features.
        row: The candidates for C, the iterations and the seed.
    """
    kept = _varying(train)

    def probe(c: float) -> Pipeline:
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=row.max_iterations))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        c, accuracy, held_out = _choose(row.c_values, probe, train[:, kept], labels, groups, row.seed)
        caught.clear()
        with threadpool_limits(1):
            probabilities = probe(c).fit(train[:, kept], labels).predict_proba(test[:, kept])
    unfinished = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    notes = [f"The probe stopped after {row.max_iterations} iterations, before it converged."]
    chosen = {"C": c, "held_out_accuracy": accuracy, "held_out_images": held_out}
    return ProbeResult(probabilities, chosen, notes if unfinished else [])


def knn(train: Features, labels: Ints, groups: Ints | None, test: Features, row: KnnRow) -> ProbeResult:
    """Vote among the k nearest training images by cosine distance; arguments as `linear_probe`."""
    fit, _ = held_out_fifth(labels, groups, row.seed)
    candidates = [k for k in row.k_values if k <= len(fit)] or [1]

    def vote(k: int) -> KNeighborsClassifier:
        return KNeighborsClassifier(n_neighbors=k, metric="cosine", weights="distance", algorithm="brute")

    k, accuracy, held_out = _choose(candidates, vote, train, labels, groups, row.seed)
    probabilities = vote(k).fit(train, labels).predict_proba(test)
    chosen = {"k": k, "held_out_accuracy": accuracy, "held_out_images": held_out}
    return ProbeResult(probabilities, chosen, [])


def _varying(features: Features) -> NDArray[np.bool_]:
    """Return (W,) which features vary: standardising a constant one would blow its rounding up."""
    spread = features.std(axis=0, dtype=np.float64)
    varying: NDArray[np.bool_] = spread > _CONSTANT * np.maximum(np.abs(features).max(axis=0), 1e-12)
    return varying if varying.any() else np.ones_like(varying)


def _choose(
    candidates: Sequence[Number],
    classifier: Callable[[Number], Any],
    features: Features,
    labels: Ints,
    groups: Ints | None,
    seed: int,
) -> tuple[Number, dict[str, float], int]:
    """Return the candidate that is best on the held-out fifth (the first of equals), and how all did."""
    fit, held_out = held_out_fifth(labels, groups, seed)
    accuracy: dict[str, float] = {}
    # Threads cost more than they give on matrices of this size, above all on busy cores.
    with threadpool_limits(1):
        for candidate in candidates:
            fitted = classifier(candidate).fit(features[fit], labels[fit])
            accuracy[str(candidate)] = float(fitted.score(features[held_out], labels[held_out]))
    best = max(candidates, key=lambda candidate: accuracy[str(candidate)])
    return best, accuracy, len(held_out)
