"""The segmentation task: a data set with masks, Segmenter trained on it, and its masks of the test part."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics.segmentation_metrics import confusion_counts, segmentation_scores
from fusar_klip.benchmark.report.attention_maps import draw_attention_maps
from fusar_klip.benchmark.report.prediction_figures import draw_masks
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.settings import SegmentationRow
from fusar_klip.datasets.registry import read_segmentation
from fusar_klip.datasets.samples import SegmentationData
from fusar_klip.datasets.splits import split_as, with_parts
from fusar_klip.errors import DatasetError
from fusar_klip.finetune.segmentation.training import class_map, train_segmenter
from fusar_klip.finetune.segmentation.windows import Pixels, checked_mask

Ints = NDArray[np.int64]

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
    test = [data.images[i] for i in data.part("test")]
    segmenter = train_segmenter(model, data, row)
    # The masks of what is shown alone are kept: memory does not grow with the test part.
    shown = np.random.default_rng(row.seed).permutation(len(test))[:_SHOWN].tolist()
    kept: dict[int, tuple[Pixels, Pixels]] = {}
    counted = []
    for number, image in enumerate(test):
        mask = class_map(segmenter, image, model, row)
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


def _most_frequent(pixels: Ints, names: Sequence[str]) -> str:
    """Say what naming the most frequent class everywhere would score: often more than chance."""
    most = int(pixels.argmax())
    overall = pixels[most] / pixels.sum()
    return (
        f"Naming {names[most]} at every pixel would give an OA of {100 * overall:.1f} and an mIoU of "
        f"{100 * overall / np.count_nonzero(pixels):.1f}."
    )
