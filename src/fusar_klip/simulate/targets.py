"""Ships and aircraft: sizes of real types, and where on them a radar sees its points.

Aircraft are sparse: "symmetrical linear strong scattering points" (paper, figure 8) along the fuselage,
with wing roots, engines and tail. Ships are elongated clusters: the near-side gunwale, bow and stern,
deck gear at regular distances, and a superstructure that lays over towards the radar.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shapely import MultiPoint, Polygon

from fusar_klip.simulate.layout import Frame, GroundArea, Rng, SceneLayout, SimulatedTarget, seed_of
from fusar_klip.simulate.projection import Geometry

Array = NDArray[np.float64]


@dataclass(frozen=True)
class AircraftType:
    """Dimensions of an aircraft in metres; `engine_spans` are positions of engines on the half-span."""

    name: str
    length_m: float
    span_m: float
    fuselage_m: float
    engine_spans: tuple[float, ...]
    share: float


AIRCRAFT: Sequence[AircraftType] = (
    AircraftType("Boeing 737", 39.5, 35.8, 3.8, (0.28,), 0.27),
    AircraftType("A320", 37.6, 35.8, 4.0, (0.32,), 0.27),
    AircraftType("A220", 38.7, 35.1, 3.5, (0.30,), 0.10),
    AircraftType("ARJ21", 33.5, 27.3, 3.3, (), 0.10),
    AircraftType("A330", 63.7, 60.3, 5.6, (0.31,), 0.14),
    AircraftType("Boeing 787", 62.8, 60.1, 5.8, (0.32,), 0.08),
    AircraftType("Boeing 747", 70.7, 64.4, 6.5, (0.36, 0.64), 0.04),
)
"""The types of SAR-AIRcraft-1.0, and the 747 of the freight aprons; `share` is how often they come."""


@dataclass(frozen=True)
class ShipClass:
    """A class of ships: range of lengths in metres, length over beam, and what stands on deck."""

    name: str
    length_m: tuple[float, float]
    slenderness: float
    bridge: float
    """Where the superstructure stands, from 0 (stern) to 1 (bow)."""
    bridge_height_m: float
    deck: str
    share: float


SHIPS: Sequence[ShipClass] = (
    ShipClass("container ship", (140.0, 330.0), 6.8, 0.22, 22.0, "containers", 0.20),
    ShipClass("bulk carrier", (120.0, 290.0), 6.2, 0.08, 18.0, "hatches", 0.22),
    ShipClass("tanker", (100.0, 280.0), 6.0, 0.08, 18.0, "pipes", 0.20),
    ShipClass("general cargo ship", (60.0, 140.0), 6.0, 0.10, 12.0, "hatches", 0.18),
    ShipClass("fishing vessel", (20.0, 50.0), 4.2, 0.55, 5.0, "plain", 0.12),
    ShipClass("tug", (20.0, 35.0), 2.9, 0.60, 6.0, "plain", 0.08),
)
"""Merchant classes and the small craft around them."""


def pick(rng: Rng, kinds: Sequence[AircraftType], longest_m: float) -> AircraftType:
    """Draw a type by its share, among those that fit a stand."""
    fitting = [kind for kind in kinds if kind.length_m <= longest_m]
    shares = np.array([kind.share for kind in fitting])
    return fitting[int(rng.choice(len(fitting), p=shares / shares.sum()))]


def pick_ship(rng: Rng, longest_m: float, deck: str | None = None) -> tuple[ShipClass, float]:
    """Draw a class by its share and a length, both fit for a berth of `longest_m`."""
    fitting = [c for c in SHIPS if c.length_m[0] <= longest_m and deck in (None, c.deck)] or [SHIPS[-1]]
    shares = np.array([c.share for c in fitting])
    chosen = fitting[int(rng.choice(len(fitting), p=shares / shares.sum()))]
    low, high = chosen.length_m[0], min(chosen.length_m[1], longest_m)
    return chosen, float(rng.uniform(low, max(low, high)))


def add_aircraft(layout: SceneLayout, rng: Rng, nose: Frame, kind: AircraftType, state: str) -> None:
    """Stand an aircraft with its nose at the frame's origin, pointing along the frame's heading."""
    length, half = kind.length_m, kind.span_m / 2
    root, tip = -0.40 * length, -0.62 * length  # leading edge of the wing at the root and at the tip
    points: list[tuple[Array, Array, Array]] = []

    def line(start: tuple[float, float], end: tuple[float, float], step_m: float, rcs_m2: float) -> None:
        if rng.random() < 0.2:  # not every part answers in every look
            return
        n = max(2, round(math.dist(start, end) / step_m))
        t = np.sort(rng.uniform(0, 1, n))
        along = start[0] + t * (end[0] - start[0]) + rng.normal(0, 0.25, n)
        right = start[1] + t * (end[1] - start[1]) + rng.normal(0, 0.25, n)
        points.append((along, right, rcs_m2 * rng.exponential(1.0, n) ** 1.8))

    level = float(10 ** rng.normal(0.25, 0.3))  # angles of a few degrees change the whole target's strength
    broadside = _squareness(nose.heading_deg)
    line((-0.04 * length, 0), (-0.93 * length, 0), 3.0, 1.5 + 20 * broadside)
    for side in (-1, 1):
        # A leading edge flashes where it stands square to the radar; both edges glimmer otherwise.
        sweep = math.degrees(math.atan2(root - tip, half))
        edge = _squareness(nose.heading_deg + side * (90 + sweep))
        line((root, 0), (tip, side * half), 3.2, 0.8 + 14 * edge)
        line((-0.58 * length, side * 0.05 * half), (tip - 0.03 * length, side * half), 5.0, 0.6)
        line((-0.88 * length, 0), (-0.97 * length, side * 0.36 * half), 3.0, 2.0)
        for span in kind.engine_spans:
            inlet = root + (tip - root) * span + 0.03 * length
            line((inlet, side * span * half), (inlet - 3.0, side * span * half), 1.2, 28.0)
    if not kind.engine_spans:  # engines at the tail
        for side in (-1, 1):
            line((-0.78 * length, side * 0.07 * length), (-0.84 * length, side * 0.07 * length), 1.2, 25.0)
    line((root - 0.04 * length, 0), (root - 0.16 * length, 0), 1.4, 35.0)  # wing root and main gear
    line((-0.90 * length, 0), (-0.97 * length, 0), 1.5, 22.0)  # fin over the tail

    # Between the strong points glimmers what the fuselage and its stand reflect back and forth.
    n = round(kind.length_m)
    glimmer = (rng.uniform(-0.95, -0.05, n) * length, rng.normal(0, 0.9 * kind.fuselage_m, n))
    points.append((*glimmer, 0.6 * rng.exponential(1.0, n) ** 2))
    along, right, rcs = (np.concatenate(values) for values in zip(*points, strict=True))
    layout.add_points(*nose.points(along, right), rcs * level)
    outline = nose.polygon(_aircraft_plan(kind, root, tip))
    layout.areas.append(GroundArea(outline, "airframe", nose.heading_deg, gain_db=-9.0, seed=seed_of(rng)))
    layout.targets.append(
        SimulatedTarget(
            "aircraft", kind.name, outline, length, kind.span_m, kind.fuselage_m, nose.heading_deg, state
        )
    )


def add_ship(
    layout: SceneLayout,
    rng: Rng,
    middle: Frame,
    ship: ShipClass,
    length: float,
    state: str,
    geometry: Geometry,
) -> None:
    """Put a ship with its middle at the frame's origin and its bow along the frame's heading."""
    beam = length / ship.slenderness
    half, b = length / 2, beam / 2
    hull = middle.polygon(
        [(half, 0), (half - 0.10 * length, 0.8 * b), (half - 0.18 * length, b), (-half + 0.03 * length, b),
         (-half, 0.8 * b), (-half, -0.8 * b), (-half + 0.03 * length, -b), (half - 0.18 * length, -b),
         (half - 0.10 * length, -0.8 * b)]
    )  # fmt: skip
    # Weak ships are as common as strong ones: wood and plastics, and angles that send little back.
    level = float(10 ** rng.normal(-0.1, 0.45))
    x, y, rcs_m2 = _ship_points(rng, middle, ship, length, geometry)
    layout.add_points(x, y, rcs_m2 * level)
    layout.areas.append(
        GroundArea(hull, "hull", middle.heading_deg, gain_db=10 * math.log10(level), seed=seed_of(rng))
    )
    _add_superstructure(layout, rng, middle, ship, length, min(ship.bridge_height_m, 0.16 * length))
    imaged = MultiPoint([*hull.exterior.coords, *zip(x, y, strict=True)]).convex_hull
    assert isinstance(imaged, Polygon)
    layout.targets.append(
        SimulatedTarget("ship", ship.name, imaged, length, beam, beam, middle.heading_deg % 360, state)
    )


def add_wake(
    layout: SceneLayout, rng: Rng, ship: Frame, length: float, speed_mps: float, geometry: Geometry
) -> None:
    """Draw the dark turbulent wake and its bright edges.

    Motion in range shifts a ship in azimuth by (R / V) v_r, and its wake, which hardly moves, not at all:
    the "train off its track". R / V is about 100 s in a low orbit. What goes away from the radar is shifted
    against the flight direction, which is north for a radar that looks to the right and so to the east.
    """
    sin_east = math.sin(math.radians(ship.heading_deg))
    range_mps = speed_mps * sin_east * (1 if geometry.looks_east else -1)
    range_mps *= math.sin(math.radians(geometry.incidence_deg))
    flight_south = -1.0 if geometry.looks_east else 1.0
    true = Frame(ship.x, ship.y + 100.0 * range_mps * flight_south, ship.heading_deg)
    reach = speed_mps * rng.uniform(90, 200)
    width = length / 12
    trail = [(-length / 2, -width), (-length / 2, width), (-reach, 2.2 * width), (-reach, -2.2 * width)]
    layout.areas.append(
        GroundArea(true.polygon(trail), "wake", ship.heading_deg, gain_db=-4.0, seed=seed_of(rng))
    )
    for side in (-1, 1):
        if rng.random() < 0.7:
            arm = side * math.tan(math.radians(rng.uniform(2.5, 5.0)))
            near, far = -length / 2, -reach * rng.uniform(0.5, 0.9)
            edge = [
                (near, side * width),
                (far, arm * -far),
                (far, arm * -far + side * 5),
                (near, side * (width + 3)),
            ]
            layout.areas.append(
                GroundArea(true.polygon(edge), "wake_edge", ship.heading_deg, gain_db=5.0, seed=seed_of(rng))
            )


def _ship_points(
    rng: Rng, middle: Frame, ship: ShipClass, length: float, geometry: Geometry
) -> tuple[Array, Array, Array]:
    """Point scatterers of a ship as the radar sees them, laid over: x, y in metres, cross-section in m^2."""
    half, b = length / 2, length / ship.slenderness / 2
    density = length * 2 * b / 400  # larger ships carry more, not only stronger, scatterers
    parts: list[tuple[Array, Array, Array, Array]] = []

    def add(along: Array, right: Array, up: Array, rcs_m2: float) -> None:
        spread = rng.exponential(1.0, along.size) ** 1.7
        parts.append((along, right, up, rcs_m2 * spread))

    freeboard = 0.03 * length
    n = max(6, round(length / 3))
    side = 1.0 if _right_side_near(middle.heading_deg, geometry) else -1.0
    glint = _squareness(middle.heading_deg)
    add(rng.uniform(-half, 0.8 * half, n), np.full(n, side * 0.92 * b), np.zeros(n), 6 + 60 * glint)
    add(
        rng.uniform(-half, 0.8 * half, n // 2),
        np.full(n // 2, -side * 0.9 * b),
        np.full(n // 2, freeboard),
        5.0,
    )
    n = max(5, round(3 + 2 * density))
    at = -half + ship.bridge * length + 0.05 * length
    add(
        rng.normal(at, 0.025 * length, n),
        rng.uniform(-0.8 * b, 0.8 * b, n),
        rng.uniform(0.2, 1.0, n) * min(ship.bridge_height_m, 0.16 * length),
        90.0 + 0.6 * length,
    )
    add(np.array([0.94 * half, -0.96 * half]), np.zeros(2), np.full(2, freeboard), 60.0)
    gear_along, gear_right, gear_rcs_m2 = _deck(rng, ship, half, b)
    add(gear_along, gear_right, np.full(gear_along.size, freeboard), gear_rcs_m2)
    n = round(min(length * 2 * b / 7, 900))  # railings, winches, ladders: the grain of a deck
    add(rng.uniform(-half, 0.85 * half, n), rng.uniform(-b, b, n) * 0.95, np.full(n, freeboard), 0.8)

    along, right, up, rcs = (np.concatenate(values) for values in zip(*parts, strict=True))
    x, y = middle.points(along, right)
    towards_radar = -1.0 if geometry.looks_east else 1.0
    return x + towards_radar * up / math.tan(math.radians(geometry.incidence_deg)), y, rcs


def _add_superstructure(
    layout: SceneLayout, rng: Rng, middle: Frame, ship: ShipClass, length: float, height: float
) -> None:
    """The bridge as a block that lays over, and boxes on the deck of a container ship."""
    half, b = length / 2, length / ship.slenderness / 2
    heading, at = middle.heading_deg, -half + ship.bridge * length
    if ship.deck == "containers":
        for start, end in ((at + 0.08 * length, 0.8 * half), (-0.95 * half, at)):
            if end - start > 15:
                stow = middle.rectangle((start, end), (-0.85 * b, 0.85 * b))
                layout.areas.append(
                    GroundArea(stow, "cargo", heading, (400.0, 400.0), 0.7 * height, -2.0, seed_of(rng))
                )
    bridge = middle.rectangle((at, at + 0.06 * length), (-0.8 * b, 0.8 * b))
    layout.areas.append(GroundArea(bridge, "bridge", heading, (3.0, 3.0), height, 2.0, seed_of(rng)))


def _deck(rng: Rng, ship: ShipClass, half: float, b: float) -> tuple[Array, Array, float]:
    """What stands on deck between bridge and bow: along, right, and radar cross-section of each point."""
    if ship.deck == "hatches":  # coamings and cranes between the holds
        holds = np.linspace(-0.66 * half, 0.72 * half, max(3, round(half / 14)))
        along = np.repeat(holds, 3) + rng.normal(0, 0.8, holds.size * 3)
        return along, np.tile([-0.55 * b, 0.0, 0.55 * b], holds.size), 45.0
    if ship.deck == "pipes":  # the pipe rack along the middle, and the manifold across it
        n = max(8, round(half / 2.5))
        along = np.concatenate([rng.uniform(-0.7 * half, 0.85 * half, n), rng.normal(0.05 * half, 2.0, 8)])
        return along, np.concatenate([rng.normal(0, 0.06 * b, n), rng.uniform(-0.8 * b, 0.8 * b, 8)]), 22.0
    if ship.deck == "containers":  # bays of 14 m, some of them empty
        bays = np.arange(-0.85 * half, 0.8 * half, 14.0)
        bays = bays[rng.random(bays.size) < 0.85]
        along = np.repeat(bays, 6) + rng.normal(0, 1.0, bays.size * 6)
        return along, rng.uniform(-0.85 * b, 0.85 * b, along.size), 40.0
    n = 5
    return rng.uniform(-0.9 * half, 0.9 * half, n), rng.uniform(-0.7 * b, 0.7 * b, n), 12.0


def _squareness(line_heading_deg: float) -> float:
    """How squarely the sides of a line face the radar, 0 to 1: fully where it runs north, along the track."""
    off = (line_heading_deg + 90) % 180 - 90
    return math.exp(-((off / 7.0) ** 2))


def _right_side_near(heading_deg: float, geometry: Geometry) -> bool:
    """Whether the starboard side faces the radar, which stands west of what it looks at eastwards."""
    starboard_east = math.cos(math.radians(heading_deg))
    return (starboard_east < 0) == geometry.looks_east


def _aircraft_plan(kind: AircraftType, root: float, tip: float) -> list[tuple[float, float]]:
    """Outline of fuselage, wings and tailplane as (along, right), starboard first, then mirrored."""
    length, half, f = kind.length_m, kind.span_m / 2, kind.fuselage_m / 2
    starboard = [
        (0.0, 0.0), (-0.06 * length, f), (root, f), (tip, half), (tip - 0.04 * length, half),
        (root - 0.17 * length, f), (-0.86 * length, f), (-0.95 * length, 0.36 * half),
        (-0.985 * length, 0.36 * half), (-0.97 * length, 0.3 * f), (-length, 0.0),
    ]  # fmt: skip
    return [*starboard, *[(along, -right) for along, right in reversed(starboard[1:-1])]]
