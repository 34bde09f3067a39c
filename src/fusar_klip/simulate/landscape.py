"""The land around: coast, river, districts of a town, parcels of fields, woods, and ships on the sea."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.prepared import prep

from fusar_klip.simulate.layout import Frame, GroundArea, Kind, Rng, SceneLayout, seed_of
from fusar_klip.simulate.projection import Geometry
from fusar_klip.simulate.targets import add_ship, add_wake, pick_ship

_SHORE_POINTS = 6000


@dataclass(frozen=True)
class Town:
    """Where the town is: centre and radius in metres, and how high it is built in its middle."""

    x: float
    y: float
    radius_m: float
    height_m: float


def sea_beside(rng: Rng, shore: Frame, extent_m: float, straight_m: float, detail_m: float) -> Polygon:
    """Return the sea to the right of a shore line that is straight near its origin and rugged farther off."""
    reach = 2.0 * extent_m + 2 * straight_m
    along = np.array([-reach, -straight_m, straight_m, reach])
    right = np.array([rng.normal(0, 0.1) * extent_m, 0.0, 0.0, rng.normal(0, 0.1) * extent_m])
    while np.diff(along).max() > detail_m and along.size < _SHORE_POINTS:
        middle = (along[1:] + along[:-1]) / 2
        rough = np.where(np.abs(middle) < straight_m, 0.0, 0.13) * np.diff(along)
        bent = (right[1:] + right[:-1]) / 2 + rng.normal(0, 1, middle.size) * rough
        along = np.insert(along, np.arange(1, along.size), middle)
        right = np.insert(right, np.arange(1, right.size), bent)
    line = list(zip(along, right, strict=True))
    sea = shore.polygon([*line, (reach, reach), (-reach, reach)])
    return _largest(shapely.make_valid(sea))


def river(rng: Rng, extent_m: float) -> Polygon:
    """Return a river that winds through the scene past its centre."""
    heading = rng.uniform(0, 180)
    along = np.linspace(-extent_m, extent_m, 240)
    swing = sum(
        rng.normal(0, 0.03 * extent_m / wave) * np.sin(wave * 3.0 * along / extent_m + rng.uniform(0, 6))
        for wave in (1, 2, 3, 5)
    )
    frame = Frame(0, 0, heading).turned(0, rng.choice([-1, 1]) * 0.22 * extent_m, 0)
    line = LineString(np.stack(frame.points(along, np.asarray(swing)), axis=1))
    return _largest(line.buffer(float(np.clip(0.006 * extent_m, 18, 70))))


def add_districts(
    layout: SceneLayout, rng: Rng, extent_m: float, towns: Sequence[Town], kept_free: BaseGeometry
) -> None:
    """Cover the scene's ground outside `kept_free` with districts, divided by roads.

    Districts come of splitting the ground again and again, as land is parcelled; what a district is follows
    from its distance to the town's middle, with neighbours' accidents.
    """
    pitch = float(np.clip(extent_m / 14, 260, 900))
    turn = Frame(0, 0, float(rng.uniform(0, 90)))
    side = 0.75 * extent_m  # covers the scene however it is turned
    whole = [turn.point(a, r) for a, r in ((-side, -side), (side, -side), (side, side), (-side, side))]
    reach = extent_m / 2 + 60
    frame = box(-reach, -reach, reach, reach)
    free = prep(kept_free)
    for corners in _plots(rng, np.array(whole), pitch):
        cell = Polygon(corners)
        if not frame.intersects(cell):
            continue
        cx, cy = corners.mean(axis=0)
        town = min(towns, key=lambda t: math.hypot(cx - t.x, cy - t.y) / t.radius_m)
        kind = _district_kind(rng, town, cx, cy)
        urban = kind in ("residential", "downtown", "industrial")
        half_road = rng.choice([5.0, 7.0, 14.0]) if urban else rng.uniform(1, 4)
        plot: BaseGeometry = cell.buffer(-half_road, join_style="mitre")
        if free.intersects(plot):
            plot = plot.difference(kept_free)
        for polygon in _polygons(plot):
            layout.areas.append(_district(rng, polygon, kind, town, turn.heading_deg))


def add_highway(layout: SceneLayout, rng: Rng, extent_m: float, kept_free: BaseGeometry) -> None:
    """Lay a motorway past the scene's centre, dark with a glinting central barrier."""
    frame = Frame(0, 0, float(rng.uniform(0, 180))).turned(0, rng.uniform(0.15, 0.35) * extent_m, 0)
    along = np.linspace(-1.2 * extent_m, 1.2 * extent_m, 40)
    right = 0.05 * extent_m * np.sin(along / (0.35 * extent_m) + rng.uniform(0, 6))
    line = LineString(np.stack(frame.points(along, right), axis=1))
    for polygon in _polygons(line.buffer(18).difference(kept_free)):
        layout.areas.append(GroundArea(polygon, "road", seed=seed_of(rng)))
    posts = np.arange(0, line.length, 9.0)
    x, y = shapely.get_coordinates(shapely.line_interpolate_point(line, posts)).T
    inside = np.maximum(np.abs(x), np.abs(y)) < extent_m / 2
    inside &= ~shapely.contains_xy(kept_free, x, y)
    layout.add_points(x[inside], y[inside], 2.0 * rng.exponential(1.0, int(inside.sum())) ** 1.5)


def add_ships_at_sea(
    layout: SceneLayout, rng: Rng, extent_m: float, water: BaseGeometry, count: int, geometry: Geometry
) -> None:
    """Put ships on open water: at anchor, all swung to the same wind, or under way with a wake."""
    wind = float(rng.uniform(0, 360))
    fairway = float(rng.uniform(0, 180))
    taken: list[tuple[float, float, float]] = []
    prepared = prep(water)
    for _ in range(40 * count):
        if len(taken) == count:
            return
        x, y = rng.uniform(-extent_m / 2, extent_m / 2, 2)
        ship, length = pick_ship(rng, 330.0)
        clear = max(length, 60.0)
        if any(math.hypot(x - a, y - b) < 1.2 * (clear + c) for a, b, c in taken):
            continue
        if not prepared.contains(box(x - clear, y - clear, x + clear, y + clear)):
            continue
        taken.append((x, y, clear))
        if rng.random() < 0.55:
            add_ship(layout, rng, Frame(x, y, wind + rng.normal(0, 8)), ship, length, "anchored", geometry)
            continue
        heading = (fairway + float(rng.choice([0, 180])) + rng.normal(0, 12)) % 360
        at = Frame(x, y, heading)
        add_wake(layout, rng, at, length, float(rng.uniform(3, 9)), geometry)
        add_ship(layout, rng, at, ship, length, "under way", geometry)


def _plots(rng: Rng, corners: NDArray[np.float64], pitch_m: float) -> Iterator[NDArray[np.float64]]:
    """Split a quadrilateral, (4, 2) corners, across its longer sides until its pieces are about `pitch_m`."""
    sides = np.hypot(*(np.roll(corners, -1, axis=0) - corners).T)
    if max(sides) < pitch_m * rng.uniform(0.8, 2.2):
        yield corners
        return
    a, b, c, d = corners if sides[0] + sides[2] >= sides[1] + sides[3] else np.roll(corners, -1, axis=0)
    at = rng.uniform(0.3, 0.7)
    near, far = a + (b - a) * at, d + (c - d) * (at + rng.normal(0, 0.02))
    yield from _plots(rng, np.array([a, near, far, d]), pitch_m)
    yield from _plots(rng, np.array([near, b, c, far]), pitch_m)


def _district_kind(rng: Rng, town: Town, x: float, y: float) -> Kind:
    distance = math.hypot(x - town.x, y - town.y) / town.radius_m + rng.normal(0, 0.12)
    draw = rng.random()
    if distance < 0.3:
        return "downtown" if draw < 0.8 else "residential"
    if distance < 1.0:
        return (
            "residential"
            if draw < 0.74
            else "industrial"
            if draw < 0.92
            else "grass"
            if draw < 0.96
            else "forest"
        )
    if distance < 1.25:
        return "residential" if draw < 0.3 else "industrial" if draw < 0.45 else "field"
    # Woods come in groups: a slow wave over the ground decides where.
    wooded = math.sin(x / 1900 + 1.3) + math.cos(y / 1500 + x / 2600)
    return "forest" if draw + 0.25 * wooded > 0.85 else "grass" if draw < 0.12 else "field"


def _district(rng: Rng, polygon: Polygon, kind: Kind, town: Town, grid_deg: float) -> GroundArea:
    # Old quarters follow their own directions; most of a town shares one.
    heading = grid_deg + (float(rng.uniform(0, 90)) if rng.random() < 0.35 else rng.normal(0, 2))
    pitch, height = {
        "downtown": ((rng.uniform(80, 120), rng.uniform(60, 90)), town.height_m * rng.uniform(0.6, 1.3)),
        "residential": ((rng.uniform(90, 190), rng.uniform(50, 75)), rng.uniform(5, 11)),
        "industrial": ((rng.uniform(120, 260), rng.uniform(80, 160)), rng.uniform(7, 14)),
        "forest": ((1.0, 1.0), rng.uniform(9, 18)),
    }.get(kind, ((rng.uniform(90, 400), rng.uniform(50, 160)), 0.0))
    gain_db = float(rng.normal(0, 1.5 if height else 0.8))
    return GroundArea(polygon, kind, heading, pitch, height, gain_db, seed_of(rng))


def _polygons(geometry: BaseGeometry) -> Iterator[Polygon]:
    for part in shapely.get_parts(geometry):
        if isinstance(part, Polygon) and part.area > 1:
            yield part


def _largest(geometry: BaseGeometry) -> Polygon:
    return max(_polygons(geometry), key=lambda polygon: polygon.area)
