"""The rows of the language tasks, with table 5 of the paper as preset `paper`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from fusar_klip.benchmark.settings import FinetunePreset, SplitRow, TrainedRow
from fusar_klip.datasets.label_texts.label_texts import TextSettings
from fusar_klip.datasets.registry import DetectionReader, SegmentationReader

Loss = Literal["itc", "itm", "mlm"]

# Table 5: losses, tokens, epochs, rate, AdamW. What it leaves out is BLIP's: batch 32, weight decay 0.05, a
# cosine without warm-up, three beams.
_PAPER = {"batch_size": 32, "warmup_epochs": 0.0, "weight_decay": 0.05, "layer_decay": 1.0, "epochs": 12}
# For hundreds of images and models that were not pretrained on 120,000: more steps at higher rates.
_SMALL = {"batch_size": 16, "warmup_epochs": 1.0, "weight_decay": 0.05, "layer_decay": 1.0}

RETRIEVAL_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {**_PAPER, "learning_rate": 1e-5, "tokens": 35, "losses": ("itc", "itm")},
    "recommended": {**_SMALL, "epochs": 40, "learning_rate": 3e-4, "tokens": 64, "losses": ("itc", "itm")},
}
CAPTION_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {**_PAPER, "learning_rate": 1e-5, "tokens": 100, "losses": ("itc", "itm", "mlm")},
    "recommended": {**_SMALL, "epochs": 40, "learning_rate": 3e-4, "tokens": 100, "losses": ("mlm",)},
}
VQA_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {**_PAPER, "learning_rate": 2e-5, "tokens": 35, "losses": ("itc", "itm", "mlm")},
    "recommended": {**_SMALL, "epochs": 12, "learning_rate": 3e-4, "tokens": 64, "losses": ("mlm",)},
}


class LanguageRow(SplitRow, TrainedRow, TextSettings):
    """A row on captions and questions, for which a copy of the whole model is fine-tuned."""

    NEEDED: ClassVar[Loss]
    """The loss without which the task is not learnt."""
    preset: FinetunePreset = "recommended"
    reader: DetectionReader | SegmentationReader | Literal["label_texts"]
    """A reader of boxes or masks, from which texts are built; or `label_texts`: `path` is a folder that
    `fusar-klip label-texts` wrote, whose parts are taken as they are."""
    batch_size: int = Field(ge=2)
    """Images per step, with one text each."""
    tokens: int = Field(ge=8, le=256)
    """Longest text in tokens; what is longer is cut."""
    losses: Annotated[tuple[Loss, ...], Field(min_length=1)]
    """What is trained, in equal weights: image-text contrast, matching, and writing (the paper's MLM)."""
    text_side: str | None = None
    """A RUN whose text tower, fusion and decoder, with fresh weights, are put behind the image tower of a
    model that has none of its own (the zoo's). Its vocabulary is taken along."""
    fresh_text_side: bool = False
    """Give fresh weights to every model's text side, so that image towers alone are compared."""

    save: bool = False
    """Keep the fine-tuned model as a RUN in RESULTS/models, for `fusar-klip caption` and `ask`."""

    @model_validator(mode="after")
    def _can_be_trained(self) -> "LanguageRow":
        if self.NEEDED not in self.losses:
            raise ValueError(f"losses need {self.NEEDED}: without it the task's answers are not learnt")
        return self


class LabelRetrievalRow(LanguageRow):
    """Retrieval between images and their captions, both ways, after fine-tuning on the training part's."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = RETRIEVAL_PRESETS
    NEEDED: ClassVar[Loss] = "itc"
    task: Literal["label_retrieval"]
    recall_at: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5, 10)
    """The K of recall at K."""
    shortlist: int = Field(default=256, ge=0)
    """So many best candidates by ITC are ranked again by ITM (decisions.md); 0 leaves the second pass out."""


class CaptioningRow(LanguageRow):
    """Captions written by the decoder, after fine-tuning on the training part's."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = CAPTION_PRESETS
    NEEDED: ClassVar[Loss] = "mlm"
    task: Literal["captioning"]
    beams: int = Field(default=3, ge=1, le=16)
    """Captions kept in play while writing (BLIP's 3)."""


class VqaRow(LanguageRow):
    """Six kinds of questions, after fine-tuning on them, or asked of a general language model."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = VQA_PRESETS
    NEEDED: ClassVar[Loss] = "mlm"
    task: Literal["vqa"]
    answer_by: Literal["rank", "write"] = "rank"
    """`rank`: of the kind's answers in the training part, the one that the decoder finds likeliest; `write`:
    the decoder writes it (decisions.md, "VQA answers")."""
    beams: int = Field(default=3, ge=1, le=16)
    """Answers kept in play while writing."""
    questions_per_kind: int = Field(default=0, ge=0)
    """So many test questions of each kind, drawn by the seed; 0 for all. Requests to language models cost."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests to a language model in flight at the same time."""
    image_px: int = Field(default=512, ge=32, le=4096)
    """Longer side of the picture that a language model is sent, at most."""
