"""The rank of the first marked item, and chance, against random permutations."""

import numpy as np
import pytest
from shapely import box

from fusar_klip.errors import SearchError
from fusar_klip.search import build_index, rank_of_first
from fusar_klip.search.evaluate import chance_of_first_rank, expected_first_rank, first_rank


@pytest.mark.parametrize(("count", "marked"), [(1, 1), (10, 1), (30, 4), (50, 49)])
def test_chance_agrees_with_shuffling(count, marked):
    generator = np.random.default_rng(0)
    mask = np.arange(count) < marked
    shuffles = 4000
    ranks = np.array([first_rank(generator.permutation(count), mask) for _ in range(shuffles)])
    # Five standard errors: wrong once in two million.
    error = 5 * ranks.std() / np.sqrt(shuffles)
    assert abs(ranks.mean() - expected_first_rank(count, marked)) <= error
    for rank in (1, count // 3 + 1, count - marked + 1):
        share = (ranks <= rank).mean()
        exact = chance_of_first_rank(rank, count, marked)
        assert abs(share - exact) <= 5 * np.sqrt(exact * (1 - exact) / shuffles) + 1e-12


def test_chance_of_the_first_rank_is_the_share_of_marked():
    assert chance_of_first_rank(1, 40, 10) == pytest.approx(0.25)
    assert chance_of_first_rank(31, 40, 10) == 1
    assert chance_of_first_rank(40, 40, 10) == 1


def test_ties_count_against_the_marked():
    scores = np.ones(5, np.float32)
    assert first_rank(scores, np.array([True, False, False, False, False])) == 5


def test_rank_of_first_ranks_without_a_filter(make_dataset, run, tmp_path):
    footprints = [box(0, 0, 1, 1)] * 3 + [box(20, 20, 21, 21)] * 2
    index = tmp_path / "index"
    build_index(make_dataset([250, 200, 100, 150, 10], footprints), run, index)
    found = rank_of_first(index, "brightness 250", (20, 20, 21, 21))
    assert (found.rank, found.inside, found.indexed) == (3, 2, 5)
    assert found.expected_by_chance == pytest.approx(6 / 3)
    # Worse than rank 3 only when the three tiles elsewhere come first: one of C(5, 3) = 10 ways.
    assert found.chance_of_rank == pytest.approx(0.9)


def test_a_place_without_tiles_has_no_rank(make_dataset, run, tmp_path):
    build_index(make_dataset([1, 2]), run, tmp_path / "index")
    with pytest.raises(SearchError, match="none of the 2 indexed tiles"):
        rank_of_first(tmp_path / "index", "brightness 1", (-20, -20, -10, -10))
