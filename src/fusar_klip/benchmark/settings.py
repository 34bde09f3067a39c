"""The values that rows of a benchmark suite share: task, data set, path, split, preset and seed.

`suite.py` reads a suite file. Each task adds its own values in its module of `tasks`; a row that trains a
model extends the settings of its training (in `finetune`).
"""

from typing import Annotated, Literal, get_args

from pydantic import Field

from fusar_klip.config import Settings
from fusar_klip.datasets.registry import ClassificationReader
from fusar_klip.datasets.splits import LabelledSplitSettings

ClassMetric = Literal["top1", "top3", "macro_f1"]


class Row(Settings):
    """The values of every row."""

    task: str
    """The task; one of the keys of `tasks.registry.TASKS`."""
    dataset: str = Field(min_length=1)
    """The data set's name in the results."""
    path: str = Field(min_length=1)
    """The data set's folder. `${NAME}` stands for an environment variable. A relative path starts at the data
    folder (`--data`, else FUSAR_KLIP_DATA, else ../shared/data); for `retrieval` it starts at the folder of
    the suite file."""
    split: str = Field(min_length=1)
    """The split's name in the results; for `retrieval` the split of the catalog that is searched."""
    preset: str
    """The name of the preset that gives the values below which the row does not give."""
    seed: int = Field(default=0, ge=0)
    """Fixes the choice of settings, the fine-tuning, the bootstrap and the examples shown."""

    @property
    def preset_label(self) -> str:
        """The preset's name, and every value that the row changes."""
        return self.preset


class SplitRow(LabelledSplitSettings, Row):
    """A row on a data set that is split into a training and a test part."""


class ClassificationRow(SplitRow):
    """A row on images that have one class each."""

    reader: ClassificationReader
    """The layout on disk; one of the classification readers of `datasets.registry`."""
    metrics: Annotated[tuple[ClassMetric, ...], Field(min_length=1)] = get_args(ClassMetric)
    """The reported metrics."""
