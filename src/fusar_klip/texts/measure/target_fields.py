"""Rules for the fields of target tiles: ships on water, compact targets on an airport's dark ground."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from fusar_klip.texts.measure.evidence import Evidence, Target, TargetSetting
from fusar_klip.texts.measure.geography import Geography, nearby_places, place_name
from fusar_klip.texts.measure.surroundings import (
    THROUGHOUT,
    cover_shares,
    is_coarse,
    main_regions,
    spacing_phrase,
    surroundings_phrase,
    waterfront,
)
from fusar_klip.texts.phrases import (
    axis,
    counted,
    distance,
    length,
    listed,
    number,
    region_of,
    regions_with_counts,
    sizes,
)

_SMALL_SHIP_M = 50.0
_LARGE_SHIP_M = 180.0
_CLOSE_SHARE = 0.12  # of the tile's side: mean distance to the nearest other target that still is a cluster


def marine_target_fields(evidence: Evidence, geography: Geography, parent: Evidence | None) -> dict[str, str]:
    """Return the fields of a tile with bright targets on water."""
    targets = [t for t in evidence.targets if t.setting != "dark_ground"]
    count = counted(len(targets), "ship")
    if is_coarse(evidence):
        count = (
            counted(len(targets), "bright target")
            + ", probably "
            + ("a ship" if len(targets) == 1 else "ships")
        )
    uncounted = "; ships touching quays not counted" if waterfront(evidence, geography) else ""
    return {
        "Count": count + _cut_by_edge(targets) + uncounted,
        "Location": _location(targets, evidence),
        "Feature": _feature(targets, "the sea"),
        "Size": _size(targets, evidence),
        "Category": _ship_category(targets, evidence),
        "Distribution": _distribution(targets, evidence),
        "Region": f"{_setting(targets)}; {nearby_places(geography, 1)}",
        "Environment": _marine_environment(evidence, geography) + surroundings_phrase(evidence, parent),
    }


def ground_target_fields(evidence: Evidence, geography: Geography, parent: Evidence | None) -> dict[str, str]:
    """Return the fields of an airport tile with compact bright targets on dark ground."""
    targets = [t for t in evidence.targets if t.setting == "dark_ground"]
    airport = geography.airport
    assert airport is not None, "choose_task asks for an airport"
    return {
        "Count": counted(len(targets), "compact bright target") + _cut_by_edge(targets),
        "Location": _location(targets, evidence),
        "Feature": _feature(targets, "the ground around"),
        "Size": _size(targets, evidence),
        "Category": f"aircraft, vehicles or small structures, not told apart {spacing_phrase(evidence)}",
        "Distribution": _distribution(targets, evidence),
        "Region": f"dark apron or runway ground of {place_name(airport)}",
        "Environment": cover_shares(evidence, geography)
        + _strips(evidence)
        + surroundings_phrase(evidence, parent),
    }


def _cut_by_edge(targets: Sequence[Target]) -> str:
    cut = sum(t.touches_edge for t in targets)
    if cut == 0:
        return ""
    return f", {'' if len(targets) == 1 else number(cut) + ' '}cut by the edge"


def _location(targets: Sequence[Target], evidence: Evidence) -> str:
    regions = [region_of(t.row, t.col, evidence.height, evidence.width) for t in targets]
    return regions_with_counts(regions)


def _feature(targets: Sequence[Target], around: str) -> str:
    long = sum(t.length_px >= 2 * t.width_px for t in targets)
    shape = "elongated" if long == len(targets) else "compact" if long == 0 else "elongated and compact"
    noun = "return" if len(targets) == 1 else "returns"
    contrast = float(np.median([t.contrast for t in targets]))
    return f"{shape} {noun}, about {contrast:.0f} times as bright as {around}"


def _size(targets: Sequence[Target], evidence: Evidence) -> str:
    lengths = sizes([t.length_px for t in targets], evidence.gsd_m)
    widths = sizes([t.width_px for t in targets], evidence.gsd_m)
    return f"about {lengths} long, {widths} wide"


def _ship_category(targets: Sequence[Target], evidence: Evidence) -> str:
    if evidence.gsd_m is None:
        return "ships, size and type not told at unknown spacing"
    lengths = [t.length_px * evidence.gsd_m for t in targets]
    classes = Counter(
        "small" if m < _SMALL_SHIP_M else "medium" if m < _LARGE_SHIP_M else "large" for m in lengths
    )
    kinds = listed([size for size in ("large", "medium", "small") if classes[size]])
    noun = "vessel" if len(targets) == 1 else "vessels"
    return f"{kinds} {noun}, type not told {spacing_phrase(evidence)}"


def _distribution(targets: Sequence[Target], evidence: Evidence) -> str:
    if len(targets) == 1:
        target = targets[0]
        if target.orientation_deg is None:
            return "single, without a clear axis"
        direction = axis(target.orientation_deg, north_known=evidence.north_known)
        return f"single, axis {direction}"
    points = np.array([(t.row, t.col) for t in targets])
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    nearest = float(apart.min(axis=1).mean())
    gap = distance(nearest * evidence.gsd_m) if evidence.gsd_m else f"{round(nearest)} pixels"
    if len(targets) == 2:
        return f"a pair {gap} apart{_headings(targets, evidence)}"
    spreads = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(points.T)), 0))
    if spreads[0] < 0.2 * spreads[1]:
        layout = "in a line"
    elif nearest < _CLOSE_SHARE * max(evidence.height, evidence.width):
        layout = "clustered"
    else:
        layout = "dispersed"
    return f"{layout}, {gap} apart{_headings(targets, evidence)}"


def _headings(targets: Sequence[Target], evidence: Evidence) -> str:
    """State whether the targets are parallel: the resultant of their doubled angles (axes have no sign)."""
    angles = [t.orientation_deg for t in targets if t.orientation_deg is not None]
    if len(angles) < 2:
        return ""
    resultant = np.exp(2j * np.radians(angles)).mean()
    if abs(resultant) < 0.8:
        return ", axes in different directions"
    bearing = float(np.degrees(np.angle(resultant)) / 2 % 180)
    return f", axes parallel, {axis(bearing, north_known=evidence.north_known)}"


def _setting(targets: Sequence[Target]) -> str:
    counts = Counter(t.setting for t in targets)
    words: dict[TargetSetting, str] = {
        "open_water": "on open water",
        "near_shore": "near shore",
        "alongside": "alongside a quay or shore",
    }
    present = [(counts[key], text) for key, text in words.items() if counts[key]]
    return present[0][1] if len(present) == 1 else ", ".join(f"{number(n)} {text}" for n, text in present)


def _marine_environment(evidence: Evidence, geography: Geography) -> str:
    text = cover_shares(evidence, geography)
    line = evidence.waterline
    if line is None:
        return f"{text}, no shore in sight"
    match waterfront(evidence, geography):
        case "terminal":
            return f"{text}; quays as of a container terminal"
        case "quays":
            return f"{text}; port quays over {length(line.quay_px, evidence.gsd_m)}"
        case "built_up":
            return f"{text}; built-up shore over {length(line.quay_px, evidence.gsd_m)}"
        case None:
            reach = length(line.length_px, evidence.gsd_m)
            if evidence.cover.fractions["water"] > THROUGHOUT:
                return f"{text}; {reach} waterline"
            return f"{text}; {reach} waterline, water {main_regions(evidence, 'water')}"


def _strips(evidence: Evidence) -> str:
    if not evidence.strips:
        return ""
    direction = axis(evidence.strips[0].orientation_deg, north_known=evidence.north_known)
    return f"; {counted(len(evidence.strips), 'runway-like strip')}, {direction}"
