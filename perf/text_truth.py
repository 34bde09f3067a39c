"""Decides whether a sentence about a tile of a simulated scene is false by the scene's truth.

For `scio_noise.py`: another tile's sentence makes a text false only where the truth can check it. A sentence
is false when it contradicts the truth by a wide margin, and unknown when the truth can check none of it.
These fields are judged:

    Count, Location, Size, Category, Distribution   against the ships or aircraft whose centre is in the tile
    Terrain, Environment                            shares of water and of built-up land
    Functionality, Layout, Building, Boundary,      presence of water, buildings, airfield, harbour, roads
    Road, Water
    Location (terrain), Region, Functionality       places that no sentence of the tile's own scene names

Feature (brightness and shape) and Category of ground targets are not judged.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
import rasterio
from counts import FREE, counted_in, stated_share
from rasterio.windows import from_bounds

from fusar_klip.catalog import read_texts, read_tiles
from fusar_klip.simulate.surfaces import LAND_COVER
from fusar_klip.texts.phrases import region_name, region_of
from fusar_klip.texts.template import Annotation, annotations_by_tile, kept_tiles

CODES = {name: code for code, name in LAND_COVER.items()}
# A share that is off by this much is false: `measure` itself is mostly within half of it.
_SHARE_OFF = 0.35
# Shares from which a class counts as present, and below which it counts as absent.
_SOME, _NONE = 0.15, 0.01
_PLACE = re.compile(
    r"(?:port of |ground of |area of )?((?:[A-ZÀ-Þ][\w'ʻ-]*)(?: (?:[A-ZÀ-Þ][\w'ʻ-]*|de|of|la|el))*)"
)
_FIRST_WORDS = re.compile(r"^[A-Z][a-z-]+")
_KINDS = {"Airport", "Air", "Base", "International", "SAR"}


class Truth(Protocol):
    """The truth about a tile."""

    def contradicts(self, field: str, task: str, text: str) -> bool | None:
        """Return whether a sentence of that field is false; None where the truth cannot decide."""


@dataclass(frozen=True)
class TileTruth:
    """The truth about a tile of a simulated scene.

    Attributes:
        height: Pixels.
        width: Pixels.
        gsd_m: Ground spacing in metres.
        targets: Ships or aircraft whose centre lies in the tile, whatever their state.
        shares: Share of the tile's area by class of the simulator's land cover.
        places: Words of the names that the texts of its scene use.
    """

    height: int
    width: int
    gsd_m: float
    targets: Sequence[Annotation]
    shares: dict[str, float]
    places: Collection[str]

    def contradicts(self, field: str, task: str, text: str) -> bool | None:
        """Return whether a sentence is false; None where the truth cannot decide."""
        if named_places(text) - set(self.places):
            return True
        if task == "terrain":
            return _terrain(field, text.lower(), self)
        return _target(field, task, text, self)


def read_truth(dataset: Path, truth: Path) -> dict[str, TileTruth]:
    """Return the truth about each kept tile that lies in its scene's mask."""
    frames = {frame.tile_id: frame for frame in kept_tiles(dataset)}
    shown = annotations_by_tile(dataset, list(frames.values()), truth)
    tiles = read_tiles(dataset, ["tile_id", "scene_id", "transform", "width", "height", "gsd_m", "kept"])
    texts = read_texts(dataset)
    scene_of = dict(zip(tiles["tile_id"], tiles["scene_id"], strict=True))
    places: dict[str, set[str]] = {}
    for tile_id, text in zip(texts["tile_id"], texts["text"], strict=True):
        places.setdefault(scene_of[tile_id], set()).update(named_places(text))
    found: dict[str, TileTruth] = {}
    for row in cast(list[dict[str, Any]], tiles[tiles["kept"]].to_dict("records")):
        mask = truth / f"{row['scene_id'].rpartition('_')[0]}_landcover.tif"
        shares = _shares(mask, row["transform"], row["width"], row["height"])
        if shares is not None:
            found[row["tile_id"]] = TileTruth(
                row["height"],
                row["width"],
                row["gsd_m"],
                shown.get(row["tile_id"], []),
                shares,
                places.get(row["scene_id"], set()),
            )
    return found


def named_places(text: str) -> set[str]:
    """Return the words of the names in a sentence: capital letters that do not begin the sentence."""
    rest = _FIRST_WORDS.sub("", text)
    words = {word for name in _PLACE.findall(rest) for word in name.split()}
    return {word for word in words if word[:1].isupper()} - _KINDS


def _target(field: str, task: str, text: str, truth: TileTruth) -> bool | None:
    kind = "ship" if task == "marine_target" else "aircraft"
    every = [t for t in truth.targets if t.category == kind]
    # `measure` counts free ships only; a reader may count all. A count is false if it fits neither.
    readings = [every, [t for t in every if t.state in FREE]] if kind == "ship" else [every]
    readings = [reading for reading in readings if reading]
    if field == "Environment":
        return _cover(text.lower(), truth)
    if not readings:
        return None
    if field == "Count":
        stated = counted_in(text)
        if stated is None:
            return None
        return all(abs(stated - len(reading)) > max(1, 0.3 * len(reading)) for reading in readings)
    if field == "Location":
        named_regions = _regions(text)
        there = {region_name(region_of(t.row, t.col, truth.height, truth.width)) for t in every}
        return not named_regions & there if named_regions else None
    lengths = sorted(t.length_m for t in every if t.length_m)
    if field == "Size" and lengths:
        numbers = [float(n) for n in re.findall(r"\d+", text.partition(" long")[0])]
        return not any(abs(n - m) <= max(0.4 * m, 3 * truth.gsd_m) for n in numbers for m in lengths)
    if field == "Category" and kind == "ship" and lengths:
        named_sizes = {s for s in ("small", "medium", "large") if s in text.lower().partition(" vessel")[0]}
        return not named_sizes & {_size(m) for m in lengths} if named_sizes else None
    if field == "Distribution":
        layout = {"Single": 1, "A pair": 2}.get(
            next((w for w in ("Single", "A pair") if text.startswith(w)), ""), 3
        )
        return all(
            abs(layout - min(len(reading), 3)) > (0 if 1 in (layout, len(reading)) else 1)
            for reading in readings
        )
    return None


def _size(length_m: float) -> str:
    return "small" if length_m < 50 else "medium" if length_m < 180 else "large"


def _regions(text: str) -> set[str]:
    """Return the regions that a Location names."""
    found, rest = set(), text.lower()
    for name in sorted((region_name(i) for i in range(9)), key=len, reverse=True):
        if re.search(rf"\b{name}\b", rest):
            found.add(name)
            rest = re.sub(rf"\b{name}\b", "", rest)
    # "Upper left and right" leaves a bare "right" for the upper right: taken for both.
    upper_lower = {
        f"{row} {name}" for row in ("upper", "lower") for name in found & {"left", "centre", "right"}
    }
    return found | {name for name in upper_lower if name.split()[0] in text.lower()}


def _cover(text: str, truth: TileTruth) -> bool | None:
    water = abs(stated_share(text, "open water") - truth.shares["water"]) > _SHARE_OFF
    built = abs(stated_share(text, "built-up") - _built(truth)) > _SHARE_OFF
    # Forest and rough terrain look like built-up land, so a text may call them built-up.
    rugged = "rugged" in text or truth.shares["forest"] > _SOME
    return water or (built and not rugged)


def _built(truth: TileTruth) -> float:
    return truth.shares["built-up"] + truth.shares["harbour"]


def _terrain(field: str, text: str, truth: TileTruth) -> bool | None:
    shares, built, water = truth.shares, _built(truth), truth.shares["water"]
    rough = built + shares["forest"]
    if field == "Terrain":
        return _cover(text, truth)
    if field == "Functionality":
        claims = {
            "surface": water < 1 - _SHARE_OFF,
            "airport": shares["airfield pavement"] < _NONE,
            "urban": built < _NONE,
            "waterfront": water < _NONE or rough < _NONE,
            "harbour": shares["harbour"] < _NONE and water < _NONE,
        }
        judged = [false for word, false in claims.items() if word in text]
        return any(judged) if judged else None
    if field == "Water":
        if "no open water" in text:
            return water > _SOME
        if "throughout" in text or "no shore" in text:
            return water < 1 - _SHARE_OFF
        return water < _NONE or (text.startswith("little") and water > 0.5)
    if field == "Boundary":
        if "waterline" in text:
            return water < _NONE or water > 1 - _NONE / 10
        return None
    if field == "Building":
        if text.startswith("no buildings"):
            return built > 0.5
        return rough < _NONE or (text.startswith("dense buildings throughout") and rough < 0.3)
    if field == "Layout":
        if re.match(r"no (built-up|bright) patch", text):
            return built > 0.5
        return rough < _NONE and "built-up" in text
    if field == "Road":
        if text.startswith("no straight road"):
            return None
        return shares["road"] + shares["airfield pavement"] + shares["harbour"] < _NONE / 10
    return None


def _shares(mask: Path, transform: Sequence[float], width: int, height: int) -> dict[str, float] | None:
    a, _, c, _, e, f = transform[:6]
    with rasterio.open(mask) as file:
        window = from_bounds(c, f + e * height, c + a * width, f, file.transform)
        classes = file.read(1, window=window, boundless=True, fill_value=0)
    inside = classes[classes != 0]
    if not inside.size:
        return None
    counts = np.bincount(inside, minlength=max(CODES.values()) + 1) / inside.size
    return {name: float(counts[code]) for name, code in CODES.items()}


def judge_texts(texts: pd.DataFrame, truth: Mapping[str, Truth]) -> list[bool | None]:
    """Return for each row of a text version whether it is false; None where the truth cannot decide."""
    rows = zip(texts["tile_id"], texts["field"], texts["task"], texts["text"], strict=True)
    return [
        truth[tile_id].contradicts(field, task, text) if tile_id in truth else None
        for tile_id, field, task, text in rows
    ]
