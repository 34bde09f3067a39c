"""Training of Segmenter on images with masks, and its class map of a whole image (paper, 4.3 and table 3).

Letters: B batch, I images of a place (1, or 2 with the one before), S side of a window, K classes, H and W
an image's height and width.
"""

import logging
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fusar_klip.datasets.labelled_data import IGNORED, ImageWithMask, SegmentationData
from fusar_klip.errors import SettingsError
from fusar_klip.finetune.segmentation.segmenter import Segmenter
from fusar_klip.finetune.segmentation.settings import SegmentationSettings
from fusar_klip.finetune.segmentation.windows import (
    Pixels,
    checked_mask,
    read_images,
    sliding_window_logits,
    training_window,
)
from fusar_klip.finetune.training_loop import FinetuneJob, prefetch, run_training, seeded
from fusar_klip.models import VisionEncoder
from fusar_klip.models.pretrained.plain_vit import patch_of

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]


def train_segmenter(
    model: VisionEncoder, data: SegmentationData, settings: SegmentationSettings
) -> Segmenter:
    """Build a segmenter on a copy of the model's image tower, and train it whole on the training part.

    Raises:
        CheckpointError: The model's image tower is no plain ViT.
        SettingsError: `input_size` is no multiple of the model's patch.
        DatasetError: An image or mask cannot be read.
    """
    if settings.input_size % patch_of(model):
        raise SettingsError(
            f"input_size = {settings.input_size} is no whole number of the model's patches: give a multiple "
            f"of {patch_of(model)} pixels"
        )
    with seeded(settings.seed, model.device):
        segmenter = Segmenter(model, len(data.classes), settings).to(model.device)
        losses = _train(segmenter, data, model, settings)
    logger.info("%s: the loss fell from %.4f to %.4f", data.size_summary, losses[0], losses[-1])
    return segmenter


@torch.inference_mode()
def class_map(
    segmenter: Segmenter, image: ImageWithMask, model: VisionEncoder, settings: SegmentationSettings
) -> NDArray[np.uint8]:
    """Return the (H, W) uint8 class of each pixel of an image, by sliding windows."""

    def logits(windows_biss: Pixels) -> Tensor:
        logits_bkss: Tensor = segmenter(_standardised(windows_biss, model))
        return logits_bkss

    images_ihw = read_images(image, settings.before)
    logits_khw = sliding_window_logits(
        images_ihw, settings.input_size, settings.zoom, settings.overlap, logits
    )
    return np.asarray(logits_khw.argmax(0).numpy().astype(np.uint8))


def _train(
    segmenter: Segmenter, data: SegmentationData, model: VisionEncoder, settings: SegmentationSettings
) -> list[float]:
    train = data.part("train")
    # The last incomplete batch is dropped: shuffling brings its images into other epochs.
    size = min(settings.batch_size, len(train))
    steps = len(train) // size

    def make_batch(key: tuple[int, int, NDArray[np.int64]]) -> Batch:
        epoch, step, chosen = key
        rng = np.random.default_rng([settings.seed, epoch, 1 + step])
        windows = [_window(data.images[i], data, settings, rng) for i in chosen]
        classes_bss = torch.from_numpy(np.stack([mask for _, mask in windows]).astype(np.int64))
        return _standardised(np.stack([images for images, _ in windows]), model), classes_bss.to(model.device)

    def batches(epoch: int) -> Iterator[Batch]:
        order = np.random.default_rng([settings.seed, epoch]).permutation(train)
        keys = ((epoch, step, order[step * size : (step + 1) * size]) for step in range(steps))
        return prefetch(make_batch, keys)

    def loss(batch: Batch) -> Tensor:
        images_biss, classes_bss = batch
        labelled = (classes_bss != IGNORED).sum().clamp(min=1)
        # A batch without any labelled pixel has the loss 0, not nan.
        total = F.cross_entropy(segmenter(images_biss), classes_bss, ignore_index=IGNORED, reduction="sum")
        return total / labelled

    groups = segmenter.groups(settings.weight_decay, settings.layer_decay)
    job = FinetuneJob(segmenter, groups, batches, steps, loss, settings.decay)
    return run_training(job, settings, "Segmentation, epochs")


def _window(
    image: ImageWithMask, data: SegmentationData, settings: SegmentationSettings, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    images_ihw = read_images(image, settings.before)
    return training_window(
        images_ihw,
        checked_mask(image, data.table, images_ihw.shape[1:]),
        settings.input_size,
        zoom=settings.zoom,
        scales=settings.scales,
        gain=settings.gain,
        flips=settings.flips,
        rng=rng,
    )


def _standardised(windows_biss: Pixels, model: VisionEncoder) -> Tensor:
    batch, images, side, _ = windows_biss.shape
    pixels = model.preprocess.standardise(windows_biss.reshape(-1, side, side))
    return pixels.view(batch, images, side, side).to(model.device)
