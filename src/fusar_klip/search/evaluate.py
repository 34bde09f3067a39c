"""How well an unfiltered query finds a place that is known beforehand, beside what chance would give.

Chance: N tiles in random order, m of them at the place. The m tiles cut the other N - m into m + 1 gaps that
are alike, so each gap, the first one too, holds (N - m) / (m + 1) tiles on average, and the first tile at
the place has the expected rank (N - m) / (m + 1) + 1 = (N + 1) / (m + 1). It has a rank above r when the
first r tiles all come from the other N - m, with probability C(N - m, r) / C(N, r).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusar_klip.errors import SearchError
from fusar_klip.search.geography import BBox, check_bbox, touching
from fusar_klip.search.index import open_index
from fusar_klip.search.query import embed_query


@dataclass(frozen=True)
class FirstRank:
    """The rank of the first tile at a place, for a query without a filter."""

    query: str
    bbox: list[float]
    rank: int
    """1 is the best. Tiles elsewhere with the same score count as ranked before it."""
    expected_by_chance: float
    """The expected rank of the first tile in a random order."""
    chance_of_rank: float
    """The probability that a random order does as well or better. It takes the tiles as independent; those
    that overlap on the ground, as the three scales do, are not, so it is no significance level."""
    inside: int
    """m, the tiles at the place."""
    indexed: int
    """N, all tiles."""


def rank_of_first(index: Path, query: str, bbox: BBox) -> FirstRank:
    """Rank all tiles of `index` for `query`, and return the rank of the first whose footprint touches `bbox`.

    Raises:
        SearchError: As `search` does.
    """
    opened = open_index(index)
    inside = touching(opened.bounds, check_bbox(bbox))
    if not inside.any():
        raise SearchError(
            f"none of the {opened.count} indexed tiles lies in the bounding box: give a wider one"
        )
    found, rows = opened.nearest(embed_query(opened, query), opened.count)
    scores = np.empty_like(found)
    scores[rows] = found
    rank = first_rank(scores, inside)
    count, marked = opened.count, int(inside.sum())
    return FirstRank(
        query=query,
        bbox=list(bbox),
        rank=rank,
        expected_by_chance=expected_first_rank(count, marked),
        chance_of_rank=chance_of_first_rank(rank, count, marked),
        inside=marked,
        indexed=count,
    )


def first_rank(scores: npt.NDArray[np.float32], marked: npt.NDArray[np.bool_]) -> int:
    """Return the rank (1 is the best) of the best of the `marked`; ties count against it.

    Args:
        scores: (N,), higher is better.
        marked: (N,), at least one of them.
    """
    return 1 + int((scores[~marked] >= scores[marked].max()).sum())


def expected_first_rank(count: int, marked: int) -> float:
    """Return the expected rank of the first of `marked` items among `count` in random order."""
    return (count + 1) / (marked + 1)


def chance_of_first_rank(rank: int, count: int, marked: int) -> float:
    """Return the probability that the first of `marked` among `count` shuffled items is at `rank` or less."""
    # C(N - m, r) / C(N, r) as a product of r terms: no huge integers, and 0 as soon as r > N - m.
    taken = np.arange(rank)
    return float(1 - np.prod(np.clip((count - marked - taken) / (count - taken), 0, None)))
