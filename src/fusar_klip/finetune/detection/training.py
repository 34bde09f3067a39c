"""Training of ViTDet on images with boxes (paper, section 4.3 and table 3).

Letters: B batch, S side of the square.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fusar_klip.datasets.labelled_data import ImageWithBoxes
from fusar_klip.finetune.detection.detector import Detector
from fusar_klip.finetune.detection.heads import DetectionTarget
from fusar_klip.finetune.detection.inputs import training_input
from fusar_klip.finetune.detection.settings import DetectionSettings
from fusar_klip.finetune.training_loop import FinetuneJob, prefetch, run_training, seeded
from fusar_klip.models import VisionEncoder

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, list[tuple[int, int]], list[DetectionTarget]]


def train_detector(
    model: VisionEncoder,
    images: Sequence[ImageWithBoxes],
    classes: tuple[str, ...],
    settings: DetectionSettings,
) -> Detector:
    """Build a detector on a copy of the model's image tower, and train it whole; the model is not changed.

    Args:
        model: The pretrained model.
        images: The training images.
        classes: The categories of their boxes; label k + 1 of the detector is `classes[k]`.
        settings: Sizes of the detector, and the training's values.

    Raises:
        CheckpointError: The model's image tower is no plain ViT.
        DatasetError: An image cannot be read.
    """
    with seeded(settings.seed, model.device):
        detector = Detector(model, len(classes), settings).to(model.device)
        losses = _train(detector, images, classes, model, settings)
    logger.info(
        "detector, %d training images: the loss fell from %.4f to %.4f", len(images), losses[0], losses[-1]
    )
    return detector


def _train(
    detector: Detector,
    images: Sequence[ImageWithBoxes],
    classes: tuple[str, ...],
    model: VisionEncoder,
    settings: DetectionSettings,
) -> list[float]:
    # The last incomplete batch is dropped: shuffling brings its images into other epochs.
    size = min(settings.batch_size, len(images))
    steps = len(images) // size

    def make_batch(key: tuple[int, int, NDArray[np.int64]]) -> Batch:
        epoch, step, chosen = key
        rng = np.random.default_rng([settings.seed, epoch, 1 + step])
        inputs = [
            training_input(
                images[i],
                classes,
                settings.input_size,
                scales=settings.scales,
                gain=settings.gain,
                flips=settings.flips,
                rng=rng,
            )
            for i in chosen
        ]
        pixels_b1ss = model.preprocess.standardise(np.stack([it.square for it in inputs]))
        targets: list[DetectionTarget] = [it.target(model.device) for it in inputs]
        return pixels_b1ss.to(model.device), [it.size for it in inputs], targets

    def batches(epoch: int) -> Iterator[Batch]:
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(images))
        keys = ((epoch, step, order[step * size : (step + 1) * size]) for step in range(steps))
        return prefetch(make_batch, keys)

    def loss(batch: Batch) -> Tensor:
        total: Tensor = detector(*batch)
        return total

    groups = detector.groups(settings.weight_decay, settings.layer_decay)
    job = FinetuneJob(detector, groups, batches, steps, loss, settings.decay)
    return run_training(job, settings, "Detection, epochs")
