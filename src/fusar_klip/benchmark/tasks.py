"""The benchmark's tasks: each with its row of a suite, its reader, its evaluation, and its headline.

A task is added here and nowhere else: `suite.py` validates its rows by this table, `runner.py` reads and
evaluates by it, `report.py` takes its titles from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fusar_klip.benchmark.classification import evaluate_classification
from fusar_klip.benchmark.classification_data import read_classification
from fusar_klip.benchmark.retrieval import evaluate_retrieval, read_retrieval
from fusar_klip.benchmark.rows import RowOutcome
from fusar_klip.benchmark.settings import FinetuneRow, KnnRow, LinearProbeRow, RetrievalRow, Row
from fusar_klip.benchmark.subject import Subject


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
    evaluate: Callable[[Any, Any, Subject], RowOutcome]
    """From the row, what `read` gave, and the model."""
    read_by: tuple[str, ...]
    """The row's values that decide what is read, beside its path: rows with the same share one reading."""
    headline: str | None = None
    """The metric that stands for a row in the overview; None: the first of the row's `metrics`."""
    needs_texts: bool = False
    """Whether a model without a text tower cannot run it."""
    beside_suite: bool = False
    """Whether a relative path is looked for beside the suite file, not in the data folder."""

    def headline_of(self, row: Row) -> str:
        """Return the metric that stands for a row in the overview."""
        return self.headline or str(row.metrics[0])  # type: ignore[attr-defined]


_BY_CLASS = ("reader", "split_file", "split", "split_by", "split_seed")

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
}
