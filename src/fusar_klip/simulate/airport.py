"""An airport in plan: runways, taxiways, apron with piers and stands, terminal, hangars, and aircraft."""

import numpy as np
from shapely import Polygon

from fusar_klip.simulate.layout import Frame, GroundArea, Kind, Rng, SceneLayout, seed_of
from fusar_klip.simulate.targets import AIRCRAFT, add_aircraft, pick

# Across the airport, in metres to the right of the runway's centre line.
_TAXIWAY = 185.0
_APRON = 270.0
_TERMINAL = 560.0
_LANDSIDE = 640.0
_AIM = 400.0


def origin(heading_deg: float) -> Frame:
    """Return the airport's frame (on the runway's middle) such that its stands lie at the scene's centre."""
    return Frame(*Frame(0.0, 0.0, heading_deg).point(0.0, -_AIM), heading_deg)


def boundary(frame: Frame) -> Polygon:
    """Return the fence of an airport with its runway along `frame`: what no district may cover."""
    return frame.polygon(
        [(-2150, -120), (-1700, -470), (1500, -540), (2100, -250), (2150, 330), (1650, 860), (-1500, 840)]
    )


def add_airport(layout: SceneLayout, rng: Rng, frame: Frame) -> None:
    """Lay out an airport whose terminal stands to the right of its runway."""

    def area(polygon: Polygon, kind: Kind, height_m: float = 0.0, gain_db: float = 0.0) -> None:
        layout.areas.append(
            GroundArea(polygon, kind, frame.heading_deg, (90.0, 14.0), height_m, gain_db, seed_of(rng))
        )

    half = float(rng.uniform(1350, 1850))
    area(boundary(frame), "grass", gain_db=-1.0)
    area(frame.rectangle((-half, half), (-30, 30)), "runway")
    if rng.random() < 0.5:
        area(frame.rectangle((-half + 300, half - 100), (-390, -345)), "runway")
        area(frame.rectangle((-half + 300, -half + 330), (-345, 0)), "runway")
        area(frame.rectangle((half - 130, half - 100), (-345, 0)), "runway")
    for across in (_TAXIWAY, _TAXIWAY + 72):
        area(frame.rectangle((-half, half), (across - 12, across + 12)), "runway")
    for along in (-half, -0.55 * half, 0.5 * half, half - 24):
        area(frame.rectangle((along, along + 24), (0, _TAXIWAY)), "runway")
    for along, lean in ((-0.25 * half, 160), (0.2 * half, -160)):  # rapid exits
        exit_ = [(along, 0), (along + 28, 0), (along + lean + 28, _TAXIWAY), (along + lean, _TAXIWAY)]
        area(frame.polygon(exit_), "runway")

    apron_half = float(rng.uniform(620, 900))
    area(frame.rectangle((-apron_half, apron_half), (_APRON, _LANDSIDE)), "apron")
    area(frame.rectangle((-apron_half, apron_half), (_LANDSIDE - 30, _LANDSIDE + 40)), "road")
    terminal_half = apron_half - 260
    piers = np.arange(-terminal_half + 60, terminal_half - 40, rng.uniform(215, 260))
    piers += rng.normal(0, 8, piers.size)
    area(frame.rectangle((-terminal_half, terminal_half), (_TERMINAL, _TERMINAL + 52)), "building", 20.0)
    _roof_lines(layout, rng, frame, (-terminal_half, terminal_half), _TERMINAL + 26)
    for pier in piers:
        length = rng.uniform(130, 190)
        area(frame.rectangle((pier - 11, pier + 11), (_TERMINAL - length, _TERMINAL)), "building", 14.0)
        _pier_stands(layout, rng, frame.turned(pier, _TERMINAL, -90), length)
    _remote_stands(layout, rng, frame, (terminal_half + 50, apron_half - 30))
    _remote_stands(layout, rng, frame, (-apron_half + 30, -terminal_half - 50))
    _landside(layout, rng, frame, terminal_half)
    _hangars(layout, rng, frame, apron_half)
    _taxiing(layout, rng, frame, half)
    _lights(layout, rng, frame, half)


def _pier_stands(layout: SceneLayout, rng: Rng, pier: Frame, length: float) -> None:
    """Stands on both sides of a pier; the frame runs from the terminal out to the pier's end."""
    for side in (-1, 1):
        along = rng.uniform(30, 45)
        while along < length - 10:
            kind = pick(rng, AIRCRAFT, 75.0 if rng.random() < 0.35 else 45.0)
            if rng.random() < 0.62 and along + kind.span_m / 2 < length + 14:
                nose = pier.turned(along + kind.span_m / 2, side * 17.0, -90.0 * side + rng.normal(0, 1.5))
                add_aircraft(layout, rng, nose, kind, "parked")
                _jet_bridge(layout, rng, pier, along + kind.span_m / 2 - 12, side)
            along += kind.span_m + rng.uniform(7, 14)
    if rng.random() < 0.6:  # nose-in at the pier's head
        nose = pier.turned(length + 6, 0.0, 180.0)
        add_aircraft(layout, rng, nose, pick(rng, AIRCRAFT, 75.0), "parked")


def _jet_bridge(layout: SceneLayout, rng: Rng, pier: Frame, along: float, side: int) -> None:
    n = 14
    right = side * np.linspace(12, 30, n)
    x, y = pier.points(np.full(n, along) + np.linspace(0, 8, n), right)
    layout.add_points(x, y, rng.exponential(14.0, n))


def _remote_stands(layout: SceneLayout, rng: Rng, frame: Frame, along: tuple[float, float]) -> None:
    """A row of aircraft beyond the terminal, all with their noses the same way, some stands empty."""
    at = along[0] + 20
    way = float(rng.choice([90.0, -90.0])) + rng.normal(0, 10)
    while at < along[1] - 20:
        kind = pick(rng, AIRCRAFT, 75.0)
        if rng.random() < 0.7:
            nose = frame.turned(at + kind.span_m / 2, _AIM + rng.normal(0, 3) + 20, way + rng.normal(0, 2))
            add_aircraft(layout, rng, nose, kind, "parked")
        at += kind.span_m + rng.uniform(8, 16)


def _taxiing(layout: SceneLayout, rng: Rng, frame: Frame, half: float) -> None:
    for _ in range(int(rng.integers(1, 5))):
        way = float(rng.choice([0.0, 180.0]))
        nose = frame.turned(rng.uniform(-0.8, 0.8) * half, _TAXIWAY + rng.normal(0, 1), way)
        add_aircraft(layout, rng, nose, pick(rng, AIRCRAFT, 75.0), "taxiing")


def _roof_lines(
    layout: SceneLayout, rng: Rng, frame: Frame, along: tuple[float, float], right: float
) -> None:
    """Steel ribs of the terminal's roof: rows of strong points at a fixed distance."""
    ribs = np.arange(along[0], along[1], 12.0)
    for offset in (-14.0, 6.0):
        x, y = frame.points(ribs, np.full(ribs.size, right + offset))
        layout.add_points(x, y, 60 * rng.exponential(1.0, ribs.size) ** 2)


def _landside(layout: SceneLayout, rng: Rng, frame: Frame, half: float) -> None:
    at = -half
    while at < half:
        width = rng.uniform(80, 200)
        parking = frame.rectangle((at, at + width), (_LANDSIDE + 50, _LANDSIDE + 190))
        if rng.random() < 0.7:
            layout.areas.append(
                GroundArea(parking, "parking", frame.heading_deg, (5.0, 16.0), seed=seed_of(rng))
            )
        else:
            layout.areas.append(
                GroundArea(parking, "downtown", frame.heading_deg, (70, 55), 18.0, seed=seed_of(rng))
            )
        at += width + 14


def _hangars(layout: SceneLayout, rng: Rng, frame: Frame, apron_half: float) -> None:
    for side in (-1, 1):
        at = apron_half + 60
        while at < apron_half + 520:
            width, depth = rng.uniform(50, 110), rng.uniform(55, 85)
            near, far = sorted((side * at, side * (at + width)))
            layout.areas.append(
                GroundArea(
                    frame.rectangle((near - 25, far + 25), (_APRON + 60, 620)),
                    "apron", frame.heading_deg, seed=seed_of(rng),
                )
            )  # fmt: skip
            hangar = frame.rectangle((near, far), (600 - depth, 600))
            height = rng.uniform(16, 26)
            layout.areas.append(
                GroundArea(hangar, "building", frame.heading_deg, (25, 25), height, 2.0, seed_of(rng))
            )
            at += width + rng.uniform(15, 60)


def _lights(layout: SceneLayout, rng: Rng, frame: Frame, half: float) -> None:
    """Edge lights, approach lights and signs: weak points in straight rows."""
    along = np.arange(-half, half, 60.0)
    for right in (-33.0, 33.0):
        layout.add_points(*frame.points(along, np.full(along.size, right)), rng.exponential(0.5, along.size))
    for end in (-1, 1):
        rows = end * (half + np.arange(30, 600, 30.0))
        layout.add_points(*frame.points(rows, np.zeros(rows.size)), rng.exponential(2.0, rows.size))
