"""Scores with 95 % bootstrap confidence intervals and chance levels.

Knows arrays only, no data set and no model. A metric is a statistic of sums over images, so that a resample
is a weighted sum and costs no second evaluation.

Letters: N images or queries, U units that the bootstrap resamples, B resamples, M sums.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]
"""Maps (B, M) sums of B resamples to the metric's (B,) values."""

RESAMPLES = 2000
# The draws of one block, resamples x units: 32 MiB of float64.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Score:
    """One metric of one row, as `results.json` holds it."""

    metric: str
    value: float
    n: int
    """Number of images or queries that the value averages over."""
    ci_low: float | None
    """Lower end of the 95 % percentile bootstrap interval; None for fewer than two units."""
    ci_high: float | None
    """Upper end of the interval."""
    ci_unit: Literal["image", "group"]
    """The unit of resampling. Images of one group (near-duplicates, overlapping tiles) are not independent,
    so whole groups are resampled where the data set names them."""
    chance: float | None
    """The chance level; None where it is not defined."""


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


def score_of_sums(
    metric: str, totals: Floats, statistic: Statistic, groups: Ints | None, chance: float | None, seed: int
) -> Score:
    """Score a statistic of sums over images, with its interval.

    Args:
        metric: The metric's name.
        totals: (N, M) what each image adds to M sums.
        statistic: Maps (B, M) sums to (B,) values.
        groups: (N,) the group of each image, or None.
        chance: The chance level.
        seed: Fixes the resamples.
    """
    value = float(statistic(totals.sum(axis=0, keepdims=True))[0])
    units = totals
    if groups is not None:
        members = np.unique(groups, return_inverse=True)[1]
        units = np.zeros((members.max() + 1, totals.shape[1]))
        np.add.at(units, members, totals)
    low, high = bootstrap_interval(units, statistic, seed) or (None, None)
    return Score(metric, value, len(totals), low, high, "image" if groups is None else "group", chance)


def mean_of_sums(sums: Floats) -> Floats:
    """Return the (B,) means of (B, 2) sums: of values, and of their number."""
    return np.asarray(sums[:, 0] / sums[:, 1])


def resamples(units: int, seed: int) -> Iterator[Floats]:
    """Yield blocks of (B, U) weights: how often each resample draws each unit, with replacement."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // units)
    for start in range(0, RESAMPLES, block):
        draws = rng.multinomial(units, np.full(units, 1 / units), size=min(block, RESAMPLES - start))
        yield draws.astype(np.float64)
