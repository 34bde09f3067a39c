"""The settings of `fusar-klip build`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from fusar_klip.config import Settings

PixelKind = Literal["auto", "amplitude", "intensity", "db", "complex"]
MappingMethod = Literal["mean_multiple", "percentile", "db"]


class SceneSettings(Settings):
    """How a scene is read, and what is known of it better than its file says."""

    band: int | str | None = None
    """The raster band to cut: its number from 1, or its name such as VV. Needed where there are several."""
    kind: PixelKind = "auto"
    """What a pixel is. `auto`: as the product's metadata or the band's name says, else complex by type, dB
    where the median is negative, and amplitude. `complex` on two real-valued bands: real and imaginary."""
    platform: str | None = None
    """The platform's name, where neither tags nor file name tell it."""
    polarization: str | None = None
    """Transmit and receive polarization such as HH: the one to read where a product or file holds several,
    else what is true where neither tags nor file name tell it."""
    dem: Path | None = None
    """Height model for scenes that are placed by RPCs: any raster, heights in metres above the ellipsoid."""
    height_m: float | None = Field(default=None, ge=-500, le=9000)
    """Mean height of the ground above the ellipsoid, for RPCs without `dem`. Default: their height offset."""
    gsd_m: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Ground spacing of a pixel, only for scenes without any geo-reference: they are cut by pixels."""
    calibration: Literal["none", "sigma0"] = "none"
    """`sigma0`: calibrate SAFE products with their look-up table before anything else."""
    resampling: Literal["nearest", "bilinear"] = "nearest"
    """How scenes are warped that need it. `nearest` keeps the statistics of speckle."""


class MappingSettings(Settings):
    """The one mapping of a scene's amplitude to 8 bits (paper 3.1, step 2). 8-bit scenes pass unmapped."""

    method: MappingMethod = "mean_multiple"
    """What the brightest value stands for: a multiple of the scene's mean amplitude, a percentile, or dB."""
    multiple: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """`mean_multiple`: the threshold as a multiple of the mean amplitude of the valid pixels."""
    percentile: float = Field(default=99.0, gt=0, le=100)
    """`percentile` and `db`: the threshold as a percentile of the valid pixels' amplitude."""
    db_range: float = Field(default=40.0, gt=0, allow_inf_nan=False)
    """`db`: the dynamic range under the threshold (of `percentile`) that the 255 values span, in dB."""
    gamma: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """`mean_multiple` and `percentile`: exponent of the amplitude; under 1 brightens the dark."""
    keep_float: bool = False
    """Write the unmapped amplitude of each tile as float32 beside it, as TILE_ID.float.tif."""


class TilingSettings(Settings):
    """Spatial resolution consistency (paper 3.1, step 3): the same ground extent for every sensor."""

    small_extent_m: float = Field(default=256.0, gt=0, allow_inf_nan=False)
    """Ground extent of a small tile in metres; doubled until it has `min_pixels`. Medium = 2x, large = 4x."""
    min_pixels: int = Field(default=224, ge=16)
    """The least side of a small tile in pixels: the input of the model."""
    min_valid_fraction: float = Field(default=0.25, gt=0, le=1)
    """A tile with a smaller share of valid pixels is left out, unless a tile inside it is kept."""
    overlap: float = Field(default=0.0, ge=0, le=0.9)
    """Share of a tile's side that the next tile of its scale repeats; 0 puts them side by side."""


class ScreeningSettings(Settings):
    """Which regions of a scene are dense enough in meaning to be kept (paper 3.1, step 1)."""

    mode: Literal["off", "mark", "drop"] = "mark"
    """What becomes of a sparse region's tiles: `mark` cuts them with kept = false, `drop` leaves them out."""
    threshold: float = Field(default=0.25, ge=0, le=1)
    """Least density (0 to 1) of a dense cell, and so of a dense tile."""
    min_share: float = Field(default=0.1, gt=0, le=1)
    """Share of a tile's valid cells that must be dense: a tile is as dense as its densest tenth."""
    areas: Path | None = None
    """Areas of interest: any vector file that GDAL reads. Tiles that meet one are kept, dense or not."""
    gazetteer: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Tiles within so many km of a known airport or port are kept, dense or not; 0: nobody is asked."""


class QualitySettings(Settings):
    """Which tiles are good enough (paper 3.1, step 5)."""

    threshold: float = Field(default=0.5, ge=0, le=1)
    """Least quality (0 to 1) of a good tile: the share of the neighbours' votes that say good."""
    neighbours: int = Field(default=7, ge=1)
    """k: how many labelled tiles vote on one."""
    weights: Literal["distance", "uniform"] = "distance"
    """How the neighbours' votes count: by the inverse of their distance, or all the same."""
    labels: Path | None = None
    """Your own labelled tiles: a CSV with the columns `tile` (tile_id or path) and `label` (good or bad)."""
    glcm_levels: int = Field(default=32, ge=2, le=255)
    """Grey levels of the co-occurrence matrices."""
    glcm_distances: tuple[PositiveInt, ...] = Field(default=(1, 2, 4), min_length=1)
    """Distances of the co-occurring pixels, in pixels; all four directions each."""


class SplitSettings(Settings):
    """Shares of the ground groups that go into validation and test; the rest is for training."""

    val: float = Field(default=0.1, ge=0, lt=1)
    """Share of validation."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of test."""

    @model_validator(mode="after")
    def _at_most_all(self) -> "SplitSettings":
        if self.val + self.test > 1:
            raise ValueError(
                "val and test are more than all the ground together: give shares that sum to at most 1"
            )
        return self


class BuildSettings(Settings):
    """All settings of a build. Those of `scene` may differ from scene to scene, the others may not."""

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
