"""The four kinds of scenes: an airport, a harbour, a city, a coast. Each is laid out around its centre.

A narrow scene shows what its theme is named for; a wide one (from 8 km) shows what lies around it too.
"""

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import numpy as np
import shapely
from shapely import Polygon, box
from shapely.geometry.base import BaseGeometry

from fusar_klip.geo.gazetteer import PlaceKind
from fusar_klip.simulate import airport, harbour, landscape
from fusar_klip.simulate.landscape import Town
from fusar_klip.simulate.layout import Frame, GroundArea, Rng, SceneLayout, seed_of
from fusar_klip.simulate.projection import Geometry

Theme: TypeAlias = Literal["airport", "harbour", "city", "coast"]
THEMES: tuple[Theme, ...] = get_args(Theme)
PLACE_KINDS: Mapping[Theme, PlaceKind] = {
    "airport": "airport",
    "harbour": "port",
    "city": "city",
    "coast": "port",
}

_WIDE_M = 8000.0
_NARROW_M = 1500.0


def themes_for_extent(extent_m: float) -> tuple[Theme, ...]:
    """Return the themes that a scene of this extent can show; a narrow one holds a berth or an apron only."""
    if extent_m < _NARROW_M:
        return ("airport", "harbour")
    return ("coast", "airport", "city", "harbour") if extent_m >= _WIDE_M else THEMES


def compose(theme: Theme, rng: Rng, extent_m: float, geometry: Geometry) -> SceneLayout:
    """Lay out a scene of a theme, centred on the origin of the local frame."""
    layout = SceneLayout()
    heading = float(rng.uniform(0, 360))
    wide = extent_m >= _WIDE_M
    match theme:
        case "airport":
            _airport(layout, rng, heading, extent_m)
        case "harbour":
            _coast(layout, rng, harbour.shore(heading), extent_m, geometry, terminals=7 if wide else 5)
        case "city":
            _city(layout, rng, heading, extent_m, geometry)
        case "coast":
            out = rng.uniform(0.12, 0.3) * extent_m
            shore = Frame(*Frame(0, 0, heading).point(0, -out), heading)
            _coast(layout, rng, shore, extent_m, geometry, terminals=3 if wide else 0)
    return layout


def _airport(layout: SceneLayout, rng: Rng, heading: float, extent_m: float) -> None:
    frame = airport.origin(heading)
    free = airport.boundary(frame)
    beside = Frame(0, 0, heading).point(rng.uniform(-0.3, 0.3) * extent_m, 2000 + 0.2 * extent_m)
    landscape.add_districts(layout, rng, extent_m, _towns(rng, extent_m, beside), free)
    landscape.add_highway(layout, rng, max(extent_m, 6000.0), free)
    airport.add_airport(layout, rng, frame)


def _city(layout: SceneLayout, rng: Rng, heading: float, extent_m: float, geometry: Geometry) -> None:
    wide = extent_m >= _WIDE_M
    free: list[BaseGeometry] = []
    if wide:
        shore = Frame(*Frame(0, 0, heading).point(0.1 * extent_m, 0.27 * extent_m), heading)
        sea = _add_sea(layout, rng, shore, extent_m, straight_m=2700.0)
        field = Frame(*Frame(0, 0, heading).point(-0.28 * extent_m, -0.05 * extent_m), heading + 8)
        free += [sea, harbour.boundary(shore, 6), airport.boundary(field)]
    water = landscape.river(rng, extent_m)
    landscape.add_districts(layout, rng, extent_m, _towns(rng, extent_m, (0.0, 0.0)), _union([*free, water]))
    layout.areas.append(GroundArea(water, "lake", seed=seed_of(rng)))
    landscape.add_highway(layout, rng, extent_m, _union(free))
    if wide:
        airport.add_airport(layout, rng, field)
        harbour.add_harbour(layout, rng, shore, 6, geometry)
        _add_ships(layout, rng, extent_m, sea, shore, 6, geometry)


def _coast(
    layout: SceneLayout, rng: Rng, shore: Frame, extent_m: float, geometry: Geometry, terminals: int
) -> None:
    sea = _add_sea(layout, rng, shore, extent_m, straight_m=400.0 * terminals)
    free: list[BaseGeometry] = [sea]
    if terminals:
        free.append(harbour.boundary(shore, terminals))
    behind = shore.point(rng.uniform(-0.2, 0.2) * extent_m, -0.25 * extent_m - 300)
    landscape.add_districts(layout, rng, extent_m, _towns(rng, extent_m, behind), _union(free))
    landscape.add_highway(layout, rng, extent_m, _union(free))
    if terminals:
        harbour.add_harbour(layout, rng, shore, terminals, geometry)
    _add_ships(layout, rng, extent_m, sea, shore, terminals, geometry)


def _add_sea(layout: SceneLayout, rng: Rng, shore: Frame, extent_m: float, straight_m: float) -> Polygon:
    # A shore finer than a 2000th of the scene is not seen, and costs memory.
    sea = landscape.sea_beside(rng, shore, extent_m, straight_m, max(extent_m / 2000, 8.0))
    layout.areas.append(GroundArea(sea, "sea", seed=seed_of(rng)))
    reach = box(-extent_m, -extent_m, extent_m, extent_m)
    for beach in shapely.get_parts(sea.boundary.intersection(reach).buffer(9.0)):
        layout.areas.append(GroundArea(beach, "rock", gain_db=-5.0, seed=seed_of(rng)))
    return sea


def _add_ships(
    layout: SceneLayout,
    rng: Rng,
    extent_m: float,
    sea: Polygon,
    shore: Frame,
    terminals: int,
    geometry: Geometry,
) -> None:
    scene = box(-extent_m / 2, -extent_m / 2, extent_m / 2, extent_m / 2)
    water = sea.intersection(scene)
    if terminals:
        half = terminals * 340.0
        water = water.difference(shore.rectangle((-half - 350, half + 550), (-300, 1800)).buffer(60))
    # Roads before a port hold some ten ships in 10 km x 10 km; a narrow scene shows a few at best.
    count = round(min(400.0, 2 + 10 * water.area / 1e8) * rng.uniform(0.7, 1.6)) if water.area > 4e5 else 0
    landscape.add_ships_at_sea(layout, rng, extent_m, water, count, geometry)


def _towns(rng: Rng, extent_m: float, centre: tuple[float, float]) -> list[Town]:
    """The town at the scene's centre and, on wide scenes, one for every 20 km of ground besides."""
    radius = float(np.clip(0.34 * extent_m, 2200, 9000))
    towns = [Town(*centre, radius, 42.0 if extent_m >= _WIDE_M else 26.0)]
    for _ in range(math.floor(extent_m / 20_000) ** 2):
        x, y = rng.uniform(-extent_m / 2, extent_m / 2, 2)
        towns.append(Town(float(x), float(y), float(rng.uniform(900, 4000)), 16.0))
    return towns


def _union(parts: list[BaseGeometry]) -> BaseGeometry:
    return shapely.union_all(parts)
