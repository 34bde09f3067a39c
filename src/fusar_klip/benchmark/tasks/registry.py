"""The benchmark's tasks: each with its row of a suite, its reader, its evaluation, and its headline.

A task is added here and nowhere else: `suite.py` validates its rows by this table, `runner.py` reads and
evaluates by it, `report.py` takes its titles from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.settings import (
    CaptioningRow,
    DetectionRow,
    FinetuneRow,
    KnnRow,
    LabelRetrievalRow,
    LinearProbeRow,
    RetrievalRow,
    Row,
    SegmentationRow,
    VqaRow,
)
from fusar_klip.benchmark.tasks.captioning import evaluate_captioning
from fusar_klip.benchmark.tasks.classification import evaluate_classification
from fusar_klip.benchmark.tasks.classification_data import read_classification
from fusar_klip.benchmark.tasks.detection import evaluate_detection, read_boxes
from fusar_klip.benchmark.tasks.label_retrieval import evaluate_label_retrieval
from fusar_klip.benchmark.tasks.language import read_language
from fusar_klip.benchmark.tasks.retrieval import evaluate_retrieval, read_retrieval
from fusar_klip.benchmark.tasks.segmentation import evaluate_segmentation, read_masks
from fusar_klip.benchmark.tasks.vqa import OVERALL, evaluate_vqa


class TaskData(Protocol):
    """What every task's reader gives, whatever else it holds."""

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that change with the data's content."""

    @property
    def facts(self) -> str:
        """Sizes in one line."""

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the numbers has to know."""


@dataclass(frozen=True)
class BenchmarkTask:
    """One task of the benchmark."""

    title: str
    row: type[Row]
    read: Callable[[Any, Path], TaskData]
    """From the row and where its data set lies."""
    evaluate: Callable[[Any, Any, EvaluatedModel], RowResult]
    """From the row, what `read` gave, and the model."""
    read_by: tuple[str, ...]
    """The row's values that decide what is read, beside its path: rows with the same share one reading."""
    headline: str | None = None
    """The metric that stands for a row in the overview; None: the first of the row's `metrics`."""
    needs_texts: bool = False
    """Whether a model without a text tower cannot run it."""
    needs_plain_vit: bool = False
    """Whether a model whose image tower is no plain ViT cannot run it."""
    needs_decoder: bool = False
    """Whether a model without fusion and decoder cannot run it, unless its row names a text side."""
    for_language_models: bool = False
    """Whether a general language model (`llm:NAME`) can run it."""
    beside_suite: bool = False
    """Whether a relative path is looked for beside the suite file, not in the data folder."""

    def headline_of(self, row: Row) -> str:
        """Return the metric that stands for a row in the overview."""
        return self.headline or str(row.metrics[0])  # type: ignore[attr-defined]


_BY_CLASS = ("reader", "split_file", "split", "split_by", "split_seed")
_BY_TEXTS = (*_BY_CLASS, "target_grid", "land_grid", "least_share", "text_seed")

TASKS: Mapping[str, BenchmarkTask] = {
    "linear_probe": BenchmarkTask(
        "Linear probe", LinearProbeRow, read_classification, evaluate_classification, _BY_CLASS
    ),
    "knn": BenchmarkTask(
        "k-nearest neighbours", KnnRow, read_classification, evaluate_classification, _BY_CLASS
    ),
    "finetune": BenchmarkTask(
        "Fine-tuning", FinetuneRow, read_classification, evaluate_classification, _BY_CLASS
    ),
    "detection": BenchmarkTask(
        "Detection",
        DetectionRow,
        read_boxes,
        evaluate_detection,
        (*_BY_CLASS, "one_class"),
        headline="ap50",
        needs_plain_vit=True,
    ),
    "segmentation": BenchmarkTask(
        "Segmentation",
        SegmentationRow,
        read_masks,
        evaluate_segmentation,
        (*_BY_CLASS, "before"),
        headline="miou",
        needs_plain_vit=True,
    ),
    "retrieval": BenchmarkTask(
        "Image-text retrieval",
        RetrievalRow,
        read_retrieval,
        evaluate_retrieval,
        ("texts", "split", "scales"),
        headline="mean_recall",
        needs_texts=True,
        beside_suite=True,
    ),
    "label_retrieval": BenchmarkTask(
        "Retrieval of captions",
        LabelRetrievalRow,
        read_language,
        evaluate_label_retrieval,
        _BY_TEXTS,
        headline="mean_recall",
        needs_decoder=True,
    ),
    "captioning": BenchmarkTask(
        "Captioning",
        CaptioningRow,
        read_language,
        evaluate_captioning,
        _BY_TEXTS,
        headline="bleu4",
        needs_decoder=True,
    ),
    "vqa": BenchmarkTask(
        "Visual question answering",
        VqaRow,
        read_language,
        evaluate_vqa,
        _BY_TEXTS,
        headline=OVERALL,
        needs_decoder=True,
        for_language_models=True,
    ),
}
