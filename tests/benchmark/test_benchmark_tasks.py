"""Probes, fine-tuning, the loop, and the shipped suites."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fusar_klip.benchmark.evaluated_model import model_names
from fusar_klip.benchmark.suite import load_suite
from fusar_klip.benchmark.tasks.probes import KnnRow, LinearProbeRow, held_out_fifth, knn, linear_probe
from fusar_klip.errors import DatasetError
from fusar_klip.models import ModelRef

ROOT = Path(__file__).parents[2]
COMMON = {"dataset": "D", "path": "chips", "split": "grouped", "reader": "class_folders"}
PROBE = LinearProbeRow(task="linear_probe", **COMMON)
KNN = KnnRow(task="knn", **COMMON)


def blobs(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % 3
    centres = np.random.default_rng(0).normal(size=(3, 8))
    return (centres[labels] + rng.normal(size=(images, 8))).astype(np.float32), labels


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 30), st.integers(0, 100))
def test_no_group_is_fitted_and_held_out(groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    members = np.arange(groups * 6) // 6
    labels = np.repeat(rng.permutation(np.arange(groups) % 3), 6)
    fitted, held_out = held_out_fifth(labels, members, seed)
    assert not set(members[fitted]) & set(members[held_out])
    assert sorted([*fitted, *held_out]) == list(range(len(labels)))
    assert 0.05 < len(held_out) / len(labels) < 0.45


def test_linear_probe_is_a_standardised_logistic_regression() -> None:
    (train, labels), (test, _) = blobs(90, 1), blobs(45, 2)
    result = linear_probe(train, labels, None, test, PROBE)
    scaler = StandardScaler().fit(train)
    plain = LogisticRegression(C=result.chosen["C"], max_iter=2000).fit(scaler.transform(train), labels)
    np.testing.assert_allclose(result.probabilities, plain.predict_proba(scaler.transform(test)), atol=1e-4)
    assert result.chosen["C"] in PROBE.c_values
    best = max(result.chosen["held_out_accuracy"].values())
    assert result.chosen["held_out_accuracy"][str(result.chosen["C"])] == best


def test_an_unfinished_probe_says_so() -> None:
    train, labels = blobs(90, 1)
    hasty = PROBE.model_copy(update={"max_iterations": 1})
    assert "before it converged" in linear_probe(train, labels, None, train, hasty).notes[0]


def test_a_constant_feature_changes_nothing() -> None:
    (train, labels), (test, _) = blobs(90, 1), blobs(45, 2)
    plain = linear_probe(train, labels, None, test, PROBE).probabilities

    def widened(features: np.ndarray) -> np.ndarray:
        return np.concatenate([features, np.full((len(features), 1), 0.1, np.float32)], axis=1)

    padded = linear_probe(widened(train), labels, None, widened(test), PROBE).probabilities
    np.testing.assert_allclose(padded, plain, atol=1e-6)


def test_nearest_neighbour_by_cosine() -> None:
    (train, labels), (test, _) = blobs(90, 1), blobs(45, 2)
    row = KNN.model_copy(update={"k_values": (1, 500)})
    result = knn(train, labels, None, test, row)
    assert result.chosen["k"] == 1
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (test, train)]
    assert (result.probabilities.argmax(1) == labels[(unit[0] @ unit[1].T).argmax(1)]).all()


def test_too_few_images_or_groups_to_choose_on() -> None:
    with pytest.raises(DatasetError, match="4 training images"):
        held_out_fifth(np.array([0] * 9 + [1] * 4), None, 0)
    with pytest.raises(DatasetError, match="fewer than 5 groups"):
        held_out_fifth(np.array([0] * 9 + [1] * 9), np.arange(18) % 3, 0)


def test_names_tell_checkpoints_apart() -> None:
    assert model_names([ModelRef.parse(text) for text in ["out/run", "untrained:out/run"]]) == [
        "run",
        "untrained:run",
    ]
    assert model_names([ModelRef.parse(text) for text in ["a/run", "b/run"]]) == ["a/run", "b/run"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("suite_*.toml")), ids=lambda p: p.name)
def test_shipped_suites_are_valid(path: Path) -> None:
    assert load_suite(path).rows


def test_the_default_suite_covers_the_classification_sets() -> None:
    suite = load_suite()
    assert suite.missing == "skip"
    assert {row.dataset for row in suite.rows} == {"SAR-ACD", "MSTAR"}
    assert {row.task for row in suite.rows} == {"linear_probe", "knn", "finetune"}
