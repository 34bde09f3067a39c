"""The data card's map: where on the globe a data set's scenes lie, and their large tiles by split.

Nothing is downloaded: populated places, drawn as dots, show the land, and a graticule the rest.
"""

import io
import string
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import shapely
from matplotlib.artist import Artist
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from fusar_klip.geo.gazetteer import PlaceKind, places

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"train": "#0072b2", "val": "#e69f00", "test": "#009e73"}  # distinguishable with colour blindness
_MARKERS: Mapping[PlaceKind, tuple[str, str]] = {
    "airport": ("^", "#cc3311"),
    "port": ("s", "#332288"),
    "city": ("o", "#555555"),
}
_PLACE_STYLE: Mapping[str, Any] = {"markersize": 3.5, "markeredgewidth": 0}
_AREAS = 6
_AREA_KM = 250.0
_KM_PER_DEGREE = 111.32
_NAMES = 4  # of each kind of place


@dataclass(frozen=True)
class SceneCluster:
    """Scenes that lie near each other: where the first of them is, their ids, and how many large tiles."""

    lon: float
    lat: float
    scenes: list[str]
    tiles: int


def draw_map(tiles: gpd.GeoDataFrame) -> bytes | None:
    """Draw the data set's map.

    Args:
        tiles: The catalog, with footprints in EPSG:4326.

    Returns:
        PNG: the globe with all scenes, and the areas with the most tiles; the same tiles, the same bytes.
        None where no tile has coordinates.
    """
    large = tiles[(tiles["scale"] == "large") & tiles["lon"].notna() & tiles.geometry.notna()]
    if large.empty:
        return None
    areas = _areas(large)
    shown = areas[:_AREAS]
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    width = 12.0 if columns > 1 else 9.0
    figure = Figure(
        figsize=(width, width * 0.42 + rows * width / columns * 0.92), layout="constrained", dpi=110
    )
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[0.42, *[0.92 / columns] * rows])
    _draw_globe(figure.add_subplot(grid[0, :]), areas)
    for i, area in enumerate(shown):
        axes = figure.add_subplot(grid[1 + i // columns, i % columns])
        _draw_area(axes, _tiles_of(area, large), _letter(i))
    _legend(figure)
    encoded = io.BytesIO()
    with warnings.catch_warnings():  # a script that the font has not shows as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(encoded, format="png", metadata={"Software": None})
    return encoded.getvalue()


def _legend(figure: Figure) -> None:
    handles: list[Artist] = [Patch(color=color, label=split, alpha=0.6) for split, color in _COLORS.items()]
    handles.append(Patch(facecolor="none", edgecolor="#888888", label="not kept"))
    for kind, (marker, color) in _MARKERS.items():
        handles.append(Line2D([], [], linestyle="", marker=marker, color=color, label=kind, **_PLACE_STYLE))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)


def _areas(large: gpd.GeoDataFrame) -> list[SceneCluster]:
    """Gather scenes around the first of each area, and put the area with the most tiles first."""
    scenes = large.groupby("scene_id", sort=True)[["lon", "lat"]].first()
    tiles = large["scene_id"].value_counts()
    members: list[list[str]] = []
    seeds = np.empty((0, 3))
    for scene_id, lon, lat in scenes.itertuples():
        point = _unit_vector(lon, lat)
        near = np.flatnonzero(np.linalg.norm(seeds - point, axis=1) < _AREA_KM / 6371)
        if near.size:
            members[int(near[0])].append(scene_id)
        else:
            members.append([scene_id])
            seeds = np.vstack([seeds, point])
    first = [scenes.loc[ids[0]] for ids in members]
    areas = [
        SceneCluster(seed["lon"], seed["lat"], ids, int(tiles[ids].sum()))
        for seed, ids in zip(first, members, strict=True)
    ]
    return sorted(areas, key=lambda area: -area.tiles)


def _tiles_of(area: SceneCluster, large: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return an area's tiles, with longitudes that do not jump at the antimeridian."""
    inside = large[large["scene_id"].isin(area.scenes)]
    positions = _unwrapped(inside[["lon", "lat"]].to_numpy(), area.lon)
    footprints = shapely.transform(inside.geometry.to_numpy(), partial(_unwrapped, lon=area.lon))
    return inside.assign(lon=positions[:, 0]).set_geometry(footprints, crs=None)


def _unwrapped(positions: NDArray[np.float64], lon: float) -> NDArray[np.float64]:
    """Shift longitudes, the first of two columns, by whole turns to within 180 degrees of `lon`."""
    turns = np.rint((positions[:, 0] - lon) / 360)
    return np.stack([positions[:, 0] - 360 * turns, positions[:, 1]], axis=1)


def _unit_vector(lon: float, lat: float) -> NDArray[np.float64]:
    x, y = np.radians(lon), np.radians(lat)
    return np.array([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)])


def _letter(i: int) -> str:
    return string.ascii_uppercase[i]


def _draw_globe(axes: "Axes", areas: Sequence[SceneCluster]) -> None:
    cities = np.array([(p.lon, p.lat) for p in places("city")])
    axes.plot(*cities.T, ".", color="#9a9a9a", markersize=1.3, markeredgewidth=0)
    for i, area in enumerate(areas):
        axes.plot(area.lon, area.lat, "o", color="#cc3311", markersize=5, alpha=0.8, markeredgewidth=0)
        if i < _AREAS:
            axes.annotate(_letter(i), (area.lon, area.lat), (4, 4), textcoords="offset points", fontsize=9)
    lats = [area.lat for area in areas]
    axes.set(xlim=(-180, 180), ylim=(min(-60, *lats) - 2, max(76, *lats) + 2), aspect="equal")
    _graticule(axes, 12)


def _draw_area(axes: "Axes", tiles: gpd.GeoDataFrame, letter: str) -> None:
    for kept in (False, True):
        of_kind = tiles[tiles["kept"] == kept]
        parts = shapely.get_parts(of_kind.geometry.to_numpy(), return_index=True)
        colors = [_COLORS.get(of_kind["split"].iloc[i], "#888888") for i in parts[1]]
        rings = [shapely.get_coordinates(part.exterior) for part in parts[0]]
        faces = colors if kept else "none"
        edges = colors if kept else "#aaaaaa"
        axes.add_collection(
            PolyCollection(rings, facecolors=faces, edgecolors=edges, alpha=0.45, linewidths=0.8)
        )
    west, south, east, north = tiles.total_bounds
    squeeze = max(float(np.cos(np.radians((south + north) / 2))), 0.02)
    half = 0.62 * max((east - west) * squeeze, north - south)
    centre_lon, centre_lat = (west + east) / 2, (south + north) / 2
    axes.set(
        xlim=(centre_lon - half / squeeze, centre_lon + half / squeeze),
        ylim=(centre_lat - half, centre_lat + half),
        aspect=1 / squeeze,
    )
    axes.set_title(_title(tiles, letter), fontsize=10, parse_math=False)
    _draw_places(axes, centre_lon)
    _graticule(axes, 5)
    _scale_bar(axes, half)


def _title(tiles: gpd.GeoDataFrame, letter: str) -> str:
    scenes = tiles["scene_id"].nunique()
    west, south, east, north = tiles.total_bounds
    off_centre = abs(tiles["lon"] - (west + east) / 2) + abs(tiles["lat"] - (south + north) / 2)
    middle = tiles.iloc[int(off_centre.to_numpy().argmin())]
    where = [value for value in (middle["place"], middle["country"]) if isinstance(value, str)]
    name = textwrap.shorten(", ".join(where), 40, placeholder="…")
    return f"{letter}  {name}  ({scenes} scene{'s' * (scenes > 1)})"


def _draw_places(axes: "Axes", lon: float) -> None:
    """Draw airports, ports and cities, and name a few of each, spread out."""
    low, high = np.transpose([axes.get_xlim(), axes.get_ylim()])
    named = np.empty((0, 2))
    for kind, (marker, color) in _MARKERS.items():
        known = places(kind)
        spots = (_unwrapped(np.array([(p.lon, p.lat) for p in known]), lon) - low) / (high - low)
        inside = np.flatnonzero(((spots > 0.02) & (spots < 0.96)).all(axis=1))
        axes.plot(*spots[inside].T, marker, color=color, transform=axes.transAxes, **_PLACE_STYLE)
        # The nearest to the middle first: the edges are for orientation only.
        names_left = _NAMES
        for i in inside[np.argsort(np.linalg.norm(spots[inside] - 0.5, axis=1), kind="stable")]:
            crowded = (np.abs(named - spots[i]) < (0.4, 0.05)).all(axis=1).any()
            if names_left == 0 or crowded:
                continue
            names_left -= 1
            named = np.vstack([named, spots[i]])
            leftwards = spots[i, 0] > 0.6
            axes.annotate(
                textwrap.shorten(known[i].name, 26, placeholder="…"),
                spots[i],
                (-4 if leftwards else 4, 3),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right" if leftwards else "left",
                fontsize=7,
                color=color,
                parse_math=False,
            )


def _scale_bar(axes: "Axes", half_deg: float) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten kilometres, about a quarter of the area's height long."""
    wanted_km = half_deg / 2 * _KM_PER_DEGREE
    power = 10.0 ** np.floor(np.log10(wanted_km))
    length_km = max(n * power for n in (1, 2, 5) if n * power <= wanted_km)
    share = length_km / (2 * half_deg * _KM_PER_DEGREE)
    axes.plot([0.04, 0.04 + share], [0.04, 0.04], color="black", linewidth=2, transform=axes.transAxes)
    axes.text(0.04, 0.055, f"{length_km:g} km", fontsize=8, transform=axes.transAxes)


def _graticule(axes: "Axes", lines: int) -> None:
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(lines, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(lines, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _degrees((x + 180) % 360 - 180, "EW")))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _degrees(y, "NS")))


def _degrees(value: float, sides: str) -> str:
    side = "" if abs(value) < 1e-9 else sides[int(value < 0)]
    return f"{abs(value):.4f}".rstrip("0").rstrip(".") + f"°{side}"
