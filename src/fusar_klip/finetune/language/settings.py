"""Settings of fine-tuning on images with texts, with the presets `paper` (table 5) and `recommended`."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fusar_klip.finetune.settings import PresetValues, TrainingSettings

Loss = Literal["itc", "itm", "mlm"]

# Table 5: losses, tokens, epochs, rate, AdamW. What it leaves out is BLIP's: batch 32, weight decay 0.05, a
# cosine without warm-up, three beams.
_PAPER = {"batch_size": 32, "warmup_epochs": 0.0, "weight_decay": 0.05, "layer_decay": 1.0, "epochs": 12}
# For hundreds of images and models that were not pretrained on 120,000: more steps at higher rates.
_SMALL = {"batch_size": 16, "warmup_epochs": 1.0, "weight_decay": 0.05, "layer_decay": 1.0}

RETRIEVAL_PRESETS: PresetValues = {
    "paper": {**_PAPER, "learning_rate": 1e-5, "tokens": 35, "losses": ("itc", "itm")},
    "recommended": {**_SMALL, "epochs": 40, "learning_rate": 3e-4, "tokens": 64, "losses": ("itc", "itm")},
}
CAPTIONING_PRESETS: PresetValues = {
    "paper": {**_PAPER, "learning_rate": 1e-5, "tokens": 100, "losses": ("itc", "itm", "mlm")},
    "recommended": {**_SMALL, "epochs": 40, "learning_rate": 3e-4, "tokens": 100, "losses": ("mlm",)},
}
VQA_PRESETS: PresetValues = {
    "paper": {**_PAPER, "learning_rate": 2e-5, "tokens": 35, "losses": ("itc", "itm", "mlm")},
    "recommended": {**_SMALL, "epochs": 12, "learning_rate": 3e-4, "tokens": 64, "losses": ("mlm",)},
}


class LanguageSettings(TrainingSettings):
    """Fine-tuning of a copy of the whole model on captions or questions."""

    REQUIRED_LOSS: ClassVar[Loss]
    """The loss without which the task is not learned."""
    batch_size: int = Field(ge=2)
    """Images per step, with one text each."""
    tokens: int = Field(ge=8, le=256)
    """Longest text in tokens; longer texts are truncated."""
    losses: Annotated[tuple[Loss, ...], Field(min_length=1)]
    """The losses, in equal weights: image-text contrast, matching, and text generation (the paper's MLM)."""
    text_side: str | None = None
    """A RUN whose text tower, fusion and decoder, randomly initialised, are put behind the image tower of a
    model that has none of its own (a published image model). Its vocabulary is used too."""
    fresh_text_side: bool = False
    """Initialise every model's text side at random, so that image towers alone are compared."""

    @model_validator(mode="after")
    def _can_be_trained(self) -> Self:
        if self.REQUIRED_LOSS not in self.losses:
            raise ValueError(
                f"losses need {self.REQUIRED_LOSS}: without it the task's answers are not learnt"
            )
        return self


class RetrievalSettings(LanguageSettings):
    """Fine-tuning for retrieval between images and their captions."""

    PRESETS: ClassVar[PresetValues] = RETRIEVAL_PRESETS
    REQUIRED_LOSS: ClassVar[Loss] = "itc"


class CaptioningSettings(LanguageSettings):
    """Fine-tuning of the decoder on captions."""

    PRESETS: ClassVar[PresetValues] = CAPTIONING_PRESETS
    REQUIRED_LOSS: ClassVar[Loss] = "mlm"


class VqaSettings(LanguageSettings):
    """Fine-tuning of the decoder on questions and answers."""

    PRESETS: ClassVar[PresetValues] = VQA_PRESETS
    REQUIRED_LOSS: ClassVar[Loss] = "mlm"
