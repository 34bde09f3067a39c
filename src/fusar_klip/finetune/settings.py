"""Training settings of fine-tuning: the schedule, presets, and the values of each task's training.

Every task has a settings class with two presets, `paper` (the paper's table 3 or 5) and `recommended`; the
preset gives each value that is not set. A row of a benchmark suite extends the class of its task, so these
fields are keys of a suite file. The settings of detection, segmentation and language stand beside their heads
(`detection/settings.py` and so on).
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fusar_klip.config import Settings

Preset = Literal["paper", "recommended"]
Flips = Literal["none", "horizontal", "all"]
Standardise = Literal["model", "chip"]
Decay = Literal["cosine", "multistep", "poly"]
"""How the learning rate falls after the warm-up: `cosine`, to 0; `multistep`, to a tenth from 3/4 and to a
hundredth from 11/12 of the steps on (epochs 27 and 33 of 36, MMDetection's "3x" schedule); `poly`,
(1 - share of the steps)^0.9 (Segmenter)."""

PresetValues = Mapping[str, Mapping[str, Any]]
"""The values of each preset, by its name. The presets of one task have the same keys."""

CLASSIFICATION_PRESETS: PresetValues = {
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


class TrainingSettings(Settings):
    """The schedule of one training, with the values of a preset where none is given."""

    PRESETS: ClassVar[PresetValues]
    preset: Preset = "recommended"
    """The name of the values below that are not given."""
    seed: int = Field(default=0, ge=0)
    """Fixes the initial weights of the head, the order of the images and the augmentation."""
    epochs: int = Field(ge=1)
    """Passes over the training part."""
    batch_size: int = Field(ge=1)
    """Images per step."""
    learning_rate: float = Field(gt=0)
    """AdamW's learning rate after the warm-up, at the head."""
    warmup_epochs: float = Field(ge=0)
    """Length of the linear warm-up, in epochs; fractions of an epoch are allowed."""
    weight_decay: float = Field(ge=0)
    """AdamW's decoupled weight decay; biases and norms have none."""
    layer_decay: float = Field(gt=0, le=1)
    """Layer-wise learning-rate decay: each layer has this share of the rate of the layer above; 1 turns it
    off."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**cls.PRESETS.get(values.get("preset", "recommended"), cls.PRESETS["recommended"]), **values}

    @property
    def preset_label(self) -> str:
        """The preset's name, and every value that differs from it, such as "recommended+epochs=20"."""
        given = self.PRESETS[self.preset]
        changed = [f"{key}={getattr(self, key)}" for key in given if getattr(self, key) != given[key]]
        return "+".join([self.preset, *changed])


class ClassificationSettings(TrainingSettings):
    """Full fine-tuning of the image tower with a linear head on its CLS feature."""

    PRESETS: ClassVar[PresetValues] = CLASSIFICATION_PRESETS
    batch_size: int = Field(ge=2)
    """Images per step."""
    label_smoothing: float = Field(ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    shift: float = Field(ge=0, lt=0.5)
    """Random shifts of up to this share of the image's side; pixels that enter the image are 0 (no data)."""
    gain: float = Field(ge=0, lt=1)
    """Random gain of the amplitude within 1 - gain to 1 + gain."""
    flips: Flips
    """Random flips: `horizontal` alone, or `all` eight flips and right-angle turns. They also mirror the look
    direction, so they are off unless a data set itself contains flipped chips."""
    standardise: Standardise
    """`model`: the pretrained model's mean and standard deviation; `chip`: then each chip to mean 0 and
    standard deviation 1, so that another product's gain and offset do not count."""
    centre: float = Field(gt=0, le=1)
    """Share of each chip's width and height that is used, around its centre, where the target is."""


class DenseSettings(TrainingSettings):
    """What detection and segmentation share: they train on whole images at random scales."""

    decay: Decay
    """How the learning rate falls after the warm-up: `cosine`, `multistep` or `poly`."""
    scales: Annotated[tuple[float, float], Field(min_length=2)]
    """Range of the random factor by which training images are resized (of segmentation: on top of `zoom`);
    what exceeds the input size is cropped."""
    gain: float = Field(ge=0, lt=1)
    """Random gain of the amplitude within 1 - gain to 1 + gain; the images before and after an event get the
    same gain."""
    flips: Flips
    """Random flips: `horizontal` alone, or `all` eight flips and right-angle turns."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 0 < self.scales[0] <= self.scales[1]:
            raise ValueError("scales must be two positive numbers, the smaller one first")
        return self
