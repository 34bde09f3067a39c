"""The segmentation task: a data set with masks, Segmenter trained on it, and its masks of the test part."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics.segmentation_metrics import confusion_counts, segmentation_scores
from fusar_klip.benchmark.report.attention_maps import draw_attention_maps
from fusar_klip.benchmark.report.prediction_figures import draw_masks
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.tasks.segmentation_row import SegmentationRow
from fusar_klip.datasets.registry import read_segmentation
from fusar_klip.datasets.samples import IGNORED, MaskedImage, SegmentationData
from fusar_klip.datasets.splits import split_as, with_parts
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.finetune.segmentation.segmenter import Segmenter
from fusar_klip.finetune.segmentation.windows import (
    Pixels,
    checked_mask,
    read_images,
    training_window,
    whole_logits,
)
from fusar_klip.finetune.training_loop import FinetuneJob, fit, made_ahead, seeded
from fusar_klip.models import Klip
from fusar_klip.models.pretrained.encoder import ZooEncoder
from fusar_klip.models.pretrained.plain_vit import patch_of

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]

_SHOWN = 4


def read_masks(row: SegmentationRow, path: Path) -> SegmentationData:
    """Read the data set of a row with the row's reader, and split it as the row says.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, there is no split, a part is empty, or the row asks
        for the
            images before, and one is missing.
    """
    listed = read_segmentation(row.reader, path, row.dataset)
    split_file = path / row.split_file
    images = with_parts(listed.images, split_file) if split_file.is_file() else listed.images
    if row.before and (alone := [image.name for image in images if image.before is None]):
        raise DatasetError(
            f"{row.dataset} has no image before {alone[0]}: take before = true out, or complete the set"
        )
    return SegmentationData(split_as(images, row, path), listed.classes, listed.table)


def evaluate_segmentation(row: SegmentationRow, data: SegmentationData, subject: EvaluatedModel) -> RowResult:
    """Train Segmenter on the training part, and measure it on the test part, which is read once, at the end.

    Raises:
        CheckpointError: The model's image tower is no plain ViT.
        SettingsError: `input_size` does not fit the model's patches.
        DatasetError: An image or mask cannot be read.
    """
    model = subject.model
    if row.input_size % patch_of(model):
        raise SettingsError(
            f"input_size = {row.input_size} is no whole number of the model's patches: give a multiple "
            f"of {patch_of(model)} pixels"
        )
    test = [data.images[i] for i in data.part("test")]
    with seeded(row.seed, model.device):
        segmenter = Segmenter(model, len(data.classes), row).to(model.device)
        losses = _fit(segmenter, data, model, row)
        logger.info("%s: the loss fell from %.4f to %.4f", data.facts, losses[0], losses[-1])
    # The masks of what is shown alone are kept: memory does not grow with the test part.
    shown = np.random.default_rng(row.seed).permutation(len(test))[:_SHOWN].tolist()
    kept: dict[int, tuple[Pixels, Pixels]] = {}
    counted = []
    for number, image in enumerate(test):
        mask = predict(segmenter, image, model, row)
        truth = checked_mask(image, data.table, mask.shape)
        counted.append(confusion_counts(truth, mask, len(data.classes)))
        if number in shown:
            kept[number] = truth, mask
    counts = np.stack(counted)
    if not counts.any():
        raise DatasetError(f"the test masks of {row.dataset} hold no class at all: check its class table")
    groups = None if data.groups is None else data.groups[data.part("test")]
    return RowResult(
        scores=segmentation_scores(counts, data.classes, groups, row.seed),
        notes=[_most_frequent(counts.sum((0, 2)), data.classes)],
        drawings=[
            *draw_masks(
                [test[i] for i in shown],
                [kept[i][0] for i in shown],
                [kept[i][1] for i in shown],
                data.classes,
                row.before,
            ),
            *draw_attention_maps(model, [image.file for image in test], row.seed),
        ],
    )


@torch.inference_mode()
def predict(
    segmenter: Segmenter, image: MaskedImage, model: Klip | ZooEncoder, row: SegmentationRow
) -> NDArray[np.uint8]:
    """Return (H, W) uint8 classes of an image."""

    def logits(windows_biss: Pixels) -> Tensor:
        answer: Tensor = segmenter(_standardised(windows_biss, model))
        return answer

    images = read_images(image, row.before)
    whole_khw = whole_logits(images, row.input_size, row.zoom, row.overlap, logits)
    return np.asarray(whole_khw.argmax(0).numpy().astype(np.uint8))


def _fit(
    segmenter: Segmenter, data: SegmentationData, model: Klip | ZooEncoder, row: SegmentationRow
) -> list[float]:
    train = data.part("train")
    # A last batch that is not full is left out: shuffling gives its images their turn in other epochs.
    size = min(row.batch_size, len(train))
    steps = len(train) // size

    def make(key: tuple[int, int, Ints]) -> Batch:
        epoch, step, chosen = key
        rng = np.random.default_rng([row.seed, epoch, 1 + step])
        windows = [_window(data.images[i], data, row, rng) for i in chosen]
        classes_bss = torch.from_numpy(np.stack([mask for _, mask in windows]).astype(np.int64))
        return _standardised(np.stack([images for images, _ in windows]), model), classes_bss.to(model.device)

    def batches(epoch: int) -> Iterator[Batch]:
        order = np.random.default_rng([row.seed, epoch]).permutation(train)
        keys = ((epoch, step, order[step * size : (step + 1) * size]) for step in range(steps))
        return made_ahead(make, keys)

    def loss(batch: Batch) -> Tensor:
        images_biss, classes_bss = batch
        known = (classes_bss != IGNORED).sum().clamp(min=1)
        # A batch without any known pixel has the loss 0, not nan.
        total = F.cross_entropy(segmenter(images_biss), classes_bss, ignore_index=IGNORED, reduction="sum")
        return total / known

    groups = segmenter.groups(row.weight_decay, row.layer_decay)
    job = FinetuneJob(segmenter, groups, batches, steps, loss, row.decay)
    return fit(job, row, "Segmentation, epochs")


def _window(
    image: MaskedImage, data: SegmentationData, row: SegmentationRow, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    images = read_images(image, row.before)
    return training_window(
        images,
        checked_mask(image, data.table, images.shape[1:]),
        row.input_size,
        zoom=row.zoom,
        scales=row.scales,
        gain=row.gain,
        flips=row.flips,
        rng=rng,
    )


def _standardised(windows_biss: Pixels, model: Klip | ZooEncoder) -> Tensor:
    batch, images, side, _ = windows_biss.shape
    pixels = model.preprocess.standardise(windows_biss.reshape(-1, side, side))
    return pixels.view(batch, images, side, side).to(model.device)


def _most_frequent(pixels: Ints, names: Sequence[str]) -> str:
    """Say what naming the most frequent class everywhere would score: often more than chance."""
    most = int(pixels.argmax())
    overall = pixels[most] / pixels.sum()
    return (
        f"Naming {names[most]} at every pixel would give an OA of {100 * overall:.1f} and an mIoU of "
        f"{100 * overall / np.count_nonzero(pixels):.1f}."
    )
