"""Fine-tuning with a linear head: what is learned, augmentation, standardisation, the presets."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import fusar_klip.models as models
from fusar_klip.datasets.labelled_data import ClassificationData
from fusar_klip.datasets.loading import load_classification
from fusar_klip.datasets.splits import LabelledSplitSettings
from fusar_klip.finetune.classification import augment, train_classifier
from fusar_klip.finetune.resized_images import resized_images
from fusar_klip.finetune.settings import CLASSIFICATION_PRESETS, ClassificationSettings

FAST = {"learning_rate": 3e-3, "batch_size": 9, "shift": 0.03}


def fine_tuned(
    model: models.Klip, data: ClassificationData, settings: ClassificationSettings
) -> NDArray[np.float64]:
    """Return the class probabilities of the test part after fine-tuning."""
    with resized_images(data.files, model.preprocess, settings.centre) as images_nss:
        return train_classifier(model, images_nss, data, settings).probabilities(
            images_nss[data.part("test")]
        )


def test_fine_tuning_learns_and_leaves_the_model_as_it_was(chips: Path, run: str) -> None:
    settings = ClassificationSettings.model_validate(FAST | {"epochs": 15})
    data = load_classification("class_folders", chips, LabelledSplitSettings(split="given"), "D")
    model = models.load(run)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    state = torch.random.get_rng_state()
    probabilities = fine_tuned(model, data, settings)
    assert (probabilities.argmax(1) == data.labels[data.part("test")]).mean() > 0.8
    assert probabilities.sum(1) == pytest.approx(1.0)
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(fine_tuned(model, data, settings), probabilities)


def test_chips_standardised_by_themselves_know_no_gain(chips: Path, tmp_path: Path, run: str) -> None:
    settings = ClassificationSettings.model_validate(FAST | {"epochs": 3})
    assert settings.standardise == "chip"
    data = load_classification("class_folders", chips, LabelledSplitSettings(split="given"), "D")
    images = []
    for number, image in enumerate(data.images):
        pixels = np.asarray(Image.open(image.file).convert("L"))
        darker = tmp_path / f"{number}.png"
        Image.fromarray(pixels // 2 + 40).save(darker)
        images.append(dataclasses.replace(image, file=darker if image.part == "test" else image.file))
    other = dataclasses.replace(data, images=images)
    model = models.load(run)
    for standardise, close in (("chip", True), ("model", False)):
        asked = settings.model_copy(update={"standardise": standardise})
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


def test_the_paper_preset_is_table_3() -> None:
    settings = ClassificationSettings.model_validate({"preset": "paper"})
    assert (settings.learning_rate, settings.epochs, settings.preset_label) == (0.003, 100, "paper")
    assert settings.model_copy(update={"epochs": 3}).preset_label == "paper+epochs=3"
    assert CLASSIFICATION_PRESETS["paper"].keys() == CLASSIFICATION_PRESETS["recommended"].keys()
