"""The rows of a benchmark suite: which task, on which data, with which preset, and every value of it.

A suite file is read by `suite.py`; what a row's values do stands in the module of its task.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from fusar_klip.catalog import Scale
from fusar_klip.config import Settings
from fusar_klip.datasets.registry import ClassificationReader
from fusar_klip.datasets.splits import SplitMethod

ClassMetric = Literal["top1", "top3", "macro_f1"]
Flips = Literal["none", "horizontal", "all"]
Standardise = Literal["model", "chip"]
Missing = Literal["fail", "skip"]
FinetunePreset = Literal["paper", "recommended"]

FINETUNE_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Paper, table 3: AdamW, 0.003, 100 epochs, warm-up and cosine; what it leaves out is plain.
    "paper": {
        "epochs": 100,
        "batch_size": 32,
        "learning_rate": 3e-3,
        "warmup_epochs": 5.0,
        "weight_decay": 0.05,
        "layer_decay": 1.0,
        "label_smoothing": 0.0,
        "shift": 0.0,
        "gain": 0.0,
        "flips": "none",
        "standardise": "model",
        "centre": 1.0,
    },
    # decisions.md: layer-wise decay and a lower rate; the augmentations keep a chip's class.
    "recommended": {
        "epochs": 50,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "warmup_epochs": 3.0,
        "weight_decay": 0.05,
        "layer_decay": 0.75,
        "label_smoothing": 0.1,
        "shift": 0.08,
        "gain": 0.15,
        "flips": "none",
        "standardise": "chip",
        "centre": 1.0,
    },
}


class Row(Settings):
    """What every row of a suite says."""

    task: str
    """What is measured; one of the keys of `tasks.TASKS`."""
    dataset: str = Field(min_length=1)
    """The data set's name as the results print it."""
    path: str = Field(min_length=1)
    """Where it lies. `${NAME}` stands for an environment variable; a relative path is looked for under the
    data folder (`--data`, else FUSAR_KLIP_DATA, else ../shared/data), but for `retrieval` beside the suite
    file."""
    split: str = Field(min_length=1)
    """The split's name as the results print it; for `retrieval` the catalog's split that is searched."""
    preset: str
    """The name of the values below that the row does not give itself."""
    seed: int = Field(default=0, ge=0)
    """Fixes the choice of settings, the fine-tuning, the bootstrap and the examples shown."""

    @property
    def preset_label(self) -> str:
        """The preset as the results print it: its name, and every value that the row changed."""
        return self.preset


class SplitRow(Row):
    """A row on a data set that is split into a training and a test part."""

    split_file: str = "split.csv"
    """A CSV below the data set's folder with the columns file, split (train or test), class (for the readers
    of class folders) and, where images belong together, group. It need not be there if the data set brings
    its parts or a split is made."""
    split_by: SplitMethod | None = None
    """`given`: the data set's parts or the split file's; `paper`: random 4:1; `grouped`: 4:1 of whole groups
    of near-duplicates. Without it, `split = "paper"` makes that split, `split = "grouped"` makes one where
    the data set brings none, and everything else is given."""
    split_seed: int = Field(default=0, ge=0)
    """Fixes a made split, apart from the seed of the training."""


class TrainedRow(Row):
    """A row that trains the image tower, with the values of a preset where it gives none."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]]
    """The values of each preset; the presets have the same keys."""
    epochs: int = Field(ge=1)
    """Passes over the training part."""
    batch_size: int = Field(ge=1)
    """Images per step."""
    learning_rate: float = Field(gt=0)
    """AdamW's rate after the warm-up, at the head."""
    warmup_epochs: float = Field(ge=0)
    """Length of the linear warm-up, in epochs; parts of an epoch are allowed."""
    weight_decay: float = Field(ge=0)
    """AdamW's decoupled weight decay; biases and norms have none."""
    layer_decay: float = Field(gt=0, le=1)
    """Each layer below learns at so much of the rate of the layer above; 1 turns it off."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**cls.PRESETS.get(values.get("preset", "recommended"), cls.PRESETS["recommended"]), **values}

    @property
    def preset_label(self) -> str:
        """The preset's name, and every value that the row changed, such as "recommended+epochs=20"."""
        given = self.PRESETS[self.preset]
        changed = [f"{key}={getattr(self, key)}" for key in given if getattr(self, key) != given[key]]
        return "+".join([self.preset, *changed])


class ClassificationRow(SplitRow):
    """A row on images that have one class each."""

    reader: ClassificationReader
    """The layout on disk; one of the keys of `datasets.catalogue.CLASSIFICATION`."""
    metrics: Annotated[tuple[ClassMetric, ...], Field(min_length=1)] = get_args(ClassMetric)
    """What is reported."""


class LinearProbeRow(ClassificationRow):
    """Logistic regression on the frozen image tower's standardised CLS features."""

    task: Literal["linear_probe"]
    preset: Literal["recommended"] = "recommended"
    c_values: Annotated[tuple[float, ...], Field(min_length=1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Inverse regularisation strengths, of which one is chosen on a grouped fifth of the training part."""
    max_iterations: int = Field(default=2000, ge=1)
    """At most so many L-BFGS iterations."""


class KnnRow(ClassificationRow):
    """Cosine nearest neighbours on the frozen image tower's CLS features."""

    task: Literal["knn"]
    preset: Literal["recommended"] = "recommended"
    # k neighbours seldom hold three classes, so a third guess would be arbitrary.
    metrics: Annotated[tuple[Literal["top1", "macro_f1"], ...], Field(min_length=1)] = ("top1", "macro_f1")
    """What is reported."""
    k_values: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 3, 5, 10, 20)
    """Numbers of neighbours, of which one is chosen on a grouped fifth of the training part."""


class FinetuneRow(ClassificationRow, TrainedRow):
    """Full fine-tuning of the image tower with a linear head on its CLS feature."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = FINETUNE_PRESETS
    task: Literal["finetune"]
    preset: FinetunePreset = "recommended"
    batch_size: int = Field(ge=2)
    """Images per step."""
    label_smoothing: float = Field(ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    shift: float = Field(ge=0, lt=0.5)
    """Random shifts of up to this share of the image's side; what comes in is 0 (no data)."""
    gain: float = Field(ge=0, lt=1)
    """Random gain of the amplitude within 1 - gain to 1 + gain."""
    flips: Flips
    """Random flips: `horizontal` alone, or `all` eight flips and right-angle turns. They turn the look
    direction over too, so they are off unless a data set holds flipped chips itself."""
    standardise: Standardise
    """`model`: grey values as the model has learned them; `chip`: then each chip to mean 0 and spread 1, so
    that another product's gain and offset do not count."""
    centre: float = Field(gt=0, le=1)
    """Share of each chip's width and height that is seen, around its centre, where the target stands."""


class RetrievalRow(Row):
    """Zero-shot retrieval between the tiles of a data set's split and their texts, both ways."""

    task: Literal["retrieval"]
    split: Literal["train", "val", "test"] = "test"
    preset: Literal["zero_shot"] = "zero_shot"
    texts: str = Field(default="v000", pattern=r"^v\d{3,}$")
    """The text version."""
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = get_args(Scale)
    """The tiles' scales that are searched."""
    recall_at: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5, 10)
    """The K of recall at K."""
    shortlist: int = Field(default=256, ge=0)
    """So many best candidates by ITC are ranked again by ITM (decisions.md); 0 leaves the second pass out."""
