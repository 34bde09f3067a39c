"""Linear probe and k-nearest neighbours on frozen features; a held-out fifth chooses their one setting.

Knows arrays only. The test part is read once, after the choice.

Letters: N training images, W features, K classes.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fusar_klip.benchmark.settings import ClassificationRow
from fusar_klip.errors import DatasetError

Features = NDArray[np.float32]
Ints = NDArray[np.int64]
Number = TypeVar("Number", int, float)

_FOLDS = 5
# Standard deviation of a constant feature by rounding in float32, relative to its mean.
_CONSTANT = 1e-6


class LinearProbeRow(ClassificationRow):
    """Logistic regression on the frozen image tower's standardised CLS features."""

    task: Literal["linear_probe"]
    preset: Literal["recommended"] = "recommended"
    c_values: Annotated[tuple[float, ...], Field(min_length=1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Candidates of the inverse regularisation strength; a grouped fifth of the training part chooses one."""
    max_iterations: int = Field(default=2000, ge=1)
    """Maximum number of L-BFGS iterations."""


class KnnRow(ClassificationRow):
    """Cosine nearest neighbours on the frozen image tower's CLS features."""

    task: Literal["knn"]
    preset: Literal["recommended"] = "recommended"
    # k neighbours seldom hold three classes, so the third of a top-3 would be arbitrary.
    metrics: Annotated[tuple[Literal["top1", "macro_f1"], ...], Field(min_length=1)] = ("top1", "macro_f1")
    """The reported metrics."""
    k_values: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 3, 5, 10, 20)
    """Candidates of the number of neighbours; a grouped fifth of the training part chooses one."""


@dataclass(frozen=True)
class ProbeResult:
    """A classifier's predictions on the test part."""

    probabilities: NDArray[np.float64]
    """(N_test, K) class probabilities."""
    chosen: dict[str, Any]
    """The chosen setting, the held-out accuracy of every candidate, and the number of held-out images."""
    notes: list[str]
    """Remarks for the reader of the scores."""


def held_out_fifth(labels: Ints, groups: Ints | None, seed: int) -> tuple[Ints, Ints]:
    """Split the training images into four fifths to fit on and one to choose on, with no group in both.

    Args:
        labels: (N,) class of each training image; the split keeps the classes' shares.
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
            f"a class has {fewest} training images, and choosing a probe's settings needs at least {_FOLDS} "
            "of each class: add images, or remove the class from the split"
        )
    units = np.arange(len(labels)) if groups is None else groups
    if len(np.unique(units)) < _FOLDS:
        raise DatasetError(
            f"the training part has fewer than {_FOLDS} groups, too few to hold out a fifth: give finer "
            "groups in the split file, or remove its group column"
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
    """Return (W,) which features vary: standardising a constant feature would amplify rounding errors."""
    deviation = features.std(axis=0, dtype=np.float64)
    varying: NDArray[np.bool_] = deviation > _CONSTANT * np.maximum(np.abs(features).max(axis=0), 1e-12)
    return varying if varying.any() else np.ones_like(varying)


def _choose(
    candidates: Sequence[Number],
    classifier: Callable[[Number], Any],
    features: Features,
    labels: Ints,
    groups: Ints | None,
    seed: int,
) -> tuple[Number, dict[str, float], int]:
    """Return the best candidate on the held-out fifth (ties: the first), all accuracies, and its size."""
    fit, held_out = held_out_fifth(labels, groups, seed)
    accuracy: dict[str, float] = {}
    # On matrices of this size threads cost more time than they save.
    with threadpool_limits(1):
        for candidate in candidates:
            fitted = classifier(candidate).fit(features[fit], labels[fit])
            accuracy[str(candidate)] = float(fitted.score(features[held_out], labels[held_out]))
    best = max(candidates, key=lambda candidate: accuracy[str(candidate)])
    return best, accuracy, len(held_out)
