"""The settings of `fusar-klip build`."""

from typing import Literal

from pydantic import Field

from fusar_klip.config import Settings

PixelKind = Literal["auto", "amplitude", "intensity", "db", "complex"]
MappingMethod = Literal["mean_multiple", "percentile", "db"]


class SceneSettings(Settings):
    """How a scene is read, and what is known of it better than its file says."""

    band: int | str | None = None
    """The raster band to cut: its number from 1, or its name such as VV. Needed where there are several."""
    kind: PixelKind = "auto"
    """What a pixel is. `auto`: complex by type, dB where the median is negative, else amplitude."""
    platform: str | None = None
    """The platform's name, where neither tags nor file name tell it."""
    polarization: str | None = None
    """Transmit and receive polarization such as HH, where neither tags nor file name tell it."""


class MappingSettings(Settings):
    """The one mapping of a scene's amplitude to 8 bits (paper 3.1, step 2). 8-bit scenes pass unmapped."""

    method: MappingMethod = "mean_multiple"
    """What the brightest value stands for: a multiple of the scene's mean amplitude, a percentile, or dB."""
    multiple: float = Field(default=3.0, gt=0)
    """`mean_multiple`: the threshold as a multiple of the mean amplitude of the valid pixels."""
    percentile: float = Field(default=99.0, gt=0, le=100)
    """`percentile`: the threshold as a percentile of the amplitude, from a histogram of 1 % wide bins."""
    db_range: float = Field(default=40.0, gt=0)
    """`db`: the dynamic range under the threshold (of `percentile`) that the 255 values span, in dB."""
    gamma: float = Field(default=1.0, gt=0)
    """`mean_multiple` and `percentile`: exponent of the amplitude; under 1 brightens the dark."""


class TilingSettings(Settings):
    """Spatial resolution consistency (paper 3.1, step 3): the same ground extent for every sensor."""

    small_extent_m: float = Field(default=256.0, gt=0)
    """Ground extent of a small tile in metres; doubled until it has `min_pixels`. Medium = 2x, large = 4x."""
    min_pixels: int = Field(default=224, ge=16)
    """The least side of a small tile in pixels: the input of the model."""
    min_valid_fraction: float = Field(default=0.25, gt=0, le=1)
    """A tile with a smaller share of valid pixels is left out, unless a tile inside it is kept."""


class SplitSettings(Settings):
    """Shares of the ground groups that go into validation and test; the rest is for training."""

    val: float = Field(default=0.1, ge=0, lt=1)
    """Share of validation."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of test."""


class BuildSettings(Settings):
    """All settings of a build. Those of `scene` may differ from scene to scene, the others may not."""

    scene: SceneSettings = SceneSettings()
    """How scenes are read."""
    mapping: MappingSettings = MappingSettings()
    """Amplitude to 8 bits."""
    tiling: TilingSettings = TilingSettings()
    """Tile sizes and borders."""
    split: SplitSettings = SplitSettings()
    """Train, validation and test."""
