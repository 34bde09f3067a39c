"""The architecture of a model, and the presets."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from fusar_klip.config import Settings

ModelName = Literal["tiny", "small", "vit_b", "vit_l"]

MAX_POSITIONS = 512
"""Rows of the text side's position embedding: as in BERT, so that BERT's weights fit."""


class ModelSettings(Settings):
    """The sizes of both towers. Fusion and decoder have the text tower's depth and width (BLIP)."""

    image_size: int = Field(default=224, ge=16)
    """Side of the square input in pixels (paper 4.1)."""
    patch_size: int = Field(default=16, ge=2)
    """Side of a ViT patch in pixels."""
    image_width: int = Field(default=768, ge=8)
    """Width of the image tower."""
    image_depth: int = Field(default=12, ge=1)
    """Transformer blocks of the image tower."""
    image_heads: int = Field(default=12, ge=1)
    """Attention heads of the image tower."""
    image_pre_norm: bool = False
    """Whether a norm stands before the image tower's first block, as in CLIP; patches have no bias then."""
    image_activation: Literal["gelu", "quick_gelu"] = "gelu"
    """Of the image tower's MLPs; OpenAI's CLIP was trained with `quick_gelu`, x * sigmoid(1.702 x)."""
    text_width: int = Field(default=768, ge=8)
    """Width of the text tower, the fusion encoder and the decoder."""
    text_depth: int = Field(default=12, ge=1)
    """Transformer layers of the text tower, fusion layers counted."""
    text_heads: int = Field(default=12, ge=1)
    """Attention heads of the text tower."""
    text_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of the text side (BERT's 0.1)."""
    embed_dim: int = Field(default=256, ge=2)
    """Length of the vectors that image and text share."""
    max_tokens: int = Field(default=160, ge=32, le=MAX_POSITIONS // 2)
    """Longest text in tokens, [CLS] and separators counted (decisions.md, "Text length")."""

    fusion_layers: int | None = Field(default=None, ge=1)
    """Number of last text layers with cross-attention to the image, which start from the states of the text
    alone (ALBEF). None: all layers have it, and the text alone passes all layers too (BLIP)."""
    gsd_embedding: bool = False
    """Whether each image's ground spacing is an input of the image tower."""

    @property
    def text_only_layers(self) -> int:
        """Number of layers that read a text alone."""
        return self.text_depth - (self.fusion_layers or 0)

    @property
    def cross_attention_layers(self) -> int:
        """Number of layers with cross-attention, the last ones."""
        return self.fusion_layers or self.text_depth

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        for whole, part in (
            ("image_size", "patch_size"),
            ("image_width", "image_heads"),
            ("text_width", "text_heads"),
        ):
            size, unit = getattr(self, whole), getattr(self, part)
            if size % unit:
                near = f"{max(size // unit, 1) * unit} or {(size // unit + 1) * unit}"
                raise ValueError(
                    f"{whole} must be a multiple of {part}, {unit}: use {near} instead of {size}"
                )
        if self.text_only_layers < 1:
            raise ValueError(f"fusion_layers must be smaller than text_depth, {self.text_depth}")
        return self


MODELS: Mapping[ModelName, ModelSettings] = {
    # Minutes on two cores.
    "tiny": ModelSettings(
        image_size=128,
        patch_size=16,
        image_width=128,
        image_depth=4,
        image_heads=4,
        text_width=128,
        text_depth=2,
        text_heads=4,
        text_dropout=0.0,
        embed_dim=128,
        max_tokens=128,
    ),
    # Hours on a workstation: ViT-S/16 and a BERT of half the width and depth.
    "small": ModelSettings(
        image_width=384, image_heads=6, text_width=384, text_depth=6, text_heads=6, text_dropout=0.0
    ),
    # The paper's: ViT-B/16 or ViT-L/16 with BERT-base.
    "vit_b": ModelSettings(),
    "vit_l": ModelSettings(image_width=1024, image_depth=24, image_heads=16),
}
"""The presets by name."""
