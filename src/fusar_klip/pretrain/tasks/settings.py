"""The settings of the baselines; the defaults are their papers', where they fit one channel of amplitude."""

from typing import Literal

from pydantic import Field

from fusar_klip.config import Settings

Flips = Literal["none", "horizontal", "all"]


class ViewSettings(Settings):
    """How a tile is changed before the image tower sees it.

    Of MoCo v3's changes colour jitter, grey, blur and solarisation have no place: one channel has no colour,
    and blur would take the speckle away.
    """

    crop_min: float = Field(default=1.0, gt=0, le=1)
    """Least share of a tile's area that a view shows: a square anywhere in it, resized; 1 shows all of it."""
    gain: float = Field(default=0.0, ge=0, lt=1)
    """A view's amplitude is multiplied by a factor drawn from 1 - gain to 1 + gain."""
    speckle: float = Field(default=0.0, ge=0, le=1)
    """Relative spread of gamma noise of mean 1, by which each pixel's amplitude is multiplied; the amplitude
    of L looks has 0.52 / sqrt(L). 0 draws none."""
    flips: Flips = "none"
    """`horizontal`: half of the views are mirrored; `all`: also turned by quarters. Either changes look
    direction, shadow and layover."""


class MaeSettings(ViewSettings):
    """Masked autoencoder (He et al. 2022, arXiv 2111.06377)."""

    crop_min: float = Field(default=0.2, gt=0, le=1)
    """Least share of a tile's area that a view shows: a square anywhere in it, resized; 1 shows all of it."""
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    """Share of the patches that is hidden, the same number in each tile."""
    decoder_depth: int = Field(default=8, ge=1)
    """Blocks of the decoder."""
    decoder_width: int | None = Field(default=None, ge=32, multiple_of=32)
    """Width of the decoder, 32 per head. Without it two thirds of the image tower's, 512 at most: MAE's 512
    for ViT-B and ViT-L."""
    normalise_pixels: bool = True
    """Each patch's pixels are predicted standardised by the patch's own mean and spread."""


class MocoV3Settings(ViewSettings):
    """Momentum contrast of two views (Chen et al. 2021, arXiv 2104.02057)."""

    crop_min: float = Field(default=0.08, gt=0, le=1)
    """Least share of a tile's area that a view shows: a square anywhere in it, resized; 1 shows all of it."""
    gain: float = Field(default=0.3, ge=0, lt=1)
    """A view's amplitude is multiplied by a factor drawn from 1 - gain to 1 + gain."""
    speckle: float = Field(default=0.2, ge=0, le=1)
    """Relative spread of gamma noise of mean 1, by which each pixel's amplitude is multiplied; the amplitude
    of L looks has 0.52 / sqrt(L). 0 draws none."""
    temperature: float = Field(default=0.2, gt=0)
    """tau of the contrast."""
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """Share of its own weights that the momentum encoder keeps at the first step; it rises to 1 along half a
    cosine."""
    hidden_width: int = Field(default=4096, ge=8)
    """Width within projector and predictor."""
    feature_width: int = Field(default=256, ge=2)
    """Length of the features that are contrasted."""
    fixed_patches: bool = True
    """Leave the patch projection as it was drawn or loaded: learnt, it makes ViTs unstable."""
