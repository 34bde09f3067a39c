"""The rank of the first relevant item, compared with random permutations."""

import numpy as np
import pytest
from shapely import box

from fusar_klip.errors import SearchError
from fusar_klip.search import build_index, first_relevant_rank
from fusar_klip.search.evaluate import best_rank, expected_rank_at_random, probability_at_random


@pytest.mark.parametrize(("count", "relevant"), [(1, 1), (10, 1), (30, 4), (50, 49)])
def test_random_rank_agrees_with_shuffling(count, relevant):
    generator = np.random.default_rng(0)
    mask = np.arange(count) < relevant
    shuffles = 4000
    ranks = np.array([best_rank(generator.permutation(count), mask) for _ in range(shuffles)])
    # Five standard errors: wrong once in two million.
    error = 5 * ranks.std() / np.sqrt(shuffles)
    assert abs(ranks.mean() - expected_rank_at_random(count, relevant)) <= error
    for rank in (1, count // 3 + 1, count - relevant + 1):
        share = (ranks <= rank).mean()
        exact = probability_at_random(rank, count, relevant)
        assert abs(share - exact) <= 5 * np.sqrt(exact * (1 - exact) / shuffles) + 1e-12


def test_probability_of_rank_1_is_the_share_of_relevant_tiles():
    assert probability_at_random(1, 40, 10) == pytest.approx(0.25)
    assert probability_at_random(31, 40, 10) == 1
    assert probability_at_random(40, 40, 10) == 1


def test_ties_count_against_relevant_tiles():
    scores = np.ones(5, np.float32)
    assert best_rank(scores, np.array([True, False, False, False, False])) == 5


def test_first_relevant_rank_ignores_the_box_while_ranking(make_dataset, run, tmp_path):
    footprints = [box(0, 0, 1, 1)] * 3 + [box(20, 20, 21, 21)] * 2
    index = tmp_path / "index"
    build_index(make_dataset([250, 200, 100, 150, 10], footprints), run, index)
    found = first_relevant_rank(index, "brightness 250", (20, 20, 21, 21))
    assert (found.rank, found.relevant, found.indexed) == (3, 2, 5)
    assert found.expected_at_random == pytest.approx(6 / 3)
    # Worse than rank 3 only when the three tiles elsewhere come first: one of C(5, 3) = 10 ways.
    assert found.probability_at_random == pytest.approx(0.9)


def test_a_place_without_tiles_has_no_rank(make_dataset, run, tmp_path):
    build_index(make_dataset([1, 2]), run, tmp_path / "index")
    with pytest.raises(SearchError, match="none of the 2 indexed tiles"):
        first_relevant_rank(tmp_path / "index", "brightness 1", (-20, -20, -10, -10))
