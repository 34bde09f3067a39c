"""The detection task: a data set with boxes, ViTDet trained on it, and what it finds in the test part."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics.average_precision import detection_scores
from fusar_klip.benchmark.metrics.box_matching import Detections, GroundTruth
from fusar_klip.benchmark.report.attention_maps import draw_attention_maps
from fusar_klip.benchmark.report.prediction_figures import draw_detections
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.tasks.detection_row import DetectionRow
from fusar_klip.datasets.registry import read_detection
from fusar_klip.datasets.samples import AnnotatedImage, DetectionData
from fusar_klip.datasets.splits import split_as, with_parts
from fusar_klip.errors import DatasetError
from fusar_klip.finetune.detection.detector import Detector
from fusar_klip.finetune.detection.heads import Target
from fusar_klip.finetune.detection.views import boxes_of, training_view, whole_view
from fusar_klip.finetune.training_loop import FinetuneJob, fit, made_ahead, seeded
from fusar_klip.models import Klip
from fusar_klip.models.pretrained.encoder import ZooEncoder

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Batch = tuple[Tensor, list[tuple[int, int]], list[Target]]

ONE_CLASS = "object"
_TEST_BATCH = 4


def read_boxes(row: DetectionRow, path: Path) -> DetectionData:
    """Read the data set of a row with the row's reader, and split it as the row says.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, there is no split, a part is empty, or a part has no
        box.
    """
    listed = read_detection(row.reader, path, row.dataset)
    split_file = path / row.split_file
    images = with_parts(listed.images, split_file) if split_file.is_file() else listed.images
    data = DetectionData(split_as(images, row, path), listed.classes)
    if row.one_class:
        data = _of_one_class(data)
    for part in ("train", "test"):
        if not any(_counted(image) for image in data.images if image.part == part):
            raise DatasetError(f"the {part} images of {row.dataset} at {path} have no box: check its split")
    return data


def evaluate_detection(row: DetectionRow, data: DetectionData, subject: EvaluatedModel) -> RowResult:
    """Train ViTDet on the training part, and measure it on the test part, which is read once, at the end.

    Raises:
        CheckpointError: The model's image tower is no plain ViT.
    """
    train = drawn_images(data.part("train"), row)
    test = [data.images[i] for i in data.part("test")]
    with seeded(row.seed, subject.model.device):
        detector = Detector(subject.model, len(data.classes), row).to(subject.model.device)
        losses = _fit(detector, [data.images[i] for i in train], data.classes, subject.model, row)
        logger.info("%s: the loss fell from %.4f to %.4f", data.facts, losses[0], losses[-1])
        found = find(detector, test, data.classes, subject.model)
    groups = None if data.groups is None else data.groups[data.part("test")]
    truths = [truth_of(image, data.classes) for image in test]
    return RowResult(
        scores=detection_scores(truths, found, len(data.classes), groups, row.seed),
        notes=_notes(data, train, test),
        drawings=[
            *draw_detections(test, truths, found, data.classes, row.seed),
            *draw_attention_maps(subject.model, [image.file for image in test], row.seed),
        ],
    )


def drawn_images(train: Ints, row: DetectionRow) -> Ints:
    """Return the training images that a row learns from; with one seed, fewer are among more."""
    wanted = row.shots if row.shots is not None else max(1, round(row.train_share * len(train)))
    if wanted >= len(train):
        return train
    return np.sort(np.random.default_rng(row.seed).permutation(train)[:wanted])


def truth_of(image: AnnotatedImage, classes: Sequence[str]) -> GroundTruth:
    """Return an image's boxes for the matching."""
    labels = np.array([classes.index(box.category) for box in image.boxes], dtype=np.int64)
    ignored = np.array([box.difficult for box in image.boxes], dtype=np.bool_)
    return GroundTruth(boxes_of(image), labels, ignored)


def find(
    detector: Detector, images: Sequence[AnnotatedImage], classes: tuple[str, ...], model: Klip | ZooEncoder
) -> list[Detections]:
    """Return what the detector finds in each image, in the image's pixels."""
    side = detector.side
    found = []
    for start in range(0, len(images), _TEST_BATCH):
        views = [whole_view(image, classes, side) for image in images[start : start + _TEST_BATCH]]
        squares = np.stack([view.square for view, _ in views])
        pixels_b1ss = model.preprocess.standardise(squares).to(model.device)
        answers = detector.detect(pixels_b1ss, [view.size for view, _ in views])
        for answer, (_, scale) in zip(answers, views, strict=True):
            boxes, scores, labels = (answer[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
            found.append(Detections(boxes.astype(np.float64) / scale, scores.astype(np.float64), labels - 1))
    return found


def _fit(
    detector: Detector,
    images: Sequence[AnnotatedImage],
    classes: tuple[str, ...],
    model: Klip | ZooEncoder,
    row: DetectionRow,
) -> list[float]:
    # A last batch that is not full is left out: shuffling gives its images their turn in other epochs.
    size = min(row.batch_size, len(images))
    steps = len(images) // size

    def make(key: tuple[int, int, Ints]) -> Batch:
        epoch, step, chosen = key
        rng = np.random.default_rng([row.seed, epoch, 1 + step])
        views = [
            training_view(
                images[i],
                classes,
                row.input_size,
                scales=row.scales,
                gain=row.gain,
                flips=row.flips,
                rng=rng,
            )
            for i in chosen
        ]
        pixels_b1ss = model.preprocess.standardise(np.stack([view.square for view in views]))
        targets: list[Target] = [view.target(model.device) for view in views]
        return pixels_b1ss.to(model.device), [view.size for view in views], targets

    def batches(epoch: int) -> Iterator[Batch]:
        order = np.random.default_rng([row.seed, epoch]).permutation(len(images))
        keys = ((epoch, step, order[step * size : (step + 1) * size]) for step in range(steps))
        return made_ahead(make, keys)

    def loss(batch: Batch) -> Tensor:
        total: Tensor = detector(*batch)
        return total

    groups = detector.groups(row.weight_decay, row.layer_decay)
    job = FinetuneJob(detector, groups, batches, steps, loss, row.decay)
    return fit(job, row, "Detection, epochs")


def _of_one_class(data: DetectionData) -> DetectionData:
    images = (
        replace(image, boxes=tuple(replace(box, category=ONE_CLASS) for box in image.boxes))
        for image in data.images
    )
    return DetectionData(tuple(images), (ONE_CLASS,))


def _notes(data: DetectionData, train: Ints, test: Sequence[AnnotatedImage]) -> list[str]:
    counted = sum(_counted(image) for image in test)
    ignored = sum(len(image.boxes) for image in test) - counted
    notes = [
        f"{counted} boxes in {len(test)} test images" + (f", {ignored} ignored ones" if ignored else "") + "."
    ]
    if len(train) < len(data.part("train")):
        notes.append(
            f"Trained on {len(train)} of {len(data.part('train'))} training images, drawn by the seed."
        )
    learnt = {box.category for i in train for box in data.images[i].boxes if not box.difficult}
    if strange := sorted({box.category for image in test for box in image.boxes} - learnt):
        notes.append(
            f"No training box of {', '.join(strange)}: not to be found, and counted as 0 in the mean."
        )
    return notes


def _counted(image: AnnotatedImage) -> int:
    return sum(not box.difficult for box in image.boxes)
