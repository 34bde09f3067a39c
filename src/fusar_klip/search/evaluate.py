"""The rank of the first relevant tile for a query without a box, compared with a random ranking.

Relevant are the tiles at a place that is known to hold what the query asks for. In a random order of N tiles,
the m relevant ones divide the other N - m into m + 1 gaps of equal expected length (N - m) / (m + 1). So the
first relevant tile has the expected rank (N - m) / (m + 1) + 1 = (N + 1) / (m + 1). Its rank is above r if
the first r tiles are all irrelevant, with probability C(N - m, r) / C(N, r).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusar_klip.errors import SearchError
from fusar_klip.search.geography import BBox, check_bbox, intersects
from fusar_klip.search.index import open_index
from fusar_klip.search.query import embed_query


@dataclass(frozen=True)
class FirstRelevantRank:
    """The rank of the first tile at a place, for a query without a box."""

    query: str
    bbox: list[float]
    rank: int
    """1 is the best. Irrelevant tiles with an equal score count as ranked before it."""
    expected_at_random: float
    """Expected rank of the first relevant tile in a random order."""
    probability_at_random: float
    """Probability that a random order gives this rank or a better one. It assumes independent tiles. Tiles
    that overlap on the ground, as those of the three scales do, are not independent: it is not a p-value."""
    relevant: int
    """m, the number of tiles at the place."""
    indexed: int
    """N, the number of all tiles."""


def first_relevant_rank(index: Path, query: str, bbox: BBox) -> FirstRelevantRank:
    """Rank all tiles of `index` for `query`, and return the rank of the first whose footprint touches `bbox`.

    Raises:
        SearchError: As `search` does.
    """
    opened = open_index(index)
    at_place = intersects(opened.bounds, check_bbox(bbox))
    if not at_place.any():
        raise SearchError(
            f"none of the {opened.count} indexed tiles lies in the bounding box: give a wider one"
        )
    sorted_scores, rows = opened.nearest(embed_query(opened, query), opened.count)
    scores = np.empty_like(sorted_scores)
    scores[rows] = sorted_scores
    rank = best_rank(scores, at_place)
    count, relevant = opened.count, int(at_place.sum())
    return FirstRelevantRank(
        query=query,
        bbox=list(bbox),
        rank=rank,
        expected_at_random=expected_rank_at_random(count, relevant),
        probability_at_random=probability_at_random(rank, count, relevant),
        relevant=relevant,
        indexed=count,
    )


def best_rank(scores: npt.NDArray[np.float32], relevant: npt.NDArray[np.bool_]) -> int:
    """Return the rank (1 is the best) of the best relevant item; ties count against it.

    Args:
        scores: (N,), higher is better.
        relevant: (N,) bool, at least one true.
    """
    return 1 + int((scores[~relevant] >= scores[relevant].max()).sum())


def expected_rank_at_random(count: int, relevant: int) -> float:
    """Return the expected rank of the first of `relevant` items among `count` in random order."""
    return (count + 1) / (relevant + 1)


def probability_at_random(rank: int, count: int, relevant: int) -> float:
    """Return the probability that, in random order, the first of `relevant` items has this rank or less."""
    # C(N - m, r) / C(N, r) as a product of r terms: no huge integers, and 0 as soon as r > N - m.
    k = np.arange(rank)
    return float(1 - np.prod(np.clip((count - relevant - k) / (count - k), 0, None)))
