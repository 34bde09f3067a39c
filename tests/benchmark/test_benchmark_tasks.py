"""Probes, fine-tuning, the loop, and the shipped suites."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import fusar_klip.models as models
from fusar_klip.benchmark.evaluated_model import model_names
from fusar_klip.benchmark.suite import load_suite
from fusar_klip.benchmark.tasks.classification import FinetuneRow, read_classification
from fusar_klip.benchmark.tasks.probes import KnnRow, LinearProbeRow, held_out_fifth, knn, linear_probe
from fusar_klip.datasets.labelled_data import ClassificationData
from fusar_klip.errors import DatasetError
from fusar_klip.finetune.classification import augment, train_classifier
from fusar_klip.finetune.resized_images import resized_images
from fusar_klip.finetune.settings import CLASSIFICATION_PRESETS
from fusar_klip.finetune.training_loop import FinetuneJob, rate_share, run_training
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


def fine_tuned(model: models.Klip, data: ClassificationData, row: FinetuneRow) -> NDArray[np.float64]:
    """Return the class probabilities of the test part after fine-tuning."""
    with resized_images(data.files, model.preprocess, row.centre) as images_nss:
        return train_classifier(model, images_nss, data, row).probabilities(images_nss[data.part("test")])


def test_fine_tuning_learns_and_leaves_the_model_as_it_was(data_folder: Path, run: str) -> None:
    row = FinetuneRow(task="finetune", epochs=15, learning_rate=3e-3, batch_size=9, shift=0.03, **COMMON)
    data = read_classification(row, data_folder / "chips")
    model = models.load(run)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    state = torch.random.get_rng_state()
    probabilities = fine_tuned(model, data, row)
    assert (probabilities.argmax(1) == data.labels[data.part("test")]).mean() > 0.8
    assert probabilities.sum(1) == pytest.approx(1.0)
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(fine_tuned(model, data, row), probabilities)


def test_chips_standardised_by_themselves_know_no_gain(data_folder: Path, tmp_path: Path, run: str) -> None:
    row = FinetuneRow(task="finetune", epochs=3, learning_rate=3e-3, batch_size=9, shift=0.03, **COMMON)
    assert row.standardise == "chip"
    data = read_classification(row, data_folder / "chips")
    images = []
    for number, image in enumerate(data.images):
        pixels = np.asarray(Image.open(image.file).convert("L"))
        darker = tmp_path / f"{number}.png"
        Image.fromarray(pixels // 2 + 40).save(darker)
        images.append(dataclasses.replace(image, file=darker if image.part == "test" else image.file))
    other = dataclasses.replace(data, images=images)
    model = models.load(run)
    for standardise, close in (("chip", True), ("model", False)):
        asked = row.model_copy(update={"standardise": standardise})
        difference = np.abs(fine_tuned(model, data, asked) - fine_tuned(model, other, asked)).max()
        assert (difference < 0.05) == close, (standardise, difference)


def test_the_centre_alone_is_seen(tmp_path: Path) -> None:
    pixels = np.full((20, 41), 200, np.uint8)
    pixels[5:15, 10:31] = 30
    Image.fromarray(pixels).save(tmp_path / "chip.png")
    for centre, values in ((1.0, {30, 200}), (0.5, {30})):
        with resized_images([tmp_path / "chip.png"], models.Preprocess(8), centre) as images_nss:
            assert images_nss.shape == (1, 8, 8)
            assert values == {int(images_nss.min()), int(images_nss.max())}


def test_augmentations_move_turn_and_amplify() -> None:
    rng = np.random.default_rng(0)
    square = np.random.default_rng(1).integers(1, 200, size=(1, 8, 8), dtype=np.uint8)
    assert np.array_equal(augment(square, 0.0, 0.0, "none", rng), square)
    turns = {augment(square, 0.0, 0.0, "all", rng).tobytes() for _ in range(200)}
    assert len(turns) == 8
    flipped = {augment(square, 0.0, 0.0, "horizontal", rng).tobytes() for _ in range(50)}
    assert flipped == {square.tobytes(), square[:, :, ::-1].tobytes()}
    shifted = {augment(square, 0.125, 0.0, "none", rng).tobytes() for _ in range(200)}
    down = np.pad(square[0, :-1], ((1, 0), (0, 0)))
    assert len(shifted) == 9
    assert down.tobytes() in shifted
    bright = augment(square, 0.0, 0.5, "none", rng).astype(float)
    assert np.ptp(bright / square) < 1.1
    assert not np.array_equal(bright, square)


def test_the_rate_warms_up_and_decays() -> None:
    shares = [rate_share(step, 100, 10) for step in range(100)]
    assert shares[9] == shares[10] == 1.0
    assert shares[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert all(later <= earlier for earlier, later in itertools.pairwise(shares[10:]))
    assert shares[-1] < 0.001


def test_the_loop_scales_the_rate_of_each_group() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    frozen = torch.nn.Linear(1, 1, bias=False)
    module = torch.nn.Sequential(layer, frozen)
    start = frozen.weight.item()
    groups = [
        {"params": [layer.weight], "lr_scale": 1.0, "weight_decay": 0.0},
        {"params": [frozen.weight], "lr_scale": 0.0, "weight_decay": 0.0},
    ]
    job = FinetuneJob(
        module, groups, lambda epoch: [torch.ones(4, 1)] * 5, 5, lambda x: (module(x) - 1).pow(2).mean()
    )
    row = FinetuneRow(task="finetune", epochs=8, learning_rate=0.05, **COMMON)
    losses = run_training(job, row, "test")
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert frozen.weight.item() == start


def test_the_paper_preset_is_table_3() -> None:
    row = FinetuneRow(task="finetune", preset="paper", **COMMON)
    assert (row.learning_rate, row.epochs, row.preset_label) == (0.003, 100, "paper")
    assert row.model_copy(update={"epochs": 3}).preset_label == "paper+epochs=3"
    assert CLASSIFICATION_PRESETS["paper"].keys() == CLASSIFICATION_PRESETS["recommended"].keys()


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
