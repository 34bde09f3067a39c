"""The rows of a benchmark suite: which task, on which data, with which preset, and every value of it.

A suite file is read by `suite.py`. A row that trains a model extends the settings of its training (in
`finetune`) by its data set, its split and its evaluation.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field

from fusar_klip.catalog import Scale
from fusar_klip.config import Settings
from fusar_klip.datasets.label_texts.label_texts import TextSettings
from fusar_klip.datasets.registry import ClassificationReader, DetectionReader, SegmentationReader
from fusar_klip.datasets.splits import SplitMethod
from fusar_klip.finetune.detection.settings import DetectionSettings
from fusar_klip.finetune.language.settings import (
    CaptioningSettings,
    LanguageSettings,
    RetrievalSettings,
    VqaSettings,
)
from fusar_klip.finetune.segmentation.settings import SegmentationSettings
from fusar_klip.finetune.settings import ClassificationSettings

ClassMetric = Literal["top1", "top3", "macro_f1"]
Missing = Literal["fail", "skip"]


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


class FinetuneRow(ClassificationSettings, ClassificationRow):
    """Full fine-tuning of the image tower with a linear head on its CLS feature."""

    task: Literal["finetune"]


class DetectionRow(DetectionSettings, SplitRow):
    """Detection by ViTDet on the image tower, trained whole on the boxes of a data set."""

    task: Literal["detection"]
    reader: DetectionReader
    """The layout on disk; one of the detection readers of `datasets.registry`."""
    one_class: bool = False
    """All categories count as one, `object`: localisation alone, for sets too small to distinguish types."""
    shots: int | None = Field(default=None, ge=1)
    """The few-sample setting: number of training images, drawn by the seed; a smaller number is a subset of a
    larger one. None: all."""
    train_share: float = Field(default=1.0, gt=0, le=1)
    """The same as a share of the training images (the paper's SAR-AIRcraft-Few: 0.2)."""


class SegmentationRow(SegmentationSettings, SplitRow):
    """Segmentation by Segmenter on the image tower, trained whole on the masks of a data set."""

    task: Literal["segmentation"]
    reader: SegmentationReader
    """The layout on disk; one of the segmentation readers of `datasets.registry`."""


class LanguageRow(LanguageSettings, SplitRow, TextSettings):
    """A row on captions and questions, for which a copy of the whole model is fine-tuned."""

    reader: DetectionReader | SegmentationReader | Literal["label_texts"]
    """A reader of boxes or masks, from which texts are generated; or `label_texts`: `path` is a folder that
    `fusar-klip label-texts` wrote, whose parts are used as they are."""
    save: bool = False
    """Keep the fine-tuned model as a RUN in RESULTS/models, for `fusar-klip caption` and `ask`."""


class LabelRetrievalRow(RetrievalSettings, LanguageRow):
    """Retrieval between images and their captions, both ways, after fine-tuning on the training part's."""

    task: Literal["label_retrieval"]
    recall_at: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5, 10)
    """The K of recall at K."""
    shortlist: int = Field(default=256, ge=0)
    """Number of best candidates by ITC that ITM re-ranks (decisions.md); 0 skips the re-ranking."""


class CaptioningRow(CaptioningSettings, LanguageRow):
    """Captions generated by the decoder, after fine-tuning on the training part's."""

    task: Literal["captioning"]
    beams: int = Field(default=3, ge=1, le=16)
    """Width of the beam search (BLIP's 3)."""


class VqaRow(VqaSettings, LanguageRow):
    """Six kinds of questions, after fine-tuning on them, or asked of a general language model."""

    task: Literal["vqa"]
    answer_by: Literal["rank", "write"] = "rank"
    """`rank`: of the kind's answers in the training part, the likeliest by the decoder; `write`: the decoder
    generates it (decisions.md, "VQA answers")."""
    beams: int = Field(default=3, ge=1, le=16)
    """Width of the beam search."""
    questions_per_kind: int = Field(default=0, ge=0)
    """Number of test questions of each kind, drawn by the seed; 0 for all. Requests to language models cost
    money."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Concurrent requests to a language model."""
    image_px: int = Field(default=512, ge=32, le=4096)
    """Longer side of the picture that a language model is sent, at most."""


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
    """Number of best candidates by ITC that ITM re-ranks (decisions.md); 0 skips the re-ranking."""
