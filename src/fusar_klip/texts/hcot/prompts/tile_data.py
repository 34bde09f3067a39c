"""Metadata and evidence of a tile as JSON between the tags of `tile.md`, which mark it as data.

Names of places, platforms and modes come from files of other people. They become JSON strings, cut to a
length, without control characters and angle brackets, so that none of them can end its block.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from fusar_klip.geo.gazetteer import Neighbour
from fusar_klip.texts.measure.evidence import COVER_CLASSES, Cover, CoverClass, Evidence, Target, Waterline
from fusar_klip.texts.measure.evidence_store import TileContext
from fusar_klip.texts.phrases import compass_point, region_name, region_of

_MAX_CHARS = 160  # of a name, or a fact of the user's file
_MAX_FACTS = 12  # of one place: an airport has a row a runway
_MAX_PARENT_CHARS = 400
_MAX_TARGETS = 40  # the longest ones; more would add nothing
_MAX_STRIPS = 6

_COVER_NAMES: Mapping[CoverClass, str] = {
    "water": "water",
    "smooth": "dark smooth ground or narrow water",
    "open_land": "open land",
    "built_up": "built-up or rugged",
}


def clean(text: str, limit: int) -> str:
    """Return a text on one line without control, format or unassigned characters, cut to `limit`."""
    cleaned = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    cleaned = " ".join(cleaned.split())
    return cleaned if len(cleaned) <= limit else f"{cleaned[: limit - 1]}…"


def quoted(text: str, limit: int) -> str:
    """Return the answer of a model as a later request quotes it: lines kept, each as `clean`."""
    lines = (clean(line, limit) for line in text[: 2 * limit].splitlines())
    cleaned = "\n".join(line for line in lines if line)
    return cleaned if len(cleaned) <= limit else f"{cleaned[: limit - 1]}…"


def tile_data(context: TileContext) -> str:
    """Return sensor, geometry and place of a tile as JSON, a line for each topic."""
    known = context.lon is not None and context.lat is not None
    centre = f"{context.lat:.4f}, {context.lon:.4f}" if known else None
    sensor = {
        "platform": context.platform,
        "band": context.band,
        "polarization": context.polarization,
        "mode": context.mode,
        "product": context.product_type,
        "looks": context.looks,
        "acquired_utc": context.acquired and context.acquired.strftime("%Y-%m-%d %H:%M"),
    }
    geometry = {
        "incidence_deg": context.incidence_deg,
        "orbit": context.orbit_direction,
        "look_side": context.look_side,
    }
    tile = {
        "scale": context.scale,
        "size_px": [context.width, context.height],
        "pixel_spacing_m": context.gsd_m,
        "side_m": context.extent_m,
        "upper_edge": "north" if context.north_up else None,
        "no_data_percent": round(100 * (1 - context.evidence.valid_fraction)) or None,
    }
    geography = context.geography
    place = {
        "centre_lat_lon": centre,
        "nearest_place": context.place,
        "country": context.country,
        "automatic_scene_type": context.scene_type,
        "automatic_landform": context.landform,
    }
    return _block(
        _MAX_CHARS,
        sensor=sensor,
        look_geometry=geometry,
        tile=tile,
        place=place,
        airports=[_place(near, context) for near in context.airports],
        ports=[_place(near, context) for near in context.ports],
        city=None if geography.city is None else _place(geography.city, context),
    )


def measured_data(context: TileContext) -> str:
    """Return the measured evidence as JSON, a line for each topic, and one for each target."""
    evidence = context.evidence
    targets = targets_of(context)
    length = _LengthUnit(evidence)
    backscatter = evidence.backscatter
    strips = [
        {"centre_px": [round(s.col), round(s.row)], length.name: length(s.length_px)}
        | _axis(s.orientation_deg, evidence)
        for s in evidence.strips[:_MAX_STRIPS]
    ]
    return _block(
        _MAX_CHARS,
        land_cover_percent=_shares(evidence.cover),
        prevailing_cover_by_region=_prevailing(evidence.cover),
        built_up_patches=evidence.cover.patches,
        very_bright_percent=round(100 * evidence.cover.strong_fraction),
        grey_level={
            "mean": backscatter.mean,
            "variation": backscatter.cv,
            "relative_to_scene_land": backscatter.relative_level,
        },
        grey_level_by_region={region_name(i): round(v) for i, v in enumerate(backscatter.by_region) if v > 0},
        waterline=_waterline(evidence.waterline, evidence),
        dark_straight_strips=strips,
        prevailing_edges=_axis(evidence.dominant_deg, evidence),
        target_count=len(targets) or None,
        targets=[_target(t, evidence) for t in _longest(targets)],
    )


def parent_data(fields: Mapping[str, str]) -> str:
    """Return the text of the next larger tile as JSON, a line for each field."""
    return _block(_MAX_PARENT_CHARS, **fields)


def targets_of(context: TileContext) -> list[Target]:
    """Return the targets of a tile's task: those on dark ground for `ground_target`, else those on water."""
    on_ground = context.task == "ground_target"
    return [t for t in context.evidence.targets if (t.setting == "dark_ground") == on_ground]


class _LengthUnit:
    """Lengths in metres, or in pixels if the spacing is not known, under a name with the unit."""

    def __init__(self, evidence: Evidence) -> None:
        self.unit = "m" if evidence.gsd_m else "px"
        self.name = f"length_{self.unit}"
        self._scale = evidence.gsd_m or 1.0

    def __call__(self, pixels: float) -> float:
        return round(pixels * self._scale)


def _place(near: Neighbour, context: TileContext) -> dict[str, Any]:
    place = near.place
    code = {"airport": "icao", "port": "un_locode", "city": "code"}[place.kind]
    known = context.known_places.get(place.code or "", ())
    return {
        "name": place.name,
        "country": place.country if place.country != context.country else None,
        code: place.code,
        "distance_km": near.distance_km,
        "direction_from_tile": None if near.distance_km < 0.1 else compass_point(near.bearing_deg),
        "bearing_deg": round(near.bearing_deg),
        "known_from_users_file": list(known[:_MAX_FACTS]),
    }


def _shares(cover: Cover) -> dict[str, int]:
    return {_COVER_NAMES[kind]: round(100 * cover.fractions[kind]) for kind in COVER_CLASSES}


def _prevailing(cover: Cover) -> dict[str, str]:
    return {
        region_name(i): _COVER_NAMES[max(COVER_CLASSES, key=lambda kind: shares[kind])]
        for i, shares in enumerate(cover.by_region)
        if sum(shares.values()) > 0
    }


def _waterline(line: Waterline | None, evidence: Evidence) -> dict[str, Any] | None:
    if line is None:
        return None
    length = _LengthUnit(evidence)
    parts = {
        "length": line.length_px,
        "straight": line.straight_px,
        "straight_and_built_up": line.quay_px,
        "of_that_very_bright": line.bright_px,
    }
    named: dict[str, Any] = {f"{name}_{length.unit}": length(px) for name, px in parts.items()}
    return named | {"longest_straight": _axis(line.orientation_deg, evidence)}


def _longest(targets: Iterable[Target]) -> list[Target]:
    return sorted(targets, key=lambda t: (-t.length_px, t.row, t.col))[:_MAX_TARGETS]


def _target(target: Target, evidence: Evidence) -> dict[str, Any]:
    length = _LengthUnit(evidence)
    return {
        "centre_px": [round(target.col), round(target.row)],
        "region": region_name(region_of(target.row, target.col, evidence.height, evidence.width)),
        length.name: length(target.length_px),
        f"width_{length.unit}": length(target.width_px),
        **_axis(target.orientation_deg, evidence),
        "times_background": target.contrast,
        "setting": target.setting.replace("_", " "),
        "cut_by_edge": target.touches_edge or None,
    }


def _axis(bearing_deg: float | None, evidence: Evidence) -> dict[str, int]:
    """Return the bearing of a line under a name with its origin."""
    if bearing_deg is None:
        return {}
    origin = "north" if evidence.north_known else "upper_edge"
    return {f"axis_deg_from_{origin}": round(bearing_deg) % 180}


def _block(most_chars: int, /, **topics: Any) -> str:
    """Return topics as readable JSON: one line each, and one for each object of a list."""
    lines = []
    for name, value in topics.items():
        known = _known(value, most_chars)
        if isinstance(known, list) and known:
            rows = ",\n".join(f"    {_json(row)}" for row in known)
            lines.append(f"  {_json(name)}: [\n{rows}\n  ]")
        elif known not in (None, {}, []):
            lines.append(f"  {_json(name)}: {_json(known)}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _known(value: Any, most_chars: int) -> Any:
    """Drop unknown values, clean strings and round numbers."""
    match value:
        case dict():
            known = {key: _known(inner, most_chars) for key, inner in value.items()}
            return {key: inner for key, inner in known.items() if inner not in (None, {}, [])}
        case list():
            return [_known(inner, most_chars) for inner in value]
        case str():
            return clean(value, most_chars)
        case float():
            return float(f"{value:.3g}") if abs(value) < 1000 else round(value)
        case _:
            return value


def _json(value: Any) -> str:
    # Escaped, not removed: a JSON parser still reads the original value.
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")
