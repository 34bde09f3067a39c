"""Full fine-tuning of the image tower with a linear head (ViT-CLS, paper table 3).

`train_classifier` builds and trains the classifier, with the loop of `training_loop.py`.

Letters: B batch, K classes, S image side, C channels.
"""

import copy
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import Tensor

from fusar_klip.datasets.labelled_data import ClassificationData
from fusar_klip.finetune.resized_images import ResizedImages
from fusar_klip.finetune.settings import ClassificationSettings, Flips
from fusar_klip.finetune.training_loop import FinetuneJob, run_training, seeded
from fusar_klip.models import VisionEncoder

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]

_TEST_BATCH = 64
_MIN_STD = 1e-3
"""Added to a chip's standard deviation: an empty chip stays finite."""


class Classifier:
    """A model's image tower with a linear head of K classes.

    Args:
        model: The pretrained model, whose image tower is copied.
        classes: K.
        settings: How images are standardised.
    """

    def __init__(self, model: VisionEncoder, classes: int, settings: ClassificationSettings) -> None:
        tower: Any = copy.deepcopy(model.image_tower)
        tower.reset_classifier(classes)
        # reset_classifier makes the head on the CPU, wherever the tower is.
        self.tower = tower.to(model.device)
        self.preprocess = model.preprocess
        self.device = model.device
        self.standardise = settings.standardise

    @torch.inference_mode()
    def probabilities(self, images_nss: ResizedImages) -> NDArray[np.float64]:
        """Return (N, K) class probabilities of (N, S, S) uint8 images."""
        parts = []
        for start in range(0, len(images_nss), _TEST_BATCH):
            images_bcss = self.standardised(images_nss[start : start + _TEST_BATCH])
            logits_bk = self.tower(images_bcss.to(self.device)).double()
            parts.append(logits_bk.softmax(dim=1).cpu().numpy())
        return np.concatenate(parts)

    def standardised(self, images_bss: ResizedImages) -> Tensor:
        """Return (B, C, S, S) by the model's mean and standard deviation, and with `chip` then by its own."""
        images_bcss = self.preprocess.standardise(images_bss)
        if self.standardise == "model":
            return images_bcss
        std_bcss, mean_bcss = torch.std_mean(images_bcss, dim=(2, 3), keepdim=True)
        return (images_bcss - mean_bcss) / (std_bcss + _MIN_STD)


def train_classifier(
    model: VisionEncoder,
    images_nss: ResizedImages,
    data: ClassificationData,
    settings: ClassificationSettings,
) -> Classifier:
    """Fine-tune a copy of the model's image tower on the training part; the model itself is not changed.

    Args:
        model: The pretrained model.
        images_nss: (N, S, S) uint8, all images of the data set at the model's size.
        data: The data set.
        settings: The training's values.
    """
    train = data.part("train")
    with seeded(settings.seed, model.device):
        classifier = Classifier(model, len(data.classes), settings)
        losses = _train(classifier, images_nss, train, data.labels, settings)
    logger.info("%s: the loss fell from %.4f to %.4f", data.size_summary, losses[0], losses[-1])
    return classifier


def augment(
    images_bss: ResizedImages, shift: float, gain: float, flips: Flips, rng: np.random.Generator
) -> ResizedImages:
    """Return (B, S, S) uint8 chips, each shifted, amplified and flipped at random; the class stays true."""
    side = images_bss.shape[-1]
    reach = round(shift * side)
    augmented = np.zeros_like(images_bss)
    for target, image in zip(augmented, images_bss, strict=True):
        flipped = _flipped(image, flips, rng)
        down, right = rng.integers(-reach, reach + 1, size=2)
        rows, columns = (slice(max(0, d), side + min(0, d)) for d in (down, right))
        from_rows, from_columns = (slice(max(0, -d), side + min(0, -d)) for d in (down, right))
        amplified = flipped[from_rows, from_columns] * rng.uniform(1 - gain, 1 + gain)
        target[rows, columns] = np.minimum(amplified + 0.5, 255)
    return augmented


def _train(
    classifier: Classifier,
    images_nss: ResizedImages,
    train: NDArray[np.int64],
    labels: NDArray[np.int64],
    settings: ClassificationSettings,
) -> list[float]:
    # The last incomplete batch is dropped: shuffling brings its images into other epochs.
    size = min(settings.batch_size, len(train))
    steps = len(train) // size

    def batches(epoch: int) -> Iterator[Batch]:
        rng = np.random.default_rng([settings.seed, epoch])
        order = rng.permutation(train)
        for start in range(0, steps * size, size):
            chosen = order[start : start + size]
            chips = augment(images_nss[chosen], settings.shift, settings.gain, settings.flips, rng)
            yield classifier.standardised(chips), torch.from_numpy(labels[chosen])

    def loss(batch: Batch) -> Tensor:
        images_bcss, labels_b = (tensor.to(classifier.device) for tensor in batch)
        return F.cross_entropy(
            classifier.tower(images_bcss), labels_b, label_smoothing=settings.label_smoothing
        )

    tower = classifier.tower
    groups = param_groups_layer_decay(
        tower, settings.weight_decay, tuple(tower.no_weight_decay()), layer_decay=settings.layer_decay
    )
    job = FinetuneJob(tower, groups, batches, steps, loss)
    return run_training(job, settings, "Fine-tuning, epochs")


def _flipped(image: ResizedImages, flips: Flips, rng: np.random.Generator) -> ResizedImages:
    match flips:
        case "none":
            return image
        case "horizontal":
            return image[:, ::-1] if rng.random() < 0.5 else image
        case "all":
            image = np.rot90(image, int(rng.integers(4)))
            return image[:, ::-1] if rng.random() < 0.5 else image
