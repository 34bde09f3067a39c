"""A harbour in plan: shore, terminals built out into the water, cranes, breakwater, and ships at berths."""

import numpy as np
from shapely import LineString, Point, Polygon

from fusar_klip.simulate.layout import Frame, GroundArea, Rng, SceneLayout, seed_of
from fusar_klip.simulate.projection import Geometry
from fusar_klip.simulate.targets import SHIPS, add_ship, pick_ship

_QUAY_M = 42.0  # from the water's edge to the yard: rails of the cranes
# Where the scene's centre lies in the harbour's frame.
_CENTRE_ALONG, _CENTRE_OUT = -150.0, 260.0


def shore(heading_deg: float) -> Frame:
    """Return the harbour's frame: along the shore, the sea to its right, a quay at the scene's centre."""
    return Frame(*Frame(0.0, 0.0, heading_deg).point(-_CENTRE_ALONG, -_CENTRE_OUT), heading_deg)


def boundary(frame: Frame, terminals: int) -> Polygon:
    """Return the ground and water that belong to the harbour."""
    half = terminals * 340.0
    return frame.rectangle((-half, half), (-260, 1000))


def add_harbour(layout: SceneLayout, rng: Rng, frame: Frame, terminals: int, geometry: Geometry) -> None:
    """Lay out `terminals` along the shore, each a finger of made ground with berths on both sides."""
    half = terminals * 340.0
    layout.areas.append(
        GroundArea(frame.rectangle((-half, half), (-260, 0)), "quay", frame.heading_deg, seed=seed_of(rng))
    )
    _yard(layout, rng, frame.turned(-half, -235, 0), 2 * half, 190, str(rng.choice(["sheds", "containers"])))
    kinds = ["containers", *rng.permutation(["containers", "tanks", "sheds", "bulk"])]
    # The first finger's side runs through the scene's centre; others follow on both sides of it.
    at, way = _CENTRE_ALONG + 10.0, 1
    for number in range(terminals):
        width, length = rng.uniform(260, 460), rng.uniform(380, 950)
        if way == 1 and at + width > half:
            at, way = _CENTRE_ALONG - rng.uniform(190, 330), -1
        if way == -1 and at - width < -half:
            break
        start = at if way == 1 else at - width
        # Along the finger lies the open sea, and to its right the way back along the shore.
        lean = 0.0 if number == 0 else rng.normal(0, 3.5)
        finger = frame.turned(start, 0, 90 + lean)
        _finger(layout, rng, finger, length, width, str(kinds[number % len(kinds)]), geometry)
        at += way * (width + rng.uniform(190, 330))
    _breakwater(layout, rng, frame, half)


def _finger(
    layout: SceneLayout, rng: Rng, frame: Frame, length: float, width: float, cargo: str, geometry: Geometry
) -> None:
    ground = frame.rectangle((-20, length), (-width, 0))
    layout.areas.append(GroundArea(ground, "quay", frame.heading_deg, seed=seed_of(rng)))
    _yard(layout, rng, frame.turned(25, -width + _QUAY_M, 0), length - 70, width - 2 * _QUAY_M, cargo)
    for side, edge in ((1, 0.0), (-1, -width)):
        if cargo == "containers":
            _cranes(layout, rng, frame, length, edge - side * 18.0)
        _bollards(layout, rng, frame, length, edge - side * 1.0)
        _berths(layout, rng, frame, length, edge, side, cargo, geometry)


def _berths(
    layout: SceneLayout, rng: Rng, frame: Frame, length: float, edge: float, side: int, cargo: str,
    geometry: Geometry,
) -> None:  # fmt: skip
    deck = {"containers": "containers", "tanks": "pipes", "bulk": "hatches"}.get(cargo)
    at = rng.uniform(20, 60)
    while at < length - 50:
        ship, long = pick_ship(rng, length - at - 10, deck if rng.random() < 0.8 else None)
        if rng.random() < 0.72:
            off = side * (long / ship.slenderness / 2 + rng.uniform(1.5, 5))
            middle = frame.turned(
                at + long / 2, edge + off, float(rng.choice([0.0, 180.0])) + rng.normal(0, 0.4)
            )
            add_ship(layout, rng, middle, ship, long, "moored", geometry)
        at += long + rng.uniform(12, 70)
    if rng.random() < 0.5:  # tugs and boats wait at the root of the finger
        boat = SHIPS[-1]
        add_ship(
            layout, rng, frame.turned(12, edge + side * 8, rng.normal(0, 4)), boat, 26.0, "moored", geometry
        )


def _cranes(layout: SceneLayout, rng: Rng, frame: Frame, length: float, right: float) -> None:
    """Ship-to-shore cranes: legs, girder and machinery house, the strongest answers of a harbour."""
    at = rng.uniform(30, 120)
    while at < length - 40:
        n = 26
        along = at + rng.normal(0, 5.0, n)
        across = right + rng.uniform(-18, 26, n) * (1 if right < 0 else -1)
        layout.add_points(*frame.points(along, across), 260 * rng.exponential(1.0, n) ** 2)
        at += rng.uniform(35, 150)


def _bollards(layout: SceneLayout, rng: Rng, frame: Frame, length: float, right: float) -> None:
    along = np.arange(0, length, 14.0)
    layout.add_points(
        *frame.points(along, np.full(along.size, right)), 4 * rng.exponential(1.0, along.size) ** 2
    )


def _yard(layout: SceneLayout, rng: Rng, frame: Frame, length: float, width: float, cargo: str) -> None:
    """Fill a rectangle (along, right from the frame's origin) with what the terminal handles."""
    heading = frame.heading_deg
    if cargo == "containers":
        yard = frame.rectangle((0, length), (0, width))
        layout.areas.append(GroundArea(yard, "containers", heading, (150.0, 26.0), 16.0, seed=seed_of(rng)))
    elif cargo == "tanks":
        radius = rng.uniform(16, 30)
        for along in np.arange(radius + 8, length - radius, 2.7 * radius):
            for right in np.arange(radius + 6, width - radius, 2.7 * radius):
                if rng.random() < 0.85:
                    x, y = frame.point(along, right)
                    _tank(layout, rng, x, y, radius * rng.uniform(0.7, 1.0))
    else:
        depth = (width - 30) / 2 if cargo == "sheds" else width / 4
        at = 10.0
        while at < length - 60:
            long = rng.uniform(60, 150)
            for right in (0.0, width - depth):
                if rng.random() < 0.75:
                    shed = frame.rectangle((at, min(at + long, length)), (right, right + depth))
                    height = rng.uniform(8, 15)
                    layout.areas.append(
                        GroundArea(
                            shed, "building", heading, (20, 12), height, rng.normal(0, 3), seed_of(rng)
                        )
                    )
            at += long + rng.uniform(12, 35)


def _tank(layout: SceneLayout, rng: Rng, x: float, y: float, radius: float) -> None:
    """A tank: near and far rims answer, a floating roof sits low inside."""
    layout.areas.append(
        GroundArea(
            Point(x, y).buffer(radius, 12),
            "building",
            0.0,
            (500, 500),
            rng.uniform(10, 18),
            -6.0,
            seed_of(rng),
        )
    )
    layout.add_points(
        np.array([x - 0.9 * radius, x + 0.9 * radius]), np.array([y, y]), 150 * rng.exponential(1.0, 2)
    )


def _breakwater(layout: SceneLayout, rng: Rng, frame: Frame, half: float) -> None:
    gap = rng.uniform(-0.5, 0.5) * half
    distance = rng.uniform(1350, 1700)
    for ends in ((-half - 300, gap - 130), (gap + 130, half + 500)):
        along = np.linspace(*ends, 8)
        right = distance + 120 * np.sin(along / 900) + rng.normal(0, 6, along.size)
        mole = LineString(np.stack(frame.points(along, right), axis=1)).buffer(13, 4)
        layout.areas.append(GroundArea(mole, "rock", frame.heading_deg, height_m=4.0, seed=seed_of(rng)))
