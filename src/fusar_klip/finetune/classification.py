"""Full fine-tuning of the image tower with a linear head (ViT-CLS, paper table 3), on `training.py`'s loop.

Letters: B batch, K classes, S image side.
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

from fusar_klip.benchmark.settings import FinetuneRow, Flips
from fusar_klip.datasets.samples import ClassificationData
from fusar_klip.finetune.resized_images import Squares, resized
from fusar_klip.finetune.training_loop import FinetuneJob, fit, seeded
from fusar_klip.models import Klip
from fusar_klip.models.pretrained.encoder import ZooEncoder

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]

_TEST_BATCH = 64
_LEAST_SPREAD = 1e-3
"""Added to a chip's standard deviation: an empty chip stays finite."""


def finetune(model: Klip | ZooEncoder, data: ClassificationData, row: FinetuneRow) -> NDArray[np.float64]:
    """Fine-tune a copy of the model's image tower on the training part.

    Returns:
        (N_test, K) class probabilities of the test part, read once, after the last epoch.
    """
    train, test = data.part("train"), data.part("test")
    with (
        resized(data.files, model.preprocess, row.centre) as squares,
        seeded(row.seed, model.device),
    ):
        tower: Any = copy.deepcopy(model.network.image_tower)
        tower.reset_classifier(len(data.classes))
        # reset_classifier makes the head on the CPU, wherever the tower is.
        tower.to(model.device)
        losses = _fit(tower, squares, train, data.labels, model, row)
        logger.info("%s: the loss fell from %.4f to %.4f", data.facts, losses[0], losses[-1])
        return _probabilities(tower, squares[test], model, row)


def augment(squares: Squares, shift: float, gain: float, flips: Flips, rng: np.random.Generator) -> Squares:
    """Return (B, S, S) uint8 chips, each shifted, amplified and flipped at random; the class stays true."""
    side = squares.shape[-1]
    reach = round(shift * side)
    augmented = np.zeros_like(squares)
    for target, square in zip(augmented, squares, strict=True):
        turned = _turned(square, flips, rng)
        down, right = rng.integers(-reach, reach + 1, size=2)
        rows, columns = (slice(max(0, d), side + min(0, d)) for d in (down, right))
        from_rows, from_columns = (slice(max(0, -d), side + min(0, -d)) for d in (down, right))
        amplified = turned[from_rows, from_columns] * rng.uniform(1 - gain, 1 + gain)
        target[rows, columns] = np.minimum(amplified + 0.5, 255)
    return augmented


def _fit(
    tower: Any,
    squares: Squares,
    train: NDArray[np.int64],
    labels: NDArray[np.int64],
    model: Klip | ZooEncoder,
    row: FinetuneRow,
) -> list[float]:
    # A last batch that is not full is left out: shuffling gives its images their turn in other epochs.
    size = min(row.batch_size, len(train))
    steps = len(train) // size

    def batches(epoch: int) -> Iterator[Batch]:
        rng = np.random.default_rng([row.seed, epoch])
        order = rng.permutation(train)
        for start in range(0, steps * size, size):
            chosen = order[start : start + size]
            chips = augment(squares[chosen], row.shift, row.gain, row.flips, rng)
            yield _standardised(chips, model, row), torch.from_numpy(labels[chosen])

    def loss(batch: Batch) -> Tensor:
        images_b1ss, labels_b = (tensor.to(model.device) for tensor in batch)
        return F.cross_entropy(tower(images_b1ss), labels_b, label_smoothing=row.label_smoothing)

    groups = param_groups_layer_decay(
        tower, row.weight_decay, tuple(tower.no_weight_decay()), layer_decay=row.layer_decay
    )
    return fit(FinetuneJob(tower, groups, batches, steps, loss), row, "Fine-tuning, epochs")


def _standardised(chips: Squares, model: Klip | ZooEncoder, row: FinetuneRow) -> Tensor:
    """Return (B, C, S, S): as the model has learned it, and with `chip` then each chip by itself."""
    images_bcss = model.preprocess.standardise(chips)
    if row.standardise == "model":
        return images_bcss
    std_bcss, mean_bcss = torch.std_mean(images_bcss, dim=(2, 3), keepdim=True)
    return (images_bcss - mean_bcss) / (std_bcss + _LEAST_SPREAD)


@torch.inference_mode()
def _probabilities(
    tower: Any, squares: Squares, model: Klip | ZooEncoder, row: FinetuneRow
) -> NDArray[np.float64]:
    parts = []
    for start in range(0, len(squares), _TEST_BATCH):
        images_bcss = _standardised(squares[start : start + _TEST_BATCH], model, row)
        logits_bk = tower(images_bcss.to(model.device)).double()
        parts.append(logits_bk.softmax(dim=1).cpu().numpy())
    return np.concatenate(parts)


def _turned(square: Squares, flips: Flips, rng: np.random.Generator) -> Squares:
    match flips:
        case "none":
            return square
        case "horizontal":
            return square[:, ::-1] if rng.random() < 0.5 else square
        case "all":
            square = np.rot90(square, int(rng.integers(4)))
            return square[:, ::-1] if rng.random() < 0.5 else square
