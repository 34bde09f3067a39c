"""Classification by linear probe, k-nearest neighbours and fine-tuning (paper 4.3, table 3)."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics.classification_metrics import classification_scores
from fusar_klip.benchmark.report.thumbnails import thumbnail
from fusar_klip.benchmark.results import ClassifiedImage, ConfusionMatrix, RowResult
from fusar_klip.benchmark.settings import ClassificationRow
from fusar_klip.benchmark.tasks.probes import (
    Features,
    Ints,
    KnnRow,
    LinearProbeRow,
    ProbeResult,
    knn,
    linear_probe,
)
from fusar_klip.benchmark.tasks.task import READ_BY_READER, BenchmarkTask
from fusar_klip.datasets.labelled_data import ClassificationData
from fusar_klip.datasets.loading import load_classification
from fusar_klip.finetune.classification import train_classifier
from fusar_klip.finetune.resized_images import resized_images
from fusar_klip.finetune.settings import ClassificationSettings

Floats = NDArray[np.float64]

_SHOWN_EACH = 6
"""Number of correct and of wrong test images in the report."""


class FinetuneRow(ClassificationSettings, ClassificationRow):
    """Full fine-tuning of the image tower with a linear head on its CLS feature."""

    task: Literal["finetune"]


def read_classification(row: ClassificationRow, path: Path) -> ClassificationData:
    """Read a row's data set with its reader, and split it.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, there is no split, a part is empty, or a class has no
            training image.
    """
    return load_classification(row.reader, path, row, row.dataset)


def evaluate_linear_probe(
    row: LinearProbeRow, data: ClassificationData, evaluated: EvaluatedModel
) -> RowResult:
    """Evaluate a model by logistic regression on its frozen features."""
    return _result(row, data, linear_probe(*_probe_inputs(data, evaluated), row))


def evaluate_knn(row: KnnRow, data: ClassificationData, evaluated: EvaluatedModel) -> RowResult:
    """Evaluate a model by the nearest neighbours of its frozen features."""
    return _result(row, data, knn(*_probe_inputs(data, evaluated), row))


def evaluate_finetune(row: FinetuneRow, data: ClassificationData, evaluated: EvaluatedModel) -> RowResult:
    """Evaluate a fine-tuned copy of a model; the test part is read once, at the end."""
    model = evaluated.model
    with resized_images(data.files, model.preprocess, row.centre) as images_nss:
        classifier = train_classifier(model, images_nss, data, row)
        probabilities = classifier.probabilities(images_nss[data.part("test")])
    return _result(row, data, ProbeResult(probabilities, {}, []))


def _probe_inputs(
    data: ClassificationData, evaluated: EvaluatedModel
) -> tuple[Features, Ints, Ints | None, Features]:
    """Return training features (N, W), labels (N,) and groups (N,), and test features (N_test, W)."""
    train, test = data.part("train"), data.part("test")
    features = evaluated.features(data)
    groups = None if data.groups is None else data.groups[train]
    return features[train], data.labels[train], groups, features[test]


def _result(row: ClassificationRow, data: ClassificationData, result: ProbeResult) -> RowResult:
    test = data.part("test")
    groups = None if data.groups is None else data.groups[test]
    labels = data.labels[test]
    return RowResult(
        scores=classification_scores(result.probabilities, labels, groups, row.metrics, row.seed),
        chosen=result.chosen,
        notes=result.notes,
        confusion=_confusion_matrix(data, labels, result.probabilities),
        chips=_shown_images(data, result.probabilities, row.seed),
    )


def _confusion_matrix(data: ClassificationData, labels: Ints, probabilities: Floats) -> ConfusionMatrix:
    counts = np.zeros((len(data.classes), len(data.classes)), dtype=np.int64)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    return ConfusionMatrix(list(data.classes), counts.tolist())


def _shown_images(data: ClassificationData, probabilities: Floats, seed: int) -> list[ClassifiedImage]:
    """Return correctly and wrongly classified test images, drawn at random, not picked."""
    test = data.part("test")
    predicted = probabilities.argmax(axis=1)
    correct = predicted == data.labels[test]
    rng = np.random.default_rng(seed)
    shown: list[int] = []
    for chosen in (correct, ~correct):
        candidates = rng.permutation(np.flatnonzero(chosen))
        shown += candidates[:_SHOWN_EACH].tolist()
    return [
        ClassifiedImage(
            picture=thumbnail(data.images[test[i]].file),
            truth=data.images[test[i]].label,
            predicted=data.classes[predicted[i]],
            probability=round(float(probabilities[i, predicted[i]]), 4),
        )
        for i in shown
    ]


LINEAR_PROBE = BenchmarkTask(
    "Linear probe",
    LinearProbeRow,
    read_classification,
    evaluate_linear_probe,
    READ_BY_READER,
    labelled_images=lambda data: data,
)
KNN = BenchmarkTask(
    "k-nearest neighbours",
    KnnRow,
    read_classification,
    evaluate_knn,
    READ_BY_READER,
    labelled_images=lambda data: data,
)
FINETUNE = BenchmarkTask(
    "Fine-tuning",
    FinetuneRow,
    read_classification,
    evaluate_finetune,
    READ_BY_READER,
    labelled_images=lambda data: data,
)
