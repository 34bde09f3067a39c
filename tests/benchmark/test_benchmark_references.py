"""Metrics on random inputs against torchmetrics (other references stand beside their tasks)."""

import warnings

import numpy as np
import pytest
import torch

from fusar_klip.benchmark.metrics.classification_metrics import classification_scores
from fusar_klip.benchmark.metrics.retrieval_metrics import recall_hits
from fusar_klip.benchmark.metrics.segmentation_metrics import confusion_counts, segmentation_scores
from fusar_klip.datasets.labelled_data import IGNORED

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchmetrics

CLASSES = 5


@pytest.mark.parametrize("seed", range(4))
def test_top_k_and_macro_f1(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(CLASSES), size=80)
    labels = rng.integers(CLASSES, size=80)
    ours = classification_scores(probabilities, labels, None, ("top1", "top3", "macro_f1"), 0)
    shared = {"num_classes": CLASSES, "average": "micro"}
    theirs = (
        torchmetrics.classification.MulticlassAccuracy(**shared),
        torchmetrics.classification.MulticlassAccuracy(**shared, top_k=3),
        torchmetrics.classification.MulticlassF1Score(CLASSES, average="macro"),
    )
    for score, metric in zip(ours, theirs, strict=True):
        expected = metric(torch.from_numpy(probabilities), torch.from_numpy(labels)).item()
        assert score.value == pytest.approx(expected, abs=1e-6), score.metric


@pytest.mark.parametrize("seed", range(4))
def test_overall_accuracy_and_mean_iou(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths = rng.integers(0, CLASSES, (4, 12, 9)).astype(np.uint8)
    predicted = np.where(rng.random(truths.shape) < 0.6, truths, rng.integers(0, CLASSES, truths.shape))
    truths[rng.random(truths.shape) < 0.15] = IGNORED
    counts = np.stack([confusion_counts(t, p, CLASSES) for t, p in zip(truths, predicted, strict=True)])
    ours = {s.metric: s.value for s in segmentation_scores(counts, [*"abcde"], None, 0)}
    given = torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(truths.astype(np.int64))
    options = {"num_classes": CLASSES, "ignore_index": IGNORED}
    accuracy = torchmetrics.classification.MulticlassAccuracy(average="micro", **options)
    assert ours["oa"] == pytest.approx(accuracy(*given).item(), abs=1e-6)
    each = torchmetrics.classification.MulticlassJaccardIndex(average="none", **options)(*given)
    assert [ours[f"iou_{name}"] for name in "abcde"] == pytest.approx(each[:CLASSES].tolist(), abs=1e-6)
    assert ours["miou"] == pytest.approx(each[:CLASSES].mean().item(), abs=1e-6)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_at_k_of_queries_with_several_answers(k: int) -> None:
    rng = np.random.default_rng(k)
    similarity = rng.normal(size=(30, 40))
    relevant = rng.random((30, 40)) < 0.08
    relevant[np.arange(30), np.arange(30)] = True
    queries = torch.arange(30).repeat_interleave(40)
    metric = torchmetrics.retrieval.RetrievalHitRate(top_k=k)
    given = torch.from_numpy(similarity.ravel()), torch.from_numpy(relevant.ravel())
    expected = metric(*given, indexes=queries).item()
    assert recall_hits(similarity, relevant, k).mean() == pytest.approx(expected, abs=1e-6)
