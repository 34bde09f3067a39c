"""Phrases about land cover, waterfront and surroundings, which several fields share."""

from typing import Literal, TypeAlias

from fusar_klip.texts.measure.evidence import CoverClass, Evidence
from fusar_klip.texts.measure.geography import Geography
from fusar_klip.texts.phrases import axis, length, listed, region_name, tenths

Waterfront: TypeAlias = Literal["terminal", "quays", "built_up"]
"""What stands at the water's edge: bright quays near a known port, straight quays near one, or a straight
built-up shore elsewhere."""

_COARSE_M = 5.0
_MENTION = 0.05
THROUGHOUT = 0.95
_MIN_QUAY_M = 300.0  # at least two ship lengths of straight edge before it is called a quay
_QUAY_STRONG = 0.1  # of the land is very bright: stacks, cranes; towns by the beach have less
_TERMINAL_BRIGHT_M = 300.0
_HARBOUR_SIDES = 2.0  # an open coast crosses a tile once (1.4 sides at most); a basin has two banks
_PORT_GROUNDS_KM = 6.0  # a port is a point to the gazetteer; large ones reach this far

_SURROUNDING: dict[CoverClass, str] = {
    "water": "within open water",
    "smooth": "within dark ground",
    "open_land": "within open land",
    "built_up": "within a built-up surrounding",
}


def is_coarse(evidence: Evidence) -> bool:
    """Return whether the spacing is over 5 m or not known: too coarse to identify targets as ships."""
    return evidence.gsd_m is None or evidence.gsd_m > _COARSE_M


def spacing_phrase(evidence: Evidence) -> str:
    """Return a phrase for the ground spacing: "at 8.3 m"."""
    return "at unknown spacing" if evidence.gsd_m is None else f"at {evidence.gsd_m:.2g} m"


def cover_name(kind: CoverClass, geography: Geography) -> str:
    """Return the name of a cover class; far from any city, rugged relief is as likely as buildings."""
    built_up = "built-up" if geography.settled else "built-up or rugged"
    words: dict[CoverClass, str] = {
        "water": "open water",
        "smooth": "dark ground",
        "open_land": "open land",
        "built_up": built_up,
    }
    return words[kind]


def cover_shares(evidence: Evidence, geography: Geography) -> str:
    """Return the three largest classes of at least 5 % with their shares in steps of 10 %."""
    present = [(share, kind) for kind, share in evidence.cover.fractions.items() if share >= _MENTION]
    present.sort(key=lambda item: (-item[0], item[1]))
    if not present:
        return "no valid pixels"
    if present[0][0] > THROUGHOUT:
        return f"{cover_name(present[0][1], geography)} throughout"
    return ", ".join(f"{tenths(share)} {cover_name(kind, geography)}" for share, kind in present[:3])


def main_regions(evidence: Evidence, kind: CoverClass) -> str:
    """Return the main regions of a class: "in the upper left and left", or "throughout"."""
    shares = [region[kind] for region in evidence.cover.by_region]
    top = max(shares)
    if min(shares) > 0.6 * top:
        return "throughout"
    strongest = sorted(range(9), key=lambda i: (-shares[i], i))[:2]
    chosen = sorted(i for i in strongest if shares[i] >= 0.75 * top)
    return f"in the {listed([region_name(i) for i in chosen])}"


def waterfront(evidence: Evidence, geography: Geography) -> Waterfront | None:
    """Classify what stands at the water's edge; None if it is not built up.

    Backscatter alone does not distinguish a terminal from a town by the sea; a known port nearby, and a
    waterline that winds around basins, do.
    """
    line = evidence.waterline
    spacing_m = evidence.gsd_m or 1.0
    if line is None or line.quay_px * spacing_m < _MIN_QUAY_M:
        return None
    near_port = geography.port is not None and geography.port.distance_km <= (
        _PORT_GROUNDS_KM + geography.half_km
    )
    winding = line.length_px >= _HARBOUR_SIDES * max(evidence.height, evidence.width)
    land = 1 - evidence.cover.fractions["water"]
    if not (near_port and winding) or evidence.cover.strong_fraction < _QUAY_STRONG * land:
        return "built_up"
    return "terminal" if line.bright_px * spacing_m >= _TERMINAL_BRIGHT_M else "quays"


def waterline_phrase(evidence: Evidence) -> str:
    """Return a phrase for the waterline, which must exist."""
    line = evidence.waterline
    assert line is not None
    text = f"{length(line.length_px, evidence.gsd_m)} waterline"
    if line.orientation_deg is None:
        return f"{text}, nowhere straight"
    direction = axis(line.orientation_deg, north_known=evidence.north_known)
    return f"{text}, {tenths(line.straight_px / max(line.length_px, 1.0))} straight, {direction}"


def surroundings_phrase(evidence: Evidence, parent: Evidence | None) -> str:
    """Return a clause about the larger tile if its prevailing cover differs from the tile's, else ""."""
    if parent is None:
        return ""
    own, outer = (
        max(e.cover.fractions.items(), key=lambda item: (item[1], item[0])) for e in (evidence, parent)
    )
    return "" if own[0] == outer[0] or outer[1] == 0 else f", {_SURROUNDING[outer[0]]}"
