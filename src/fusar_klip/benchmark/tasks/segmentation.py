"""Segmentation by Segmenter on a data set with masks (paper 4.3, tables 3 and 4)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics.segmentation_metrics import confusion_counts, segmentation_scores
from fusar_klip.benchmark.report.attention_maps import draw_attention_maps
from fusar_klip.benchmark.report.prediction_figures import draw_masks
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.settings import SplitRow
from fusar_klip.benchmark.tasks.task import READ_BY_READER, BenchmarkTask
from fusar_klip.datasets.labelled_data import SegmentationData
from fusar_klip.datasets.loading import load_segmentation
from fusar_klip.datasets.registry import SegmentationReader
from fusar_klip.errors import DatasetError
from fusar_klip.finetune.segmentation.settings import SegmentationSettings
from fusar_klip.finetune.segmentation.training import class_map, train_segmenter
from fusar_klip.finetune.segmentation.windows import Pixels, checked_mask

Ints = NDArray[np.int64]

_SHOWN = 4
"""Number of test images in the report."""


class SegmentationRow(SegmentationSettings, SplitRow):
    """Segmentation by Segmenter: image tower and mask transformer are trained on a data set's masks."""

    task: Literal["segmentation"]
    reader: SegmentationReader
    """The layout on disk; one of the segmentation readers of `datasets.registry`."""


def read_masks(row: SegmentationRow, path: Path) -> SegmentationData:
    """Read a row's data set with its reader, and split it.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, there is no split, a part is empty, or the row sets
            `before` and an image before the event is missing.
    """
    return load_segmentation(row.reader, path, row, row.dataset, before=row.before)


def evaluate_segmentation(
    row: SegmentationRow, data: SegmentationData, evaluated: EvaluatedModel
) -> RowResult:
    """Train Segmenter on the training part and evaluate it on the test part, which is read once, at the end.

    Raises:
        CheckpointError: The model's image tower is no plain ViT.
        SettingsError: `input_size` does not fit the model's patches.
        DatasetError: An image or mask cannot be read.
    """
    model = evaluated.model
    test = [data.images[i] for i in data.part("test")]
    segmenter = train_segmenter(model, data, row)
    # Only the masks of shown images are kept: memory does not grow with the test part.
    shown = np.random.default_rng(row.seed).permutation(len(test))[:_SHOWN].tolist()
    kept_masks: dict[int, tuple[Pixels, Pixels]] = {}
    image_counts = []
    for number, image in enumerate(test):
        mask = class_map(segmenter, image, model, row)
        truth = checked_mask(image, data.table, mask.shape)
        image_counts.append(confusion_counts(truth, mask, len(data.classes)))
        if number in shown:
            kept_masks[number] = truth, mask
    counts = np.stack(image_counts)
    if not counts.any():
        raise DatasetError(f"the test masks of {row.dataset} contain no class: check its class table")
    groups = None if data.groups is None else data.groups[data.part("test")]
    return RowResult(
        scores=segmentation_scores(counts, data.classes, groups, row.seed),
        notes=[_most_frequent_class_note(counts.sum((0, 2)), data.classes)],
        drawings=[
            *draw_masks(
                [test[i] for i in shown],
                [kept_masks[i][0] for i in shown],
                [kept_masks[i][1] for i in shown],
                data.classes,
                row.before,
            ),
            *draw_attention_maps(model, [image.file for image in test], row.seed),
        ],
    )


def _most_frequent_class_note(pixels: Ints, names: Sequence[str]) -> str:
    """Return the scores of predicting the most frequent class everywhere: often above chance."""
    most = int(pixels.argmax())
    overall = pixels[most] / pixels.sum()
    return (
        f"Predicting {names[most]} at every pixel would give an OA of {100 * overall:.1f} and an mIoU of "
        f"{100 * overall / np.count_nonzero(pixels):.1f}."
    )


SEGMENTATION = BenchmarkTask(
    "Segmentation",
    SegmentationRow,
    read_masks,
    evaluate_segmentation,
    (*READ_BY_READER, "before"),
    headline="miou",
    requires="patch_grid",
    labelled_images=lambda data: data,
)
