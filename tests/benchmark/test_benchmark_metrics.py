import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score

from fusar_klip.benchmark.metrics.bootstrap import bootstrap_interval
from fusar_klip.benchmark.metrics.classification_metrics import classification_scores
from fusar_klip.benchmark.metrics.retrieval_metrics import recall_chance, recall_hits, recall_scores


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 7), st.integers(20, 60), st.integers(0, 1000))
def test_classification_agrees_with_scikit_learn(classes: int, images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    probabilities = rng.dirichlet(np.ones(classes), size=images)
    scores = classification_scores(probabilities, labels, None, ("top1", "top3", "macro_f1"), 0)
    predicted = probabilities.argmax(axis=1)
    every = np.arange(classes)
    expected = (
        accuracy_score(labels, predicted),
        top_k_accuracy_score(labels, probabilities, k=3, labels=every),
        f1_score(labels, predicted, labels=every, average="macro", zero_division=0),
    )
    assert [score.value for score in scores] == pytest.approx(expected)
    assert all(score.n == images and score.ci_unit == "image" for score in scores)


def test_bootstrap_agrees_with_a_plain_loop() -> None:
    values = np.random.default_rng(3).random(200)
    totals = np.stack([values, np.ones(200)], axis=1)
    interval = bootstrap_interval(totals, lambda sums: sums[:, 0] / sums[:, 1], seed=0)
    rng = np.random.default_rng(9)
    means = [rng.choice(values, 200).mean() for _ in range(4000)]
    assert interval == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.004)
    assert interval == bootstrap_interval(totals, lambda sums: sums[:, 0] / sums[:, 1], seed=0)


def test_groups_of_equal_images_widen_the_interval() -> None:
    labels = np.repeat(np.random.default_rng(0).integers(2, size=20), 25)
    probabilities = np.tile([0.6, 0.4], (500, 1))
    groups = np.repeat(np.arange(20), 25)
    alone = classification_scores(probabilities, labels, None, ("top1",), 0)[0]
    grouped = classification_scores(probabilities, labels, groups, ("top1",), 0)[0]
    assert grouped.value == alone.value
    assert grouped.ci_unit == "group"
    assert grouped.ci_high - grouped.ci_low > 3 * (alone.ci_high - alone.ci_low)


def test_one_group_has_no_interval() -> None:
    score = classification_scores(np.eye(3), np.arange(3), np.zeros(3, int), ("top1",), 0)[0]
    assert (score.value, score.ci_low, score.ci_high) == (1.0, None, None)


def test_chance_levels_are_what_random_predictions_give() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(4, p=[0.5, 0.3, 0.15, 0.05], size=40_000)
    random_predictions = rng.random((40_000, 4))
    for score in classification_scores(random_predictions, labels, None, ("top1", "top3", "macro_f1"), 0):
        assert score.value == pytest.approx(score.chance, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 15), st.integers(1, 10), st.integers(0, 1000))
def test_recall_agrees_with_sorting(items: int, k: int, seed: int) -> None:
    similarity = np.random.default_rng(seed).normal(size=(items, items))
    hits = recall_hits(similarity, np.eye(items, dtype=bool), k)
    expected = [query in np.argsort(-row)[:k] for query, row in enumerate(similarity)]
    assert hits.tolist() == [float(hit) for hit in expected]


def test_ties_are_broken_at_random_in_expectation() -> None:
    rng = np.random.default_rng(5)
    similarity = rng.integers(3, size=(6, 9)).astype(float)
    relevant = rng.random((6, 9)) < 0.3
    relevant[:, 0] = True
    drawn = np.zeros(6)
    for _ in range(6000):
        order = np.argsort(-(similarity + rng.random((6, 9)) * 0.5), axis=1)[:, :2]
        drawn += np.take_along_axis(relevant, order, axis=1).any(axis=1)
    assert recall_hits(similarity, relevant, 2) == pytest.approx(drawn / 6000, abs=0.03)


def test_a_collapsed_model_scores_chance() -> None:
    relevant = np.eye(20, dtype=bool)
    hits = recall_hits(np.ones((20, 20)), relevant, 5)
    assert hits == pytest.approx(np.full(20, 0.25))
    assert recall_chance(relevant, 5) == pytest.approx(np.full(20, 0.25))


def test_mean_recall_is_the_mean_of_the_recalls() -> None:
    rng = np.random.default_rng(0)
    hits = (rng.random((30, 6)) < 0.4).astype(float)
    scores = recall_scores(hits, np.full((30, 6), 0.1), list("abcdef"), "mean", None, 0)
    assert scores[-1].metric == "mean"
    assert scores[-1].value == pytest.approx(np.mean([score.value for score in scores[:-1]]))
    assert scores[-1].ci_low < scores[-1].value < scores[-1].ci_high
