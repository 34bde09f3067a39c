"""What lies around targets, and what a tile consists of: clauses that several fields share."""

from fusar_klip.texts.evidence import CoverClass, Evidence
from fusar_klip.texts.geography import Geography, seen_from_tile
from fusar_klip.texts.wording import axis, length, listed, percent, region_name

_COARSE_M = 5.0
_MENTION = 0.03
_TERMINAL_STRONG = 0.08  # stacks and cranes; a town by the beach has about 0.06 (Los Angeles)
_PORT_GROUNDS_KM = 6.0  # a port is a point to the gazetteer; large ones reach this far

_COVER_WORDS: dict[CoverClass, str] = {
    "water": "dark water",
    "smooth": "dark smooth ground",
    "open_land": "open land of moderate backscatter",
}


def is_coarse(evidence: Evidence) -> bool:
    """Tell whether the spacing is too coarse (over 5 m, or not known) to tell a ship from a like thing."""
    return evidence.gsd_m is None or evidence.gsd_m > _COARSE_M


def spacing(evidence: Evidence) -> str:
    """Return the ground spacing in words."""
    if evidence.gsd_m is None:
        return "an unknown ground spacing"
    return f"{evidence.gsd_m:.2g} m ground spacing"


def cover_word(kind: CoverClass, geography: Geography) -> str:
    """Return a class in words; far from any city, rugged relief is as likely as buildings."""
    if kind != "built_up":
        return _COVER_WORDS[kind]
    if geography.settled:
        return "strongly scattering built-up land"
    return "strongly scattering land, built up or rugged"


def cover_shares(evidence: Evidence, geography: Geography) -> str:
    """Return the classes of at least 3 % with their shares, greatest first."""
    present = [(share, kind) for kind, share in evidence.cover.fractions.items() if share >= _MENTION]
    if not present:
        return "no valid pixels"
    present.sort(key=lambda item: (-item[0], item[1]))
    if present[0][0] > 0.99:
        return f"{cover_word(present[0][1], geography)} throughout"
    return listed([f"{cover_word(kind, geography)} ({percent(share)})" for share, kind in present])


def mainly_in(evidence: Evidence, kind: CoverClass) -> str:
    """Return where in the image a class lies: "mainly in the upper left and left", or "throughout"."""
    shares = [region[kind] for region in evidence.cover.by_region]
    top = max(shares)
    if min(shares) > 0.6 * top:
        return "in all parts of the image"
    chosen = [i for i, share in enumerate(shares) if share >= 0.75 * top]
    chosen = sorted(sorted(chosen, key=lambda i: (-shares[i], i))[:3])
    return f"mainly in the {listed([region_name(i) for i in chosen])} of the image"


def quays(evidence: Evidence, geography: Geography) -> str | None:
    """Return what stands at the water's edge, or None where nothing built up does."""
    line = evidence.waterline
    if line is None:
        return None
    # At least two ship lengths of straight edge before it is called a quay.
    if line.quay_px * (evidence.gsd_m or 1.0) < 300:
        return None
    if evidence.cover.strong_fraction < 0.05:
        return f"a straight built-up shore over {length(line.quay_px, evidence.gsd_m)}"
    text = f"straight built-up edges along the water over {length(line.quay_px, evidence.gsd_m)}"
    edged = line.bright_px / line.quay_px
    # Backscatter alone does not tell a terminal from a town by the sea; a port that is known to be near does.
    if geography.port is None or geography.port.distance_km > _PORT_GROUNDS_KM + geography.half_km:
        return f"{text}, as of a built-up waterfront or quays"
    if edged < 0.1 or evidence.cover.strong_fraction < _TERMINAL_STRONG:
        return f"{text}, as of quays or terminals of a port"
    return (
        f"{text}, {percent(edged)} of them edged with very bright strips, as of a container terminal with "
        "cranes and ships alongside the quay"
    )


def shore(evidence: Evidence) -> str:
    """Return the waterline in words."""
    line = evidence.waterline
    if line is None:
        whole = evidence.cover.fractions["water"]
        return "no shore in sight" if whole > 0.5 else "no shoreline in the tile"
    text = f"a waterline of {length(line.length_px, evidence.gsd_m)}"
    if line.orientation_deg is not None:
        text += (
            f", {percent(line.straight_px / max(line.length_px, 1.0))} of it straight, its longest stretch "
            f"running {axis(line.orientation_deg, north_known=evidence.north_known)}"
        )
    return text


def wider_view(parent: Evidence | None, geography: Geography) -> str:
    """Return a clause on the larger tile around this one, empty where there is none."""
    return "" if parent is None else f"; the larger tile around it holds {cover_shares(parent, geography)}"


def neighbours(geography: Geography) -> str:
    """Return a clause on the nearest port and airport, empty where none is known."""
    known = [n for n in (geography.port, geography.airport) if n is not None]
    return f", with {listed([seen_from_tile(n) for n in known])}" if known else ""
