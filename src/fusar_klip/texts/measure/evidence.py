"""The evidence: measurements of one tile, from which rule-based texts and prompts are composed.

`measure_tile` fills these frozen dataclasses, `sentences` composes rule-based texts from them, and
`hcot.prompts` puts the same values into requests to a language model.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

CoverClass: TypeAlias = Literal["water", "smooth", "open_land", "built_up"]
"""`smooth`: dark ground, such as runways, aprons, roads and narrow water; `open_land`: land of moderate
backscatter without a density of strong scatterers (vegetation, bare ground, low houses at coarse spacing)."""
COVER_CLASSES: tuple[CoverClass, ...] = get_args(CoverClass)

TargetSetting: TypeAlias = Literal["open_water", "near_shore", "alongside", "dark_ground"]
"""Where a target stands; `near_shore`: under 150 m from land, `alongside`: touching it."""


@dataclass(frozen=True)
class Target:
    """One bright target.

    Attributes:
        row: Row of its centre, in pixels from the tile's upper edge.
        col: Column of its centre, in pixels from the tile's left edge.
        length_px: Extent along its axis, in pixels of the tile.
        width_px: Extent across its axis, in pixels of the tile.
        orientation_deg: Bearing of its axis, clockwise from north (from the tile's upper edge where the tile
            has no transform), 0 to 180; None if the target is too round or too small.
        contrast: Its mean value over that of its background.
        setting: Where it stands.
        touches_edge: Whether it reaches the tile's border or no data, so that it may be longer than measured.
    """

    row: float
    col: float
    length_px: float
    width_px: float
    orientation_deg: float | None
    contrast: float
    setting: TargetSetting
    touches_edge: bool


@dataclass(frozen=True)
class Cover:
    """Shares of the land-cover classes.

    Attributes:
        fractions: Share of each class in the valid area; sums to 1 (all 0 if no pixel is valid).
        by_region: The same in the 3 x 3 regions of the tile, row by row from the upper left.
        strong_fraction: Share of the valid area whose 50 m mean is over 1.5 times the median of the land.
        patches: Number of connected areas of built-up land of at least 5,000 m^2.
    """

    fractions: dict[CoverClass, float]
    by_region: tuple[dict[CoverClass, float], ...]
    strong_fraction: float
    patches: int


@dataclass(frozen=True)
class Waterline:
    """The boundary between water and land.

    Attributes:
        length_px: Its whole length, in pixels of the tile.
        straight_px: Length of its straight stretches of at least 150 m.
        quay_px: Length of those straight stretches that have built-up land behind them.
        bright_px: Length of those quays whose edge is over 1.35 times the median level of the land, as ships
            alongside, cranes and rows of containers give it.
        orientation_deg: Bearing of the longest straight stretch, 0 to 180; None if there is none.
    """

    length_px: float
    straight_px: float
    quay_px: float
    bright_px: float
    orientation_deg: float | None


@dataclass(frozen=True)
class Strip:
    """A long, dark, straight strip on land: a road, a runway, a canal; lengths in pixels of the tile."""

    row: float
    col: float
    length_px: float
    orientation_deg: float


@dataclass(frozen=True)
class Backscatter:
    """Statistics of the valid pixels' 8-bit amplitude; all 0 if none is valid.

    Attributes:
        mean: Mean grey level, 1 to 255.
        cv: Standard deviation over mean.
        enl: Equivalent number of looks of the tile's most homogeneous tenth, from amplitude:
            (0.5227 / cv)^2, where 0.5227 is the coefficient of variation of one-look Rayleigh amplitude.
        entropy_bits: Shannon entropy of the grey-level histogram, 0 to 8.
        relative_level: Mean over the median level of the scene's land.
        by_region: Mean grey level of the 3 x 3 regions of the tile, row by row from the upper left; 0 if
            most of the region has no data.
    """

    mean: float
    cv: float
    enl: float
    entropy_bits: float
    relative_level: float
    by_region: tuple[float, ...]


@dataclass(frozen=True)
class Evidence:
    """All measurements of one tile.

    Attributes:
        height: Rows of the tile.
        width: Columns of the tile.
        gsd_m: Ground spacing of a pixel in metres; None = not known.
        north_known: Whether orientations count from north; else from the tile's upper edge.
        valid_fraction: Share of pixels that are not 0.
        airfield: Whether the tile lies at an airport, so that dark areas are classified as aprons, not as
            water.
        backscatter: Statistics of the amplitude.
        cover: Land cover.
        targets: Bright targets on water or, at an airport, on dark ground, row by row.
        waterline: Boundary of water and land; None if there is no water or no land.
        strips: Long dark straight strips on land, longest first.
        dominant_deg: Bearing of the prevailing direction of edges on land, 0 to 180; None if there is
            none. A grid of blocks has a second direction across it.
    """

    height: int
    width: int
    gsd_m: float | None
    north_known: bool
    valid_fraction: float
    airfield: bool
    backscatter: Backscatter
    cover: Cover
    targets: tuple[Target, ...]
    waterline: Waterline | None
    strips: tuple[Strip, ...]
    dominant_deg: float | None
