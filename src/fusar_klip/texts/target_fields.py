"""The eight fields of target tiles: ships on water, compact targets on an airport's dark ground."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from fusar_klip.texts.evidence import Evidence, Target, TargetSetting
from fusar_klip.texts.geography import Geography, name, seen_from_tile
from fusar_klip.texts.surroundings import (
    cover_shares,
    is_coarse,
    mainly_in,
    neighbours,
    quays,
    shore,
    spacing,
    wider_view,
)
from fusar_klip.texts.wording import (
    axis,
    counted,
    distance,
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
    what = "bright target" if is_coarse(evidence) else "ship"
    count = counted(len(targets), what)
    if is_coarse(evidence):
        count += " on the water, probably a ship" if len(targets) == 1 else " on the water, probably ships"
    return {
        "Count": count + _cut_by_edge(targets),
        "Location": _location(targets, evidence),
        "Feature": _feature(targets, "the sea around"),
        "Size": _size(targets, evidence),
        "Category": _ship_category(targets, evidence),
        "Distribution": _distribution(targets, evidence),
        "Region": _marine_region(targets, geography),
        "Environment": _marine_environment(evidence, geography) + wider_view(parent, geography),
    }


def ground_target_fields(evidence: Evidence, geography: Geography, parent: Evidence | None) -> dict[str, str]:
    """Return the fields of an airport tile with compact bright targets on dark ground."""
    targets = [t for t in evidence.targets if t.setting == "dark_ground"]
    airport = geography.airport
    assert airport is not None, "choose_task asks for an airport"
    return {
        "Count": f"{counted(len(targets), 'compact bright target')} on dark smooth ground"
        + _cut_by_edge(targets),
        "Location": _location(targets, evidence),
        "Feature": _feature(targets, "the dark ground around"),
        "Size": _size(targets, evidence),
        "Category": "possibly aircraft, vehicles or small structures; backscatter at "
        f"{spacing(evidence)} does not tell which, nor any type of aircraft",
        "Distribution": _distribution(targets, evidence),
        "Region": f"on or beside the dark smooth surfaces, as of aprons, taxiways and runways, around "
        f"{seen_from_tile(airport)}",
        "Environment": f"the tile holds {cover_shares(evidence, geography)}, with built-up land "
        f"{mainly_in(evidence, 'built_up')}{_strips(evidence)}{wider_view(parent, geography)}",
    }


def _cut_by_edge(targets: Sequence[Target]) -> str:
    cut = sum(t.touches_edge for t in targets)
    if cut == 0:
        return ""
    return f", {'' if len(targets) == 1 else number(cut) + ' of them '}cut by the edge of the image"


def _location(targets: Sequence[Target], evidence: Evidence) -> str:
    regions = [region_of(t.row, t.col, evidence.height, evidence.width) for t in targets]
    return f"{regions_with_counts(regions)} of the image"


def _feature(targets: Sequence[Target], around: str) -> str:
    long = sum(t.length_px >= 2 * t.width_px for t in targets)
    shape = "elongated" if long == len(targets) else "compact" if long == 0 else "elongated and compact"
    noun = "return" if len(targets) == 1 else "returns"
    levels = sorted(round(20 * math.log10(t.contrast)) for t in targets)
    strength = f"{levels[0]} dB" if levels[0] == levels[-1] else f"{levels[0]} to {levels[-1]} dB"
    ratio = float(np.median([t.length_px / max(t.width_px, 1.0) for t in targets]))
    return (
        f"{'a ' if len(targets) == 1 else ''}bright {shape} {noun}, {strength} above {around}, "
        f"about {ratio:.1f} times as long as wide"
    )


def _size(targets: Sequence[Target], evidence: Evidence) -> str:
    lengths = sizes([t.length_px for t in targets], evidence.gsd_m)
    widths = sizes([t.width_px for t in targets], evidence.gsd_m)
    closing = f"as the bright return extends at {spacing(evidence)}"
    return f"about {lengths} long and {widths} wide, {closing}"


def _ship_category(targets: Sequence[Target], evidence: Evidence) -> str:
    if evidence.gsd_m is None:
        return "ships of unknown size; neither size nor type can be told at an unknown ground spacing"
    lengths = [t.length_px * evidence.gsd_m for t in targets]
    classes = Counter(
        "small craft" if m < _SMALL_SHIP_M else "medium" if m < _LARGE_SHIP_M else "large" for m in lengths
    )
    words = {"small craft": "small craft", "medium": "medium-sized vessels", "large": "large vessels"}
    kinds = listed([words[key] for key in ("large", "medium", "small craft") if classes[key]])
    by = "by their lengths" if len(targets) > 1 else "by its length one of the"
    return f"{by} {kinds}; the type of ship cannot be told from backscatter at {spacing(evidence)}"


def _distribution(targets: Sequence[Target], evidence: Evidence) -> str:
    if len(targets) == 1:
        target = targets[0]
        if target.orientation_deg is None:
            return "a single target without a clear axis"
        direction = axis(target.orientation_deg, north_known=evidence.north_known)
        return f"a single target with its axis running {direction}"
    points = np.array([(t.row, t.col) for t in targets])
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    nearest = float(apart.min(axis=1).mean())
    gap = distance(nearest * evidence.gsd_m) if evidence.gsd_m else f"{round(nearest)} pixels"
    if len(targets) == 2:
        return f"a pair {gap} apart{_headings(targets, evidence)}"
    spreads = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(points.T)), 0))
    if spreads[0] < 0.2 * spreads[1]:
        layout = "arranged roughly in a line"
    elif nearest < _CLOSE_SHARE * max(evidence.height, evidence.width):
        layout = "clustered"
    else:
        layout = "dispersed"
    return f"{layout}, on average {gap} from the nearest other{_headings(targets, evidence)}"


def _headings(targets: Sequence[Target], evidence: Evidence) -> str:
    """Say whether the targets lie parallel: the resultant of their doubled angles (axes have no sign)."""
    angles = [t.orientation_deg for t in targets if t.orientation_deg is not None]
    if len(angles) < 2:
        return ""
    resultant = np.exp(2j * np.radians(angles)).mean()
    if abs(resultant) < 0.8:
        return ", with axes in different directions"
    bearing = float(np.degrees(np.angle(resultant)) / 2 % 180)
    return f", their axes about parallel, {axis(bearing, north_known=evidence.north_known)}"


def _marine_region(targets: Sequence[Target], geography: Geography) -> str:
    counts = Counter(t.setting for t in targets)
    words: dict[TargetSetting, str] = {
        "open_water": "on open water away from the shore",
        "near_shore": "on the water within 150 m of land",
        "alongside": "alongside the shore or a quay",
    }
    present = [(counts[key], text) for key, text in words.items() if counts[key]]
    where = present[0][1] if len(present) == 1 else listed([f"{number(n)} {text}" for n, text in present])
    if geography.at_port is not None:
        return f"{where}, at {name(geography.at_port)}"
    return where + neighbours(geography)


def _marine_environment(evidence: Evidence, geography: Geography) -> str:
    text = f"the tile holds {cover_shares(evidence, geography)}"
    land = 1 - evidence.cover.fractions["water"]
    if land < 0.02:
        return f"{text}, with no land or shore in sight"
    text += f", with {shore(evidence)}"
    if evidence.cover.fractions["built_up"] >= 0.03:
        text += f" and built-up land {mainly_in(evidence, 'built_up')}"
    quay = quays(evidence, geography)
    return f"{text}; {quay}" if quay else text


def _strips(evidence: Evidence) -> str:
    if not evidence.strips:
        return ""
    directions = axis(evidence.strips[0].orientation_deg, north_known=evidence.north_known)
    return f" and {counted(len(evidence.strips), 'long dark straight strip')}, the longest {directions}"
