"""The settings of `fusar-klip build`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from fusar_klip.config import Settings

PixelKind = Literal["auto", "amplitude", "intensity", "db", "complex"]
MappingMethod = Literal["mean_multiple", "percentile", "db"]


class SceneSettings(Settings):
    """How a scene is read, and corrections of its metadata."""

    band: int | str | None = None
    """The raster band to read: its number from 1, or its name such as VV. Required if there are several."""
    kind: PixelKind = "auto"
    """The kind of pixel values. `auto`: from the product's metadata or the band's name; else complex by data
    type, dB if the median is negative, otherwise amplitude. `complex` with two real bands: real and imaginary
    part."""
    platform: str | None = None
    """The platform's name, if neither tags nor file name contain it."""
    polarization: str | None = None
    """Transmit and receive polarization such as HH: the one to read, if a product or file has several; else
    the scene's polarization, if neither tags nor file name contain it."""
    dem: Path | None = None
    """Elevation model for scenes that are geocoded by RPCs: any raster, metres above the ellipsoid."""
    height_m: float | None = Field(default=None, ge=-500, le=9000)
    """Mean height of the ground above the ellipsoid, for RPCs without `dem`. Default: their height offset."""
    gsd_m: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Ground spacing of a pixel in metres, only for scenes without georeference: they are tiled in pixels."""
    calibration: Literal["none", "sigma0"] = "none"
    """`sigma0`: first calibrate SAFE products with their look-up table."""
    resampling: Literal["nearest", "bilinear"] = "nearest"
    """Resampling of scenes that must be warped. `nearest` preserves the speckle statistics."""


class MappingSettings(Settings):
    """The mapping of a scene's amplitude to 8 bits (paper 3.1, step 2). 8-bit scenes are not changed."""

    method: MappingMethod = "mean_multiple"
    """The upper threshold: a multiple of the mean amplitude, a percentile, or a percentile and a dB range."""
    multiple: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """`mean_multiple`: the threshold as a multiple of the mean amplitude of the valid pixels."""
    percentile: float = Field(default=99.0, gt=0, le=100)
    """`percentile` and `db`: the threshold as a percentile of the valid pixels' amplitude."""
    db_range: float = Field(default=40.0, gt=0, allow_inf_nan=False)
    """`db`: the dynamic range under the threshold (of `percentile`) that the 255 values span, in dB."""
    gamma: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """`mean_multiple` and `percentile`: exponent of the amplitude; below 1, dark areas become brighter."""
    keep_float: bool = False
    """Write the unmapped amplitude of each tile as float32 beside it, as TILE_ID.float.tif."""


class TilingSettings(Settings):
    """Spatial resolution consistency, SRC (paper 3.1, step 3): the same ground extent for every sensor."""

    small_extent_m: float = Field(default=256.0, gt=0, allow_inf_nan=False)
    """Ground extent of a small tile in metres; doubled until it has `min_pixels`. Medium = 2x, large = 4x."""
    min_pixels: int = Field(default=224, ge=16)
    """Minimum side of a small tile in pixels: the input size of the model."""
    min_valid_fraction: float = Field(default=0.25, gt=0, le=1)
    """A tile with a smaller share of valid pixels is left out, unless a tile inside it is kept."""
    overlap: float = Field(default=0.0, ge=0, le=0.9)
    """Overlap of neighbouring tiles of a scale, as a share of the tile's side; 0: no overlap."""


class ScreeningSettings(Settings):
    """Which regions of a scene have enough semantic density to be kept (paper 3.1, step 1)."""

    mode: Literal["off", "mark", "drop"] = "mark"
    """Tiles of sparse regions: `mark` writes them with kept = false, `drop` leaves them out."""
    threshold: float = Field(default=0.25, ge=0, le=1)
    """Minimum density (0 to 1) of a dense cell, and so of a dense tile."""
    min_share: float = Field(default=0.1, gt=0, le=1)
    """Share of a tile's valid cells that must be dense: a tile is as dense as its densest tenth."""
    areas: Path | None = None
    """Areas of interest: any vector file that GDAL reads. Tiles that intersect one are kept, dense or not."""
    gazetteer: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Tiles within this many km of a known airport or port are kept, dense or not; 0 turns this off."""


class QualitySettings(Settings):
    """Which tiles are good enough (paper 3.1, step 5)."""

    threshold: float = Field(default=0.5, ge=0, le=1)
    """Minimum quality (0 to 1) of a good tile: the share of its neighbours that are labelled good."""
    neighbours: int = Field(default=7, ge=1)
    """k of the k-nearest-neighbour filter."""
    weights: Literal["distance", "uniform"] = "distance"
    """Weights of the neighbours: the inverse of their distance, or uniform."""
    labels: Path | None = None
    """Your own labelled tiles: a CSV with the columns `tile` (tile_id or path) and `label` (good or bad)."""
    glcm_levels: int = Field(default=32, ge=2, le=255)
    """Grey levels of the co-occurrence matrices."""
    glcm_distances: tuple[PositiveInt, ...] = Field(default=(1, 2, 4), min_length=1)
    """Distances of the co-occurring pixels, in pixels; each in all four directions."""


class SplitSettings(Settings):
    """Shares of the groups of overlapping tiles for validation and test; the rest is for training."""

    val: float = Field(default=0.1, ge=0, lt=1)
    """Share of validation."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of test."""

    @model_validator(mode="after")
    def _at_most_all(self) -> "SplitSettings":
        if self.val + self.test > 1:
            raise ValueError("val and test sum to more than 1: give shares that sum to at most 1")
        return self


class BuildSettings(Settings):
    """All settings of a build. Those of `scene` may differ between scenes, the others may not."""

    scene: SceneSettings = SceneSettings()
    """How scenes are read."""
    mapping: MappingSettings = MappingSettings()
    """Amplitude to 8 bits."""
    tiling: TilingSettings = TilingSettings()
    """Tile sizes and borders."""
    screening: ScreeningSettings = ScreeningSettings()
    """Regions."""
    quality: QualitySettings = QualitySettings()
    """Quality."""
    split: SplitSettings = SplitSettings()
    """Train, validation and test."""
