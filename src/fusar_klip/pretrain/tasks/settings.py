"""The settings of MAE and MoCo v3; the defaults are their papers', where these suit SAR amplitude."""

from typing import Literal

from pydantic import Field

from fusar_klip.config import Settings

Flips = Literal["none", "horizontal", "all"]


class ViewSettings(Settings):
    """Augmentation of a tile.

    MoCo v3's colour jitter, greyscale, blur and solarisation are not used: a single channel has no colour,
    and blur would remove the speckle.
    """

    crop_min: float = Field(default=1.0, gt=0, le=1)
    """Least share of a tile's area that a view shows: a square anywhere in it, resized; 1 shows all of it."""
    gain: float = Field(default=0.0, ge=0, lt=1)
    """A view's amplitude is multiplied by a factor drawn from 1 - gain to 1 + gain."""
    speckle: float = Field(default=0.0, ge=0, le=1)
    """Relative standard deviation of the multiplicative gamma noise (mean 1) on each pixel's amplitude; the
    amplitude of L looks has 0.52 / sqrt(L). 0 adds none."""
    flips: Flips = "none"
    """`horizontal`: half of the views are mirrored; `all`: also turned by quarters. Either changes look
    direction, shadow and layover."""


class MaeSettings(ViewSettings):
    """Masked autoencoder (He et al. 2022, arXiv 2111.06377)."""

    crop_min: float = Field(default=0.2, gt=0, le=1)
    """Least share of a tile's area that a view shows: a square anywhere in it, resized; 1 shows all of it."""
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    """Share of the patches that is masked, the same number in each tile."""
    decoder_depth: int = Field(default=8, ge=1)
    """Blocks of the decoder."""
    decoder_width: int | None = Field(default=None, ge=32, multiple_of=32)
    """Width of the decoder, 32 per head. The default is two thirds of the image tower's width, at most
    512: MAE's 512 for ViT-B and ViT-L."""
    normalise_pixels: bool = True
    """Predict each patch's pixels standardised by the patch's mean and standard deviation."""


class MocoV3Settings(ViewSettings):
    """Momentum contrast of two views (Chen et al. 2021, arXiv 2104.02057)."""

    crop_min: float = Field(default=0.08, gt=0, le=1)
    """Least share of a tile's area that a view shows: a square anywhere in it, resized; 1 shows all of it."""
    gain: float = Field(default=0.3, ge=0, lt=1)
    """A view's amplitude is multiplied by a factor drawn from 1 - gain to 1 + gain."""
    speckle: float = Field(default=0.2, ge=0, le=1)
    """Relative standard deviation of the multiplicative gamma noise (mean 1) on each pixel's amplitude; the
    amplitude of L looks has 0.52 / sqrt(L). 0 adds none."""
    temperature: float = Field(default=0.2, gt=0)
    """Temperature tau of the contrastive loss."""
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """EMA momentum of the momentum encoder at the first step; it rises to 1 along half a cosine."""
    hidden_width: int = Field(default=4096, ge=8)
    """Hidden width of projector and predictor."""
    feature_width: int = Field(default=256, ge=2)
    """Width of the contrasted features."""
    fixed_patches: bool = True
    """Freeze the patch projection: training it makes ViTs unstable."""
