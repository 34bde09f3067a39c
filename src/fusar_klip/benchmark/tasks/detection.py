"""Detection by ViTDet on a data set with boxes (paper 4.3, tables 3 and 4)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics.average_precision import detection_scores
from fusar_klip.benchmark.metrics.box_matching import Detections, GroundTruth
from fusar_klip.benchmark.report.attention_maps import draw_attention_maps
from fusar_klip.benchmark.report.prediction_figures import draw_detections
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.settings import SplitRow
from fusar_klip.benchmark.tasks.task import READ_BY_READER, BenchmarkTask
from fusar_klip.datasets.labelled_data import DetectionData, ImageWithBoxes
from fusar_klip.datasets.loading import load_detection
from fusar_klip.datasets.registry import DetectionReader
from fusar_klip.errors import DatasetError
from fusar_klip.finetune.detection.detector import Detector
from fusar_klip.finetune.detection.inputs import box_corners, letterboxed
from fusar_klip.finetune.detection.settings import DetectionSettings
from fusar_klip.finetune.detection.training import train_detector
from fusar_klip.models import VisionEncoder

Ints = NDArray[np.int64]

_TEST_BATCH = 4


class DetectionRow(DetectionSettings, SplitRow):
    """Detection by ViTDet: image tower and detection heads are trained on a data set's boxes."""

    task: Literal["detection"]
    reader: DetectionReader
    """The layout on disk; one of the detection readers of `datasets.registry`."""
    one_class: bool = False
    """All categories count as one, `object`: localisation only, for sets too small to distinguish types."""
    shots: int | None = Field(default=None, ge=1)
    """Few-shot setting: number of training images, drawn by the seed; a smaller draw is a subset of a larger
    one. None: all."""
    train_share: float = Field(default=1.0, gt=0, le=1)
    """The same as a share of the training images (the paper's SAR-AIRcraft-Few: 0.2)."""


def read_boxes(row: DetectionRow, path: Path) -> DetectionData:
    """Read a row's data set with its reader, and split it.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, there is no split, a part is empty, or a part has no
            box.
    """
    data = load_detection(row.reader, path, row, row.dataset, one_class=row.one_class)
    for part in ("train", "test"):
        if not any(_box_count(image) for image in data.images if image.part == part):
            raise DatasetError(f"the {part} images of {row.dataset} at {path} have no box: check its split")
    return data


def evaluate_detection(row: DetectionRow, data: DetectionData, evaluated: EvaluatedModel) -> RowResult:
    """Train ViTDet on the training part and evaluate it on the test part, which is read once, at the end.

    Raises:
        CheckpointError: The model's image tower is no plain ViT.
    """
    model = evaluated.model
    train = training_subset(data.part("train"), row)
    test = [data.images[i] for i in data.part("test")]
    detector = train_detector(model, [data.images[i] for i in train], data.classes, row)
    detections = detect(detector, test, data.classes, model)
    groups = None if data.groups is None else data.groups[data.part("test")]
    truths = [ground_truth(image, data.classes) for image in test]
    return RowResult(
        scores=detection_scores(truths, detections, len(data.classes), groups, row.seed),
        notes=_notes(data, train, test),
        drawings=[
            *draw_detections(test, truths, detections, data.classes, row.seed),
            *draw_attention_maps(model, [image.file for image in test], row.seed),
        ],
    )


def training_subset(train: Ints, row: DetectionRow) -> Ints:
    """Return the indices of a row's training images; smaller draws are subsets of larger ones."""
    count = row.shots if row.shots is not None else max(1, round(row.train_share * len(train)))
    if count >= len(train):
        return train
    return np.sort(np.random.default_rng(row.seed).permutation(train)[:count])


def ground_truth(image: ImageWithBoxes, classes: Sequence[str]) -> GroundTruth:
    """Return an image's boxes; difficult ones are ignored."""
    labels = np.array([classes.index(box.category) for box in image.boxes], dtype=np.int64)
    ignored = np.array([box.difficult for box in image.boxes], dtype=np.bool_)
    return GroundTruth(box_corners(image), labels, ignored)


def detect(
    detector: Detector, images: Sequence[ImageWithBoxes], classes: tuple[str, ...], model: VisionEncoder
) -> list[Detections]:
    """Return the detections in each image, in the image's pixels."""
    detections = []
    for start in range(0, len(images), _TEST_BATCH):
        inputs = [letterboxed(image, classes, detector.side) for image in images[start : start + _TEST_BATCH]]
        squares = np.stack([it.square for it, _ in inputs])
        pixels_b1ss = model.preprocess.standardise(squares).to(model.device)
        outputs = detector.detect(pixels_b1ss, [it.size for it, _ in inputs])
        for output, (_, scale) in zip(outputs, inputs, strict=True):
            boxes, scores, labels = (output[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
            detections.append(
                Detections(boxes.astype(np.float64) / scale, scores.astype(np.float64), labels - 1)
            )
    return detections


def _notes(data: DetectionData, train: Ints, test: Sequence[ImageWithBoxes]) -> list[str]:
    count = sum(_box_count(image) for image in test)
    ignored = sum(len(image.boxes) for image in test) - count
    notes = [
        f"{count} boxes in {len(test)} test images" + (f", {ignored} ignored ones" if ignored else "") + "."
    ]
    if len(train) < len(data.part("train")):
        notes.append(
            f"Trained on {len(train)} of {len(data.part('train'))} training images, drawn by the seed."
        )
    trained = {box.category for i in train for box in data.images[i].boxes if not box.difficult}
    if untrained := sorted({box.category for image in test for box in image.boxes} - trained):
        notes.append(
            f"No training box of {', '.join(untrained)}: cannot be detected, and counts as 0 in the mean."
        )
    return notes


def _box_count(image: ImageWithBoxes) -> int:
    """Return the number of boxes that are not ignored."""
    return sum(not box.difficult for box in image.boxes)


DETECTION = BenchmarkTask(
    "Detection",
    DetectionRow,
    read_boxes,
    evaluate_detection,
    (*READ_BY_READER, "one_class"),
    headline="ap50",
    requires="patch_grid",
    labelled_images=lambda data: data,
)
