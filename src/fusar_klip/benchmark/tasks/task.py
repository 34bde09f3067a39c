"""The description of a benchmark task: the values of its rows, its reader, its evaluation, and its needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.settings import Row
from fusar_klip.datasets.splits import AnyData
from fusar_klip.models import Capability


class TaskData(Protocol):
    """The data of a row, as a task's `read` returns it."""

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that change with the data's content."""

    @property
    def size_summary(self) -> str:
        """Sizes in one line."""

    @property
    def notes(self) -> Sequence[str]:
        """Remarks for the reader of the scores."""


READ_BY_READER = ("reader", "split_file", "split", "split_by", "split_seed")
"""The values of a `SplitRow` with a reader that decide its data (`BenchmarkTask.read_by`)."""

RowT = TypeVar("RowT", bound=Row)
DataT = TypeVar("DataT", bound=TaskData)


@dataclass(frozen=True)
class BenchmarkTask(Generic[RowT, DataT]):
    """One task of the benchmark."""

    title: str
    """The task's name in the report."""
    row: type[RowT]
    """The values of its rows in a suite."""
    read: Callable[[RowT, Path], DataT]
    """Reads a row's data set, in the folder given."""
    evaluate: Callable[[RowT, DataT, EvaluatedModel], RowResult]
    """Evaluates a model on the data."""
    read_by: tuple[str, ...]
    """The row's values that `read` depends on, beside the path: rows that agree in them share one reading."""
    headline: str | None = None
    """The metric that represents a row in the overview; None: the first of the row's `metrics`."""
    requires: Capability = "image_features"
    """The capability that a model needs, unless its row names a text side, which then needs it."""
    for_language_models: bool = False
    """Whether a general language model (`llm:NAME`) can run it."""
    path_from_suite: bool = False
    """Whether a relative path starts at the folder of the suite file, not at the data folder."""
    text_side: Callable[[RowT], str | None] = lambda _: None
    """Returns the RUN whose text side a row attaches to the models, if any; part of the row's identity."""
    saved_model: Callable[[RowT, str], Path | None] = lambda _row, _name: None
    """Returns the folder below RESULTS in which a row saves the fine-tuned model of that name, if it does."""
    labelled_images: Callable[[DataT], AnyData | None] = lambda _: None
    """Returns the images whose split is written to RESULTS/splits, if any."""

    def headline_of(self, row: Row) -> str:
        """Return the metric that represents a row in the overview."""
        return self.headline or str(row.metrics[0])  # type: ignore[attr-defined]
