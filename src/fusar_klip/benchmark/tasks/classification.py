"""The classification tasks: linear probe, k-nearest neighbours and fine-tuning, from data set to outcome."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics.classification_metrics import classification_scores
from fusar_klip.benchmark.report.thumbnails import thumbnail
from fusar_klip.benchmark.results import ClassifiedImage, ConfusionMatrix, RowResult
from fusar_klip.benchmark.settings import FinetuneRow, KnnRow, LinearProbeRow
from fusar_klip.benchmark.tasks.probes import knn, linear_probe
from fusar_klip.datasets.samples import ClassificationData
from fusar_klip.finetune.classification import train_classifier
from fusar_klip.finetune.resized_images import resized_images

_SHOWN_EACH = 6
"""So many right and so many wrong test images are shown."""


def evaluate_classification(
    row: LinearProbeRow | KnnRow | FinetuneRow, data: ClassificationData, subject: EvaluatedModel
) -> RowResult:
    """Run one classification row for one model; the test part is read once, at the end."""
    train, test = data.part("train"), data.part("test")
    chosen: dict[str, Any] = {}
    notes: list[str] = []
    if isinstance(row, FinetuneRow):
        model = subject.model
        with resized_images(data.files, model.preprocess, row.centre) as images_nss:
            classifier = train_classifier(model, images_nss, data, row)
            probabilities = classifier.probabilities(images_nss[test])
    else:
        features = subject.features(data)
        groups = None if data.groups is None else data.groups[train]
        arguments = (features[train], data.labels[train], groups, features[test])
        result = knn(*arguments, row) if isinstance(row, KnnRow) else linear_probe(*arguments, row)
        probabilities, chosen, notes = result.probabilities, result.chosen, result.notes
    test_groups = None if data.groups is None else data.groups[test]
    labels = data.labels[test]
    return RowResult(
        scores=classification_scores(probabilities, labels, test_groups, row.metrics, row.seed),
        chosen=chosen,
        notes=notes,
        confusion=_confusion(data, labels, probabilities),
        chips=_shown_images(data, probabilities, row.seed),
    )


def _confusion(
    data: ClassificationData, labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> ConfusionMatrix:
    counts = np.zeros((len(data.classes), len(data.classes)), dtype=np.int64)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    return ConfusionMatrix(list(data.classes), counts.tolist())


def _shown_images(
    data: ClassificationData, probabilities: NDArray[np.float64], seed: int
) -> list[ClassifiedImage]:
    """Return right and wrong test images, drawn at random, not picked."""
    test = data.part("test")
    predicted = probabilities.argmax(axis=1)
    right = predicted == data.labels[test]
    rng = np.random.default_rng(seed)
    shown: list[int] = []
    for outcome in (right, ~right):
        candidates = rng.permutation(np.flatnonzero(outcome))
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
