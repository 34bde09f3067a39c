"""What stands where in a scene: areas, targets and point scatterers in metres, before any radar looks.

The local frame has its origin at the scene's centre, x to the east and **y to the south**, so that a point's
pixel is its offset from the upper left corner over the spacing. Headings are degrees clockwise from north.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

Rng: TypeAlias = np.random.Generator
XY: TypeAlias = tuple[float, float]
Kind: TypeAlias = Literal[
    "road", "sea", "lake", "field", "grass", "forest", "residential", "downtown", "industrial", "runway",
    "apron", "quay", "containers", "building", "rock", "hull", "airframe", "cargo", "bridge",
    "wake", "wake_edge", "parking",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class GroundArea:
    """A polygon with one kind of surface; later areas of a layout lie over earlier ones.

    Attributes:
        polygon: Outline in the local frame, metres.
        kind: What the surface is; `surfaces` knows how each kind looks.
        heading_deg: Direction of its grid: streets, furrows, container rows, the long wall of a building.
        pitch_m: Spacing of that grid along and across the heading.
        height_m: Height of what stands on it.
        gain_db: Its brightness against others of its kind.
        seed: Makes its inner pattern its own.
    """

    polygon: Polygon
    kind: Kind
    heading_deg: float = 0.0
    pitch_m: XY = (100.0, 60.0)
    height_m: float = 0.0
    gain_db: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class SimulatedTarget:
    """A ship or an aircraft.

    Attributes:
        category: "ship" or "aircraft".
        type_name: Class of the ship or type of the aircraft.
        outline: Outline as imaged: its plan, and the layover of what stands up on it.
        length_m: From end to end.
        width_m: Beam of a ship, span of an aircraft.
        body_m: Width of the hull or the fuselage.
        heading_deg: Direction of bow or nose.
        state: "moored", "anchored", "under way", "parked", "taxiing".
    """

    category: Literal["ship", "aircraft"]
    type_name: str
    outline: Polygon
    length_m: float
    width_m: float
    body_m: float
    heading_deg: float
    state: str


@dataclass
class SceneLayout:
    """All of a scene: areas in painter's order, targets, and point scatterers as (x, y, RCS in m^2)."""

    areas: list[GroundArea] = field(default_factory=list)
    targets: list[SimulatedTarget] = field(default_factory=list)
    points: list[NDArray[np.float64]] = field(default_factory=list)

    def add_points(self, x: NDArray[np.float64], y: NDArray[np.float64], rcs_m2: NDArray[np.float64]) -> None:
        """Add point scatterers, each (N,) float64."""
        self.points.append(np.stack([x, y, rcs_m2], axis=1))

    def scatterers(self) -> NDArray[np.float64]:
        """Return all point scatterers, (N, 3): x, y in metres, radar cross-section in m^2."""
        return np.concatenate(self.points) if self.points else np.zeros((0, 3))


@dataclass(frozen=True)
class Frame:
    """Local axes of an airport, a harbour or a ship: `along` its heading and `right` of it, metres."""

    x: float
    y: float
    heading_deg: float

    def point(self, along: float, right: float) -> XY:
        """Return a point of this frame in the scene's frame."""
        sin, cos = math.sin(math.radians(self.heading_deg)), math.cos(math.radians(self.heading_deg))
        return self.x + along * sin + right * cos, self.y - along * cos + right * sin

    def points(
        self, along: NDArray[np.float64], right: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return many points of this frame in the scene's frame."""
        sin, cos = math.sin(math.radians(self.heading_deg)), math.cos(math.radians(self.heading_deg))
        return self.x + along * sin + right * cos, self.y - along * cos + right * sin

    def polygon(self, corners: Sequence[XY]) -> Polygon:
        """Return a polygon given by (along, right) corners."""
        return Polygon([self.point(*corner) for corner in corners])

    def rectangle(self, along: XY, right: XY) -> Polygon:
        """Return the rectangle between two values along and two values to the right."""
        (a0, a1), (r0, r1) = along, right
        return self.polygon([(a0, r0), (a1, r0), (a1, r1), (a0, r1)])

    def turned(self, along: float, right: float, by_deg: float) -> "Frame":
        """Return a frame whose origin lies at a point of this one, turned clockwise."""
        return Frame(*self.point(along, right), (self.heading_deg + by_deg) % 360)


def seed_of(rng: Rng) -> int:
    """Draw a seed for an area's inner pattern."""
    return int(rng.integers(1, 2**31))
