"""Rules for the fields of a terrain tile: land cover, layout and location."""

from fusar_klip.texts.measure.evidence import CoverClass, Evidence
from fusar_klip.texts.measure.geography import Geography, nearby_places
from fusar_klip.texts.measure.surroundings import (
    cover_name,
    cover_shares,
    main_regions,
    spacing_phrase,
    surroundings_phrase,
    waterfront,
    waterline_phrase,
)
from fusar_klip.texts.phrases import axis, counted, length, number, region_name, region_of, tenths

_DOMINANT = 0.6
_SOME = 0.02
_VERY_BRIGHT = 0.05
_EVEN_CV = 0.6  # above that of one-look speckle (0.52): something other than speckle is there
_EVEN_LEVELS = 1.15  # greatest over least mean of the 3 x 3 regions, up to which a tile looks even


def terrain_fields(evidence: Evidence, geography: Geography, parent: Evidence | None) -> dict[str, str]:
    """Return the fields of a tile without countable targets."""
    return {
        "Terrain": _terrain(evidence, geography),
        "Functionality": _functionality(evidence, geography),
        "Location": f"{_strongest(evidence)}; {nearby_places(geography, 2)}",
        "Layout": _layout(evidence, geography) + surroundings_phrase(evidence, parent),
        "Boundary": _boundary(evidence, geography),
        "Building": _building(evidence, geography),
        "Road": _road(evidence, geography),
        "Water": _water(evidence),
    }


def _terrain(evidence: Evidence, geography: Geography) -> str:
    text = cover_shares(evidence, geography)
    if evidence.valid_fraction < 0.95:
        text += f"; {tenths(1 - evidence.valid_fraction)} without data"
    return text


def _functionality(evidence: Evidence, geography: Geography) -> str:
    shares = evidence.cover.fractions
    if geography.at_airport is not None and shares["smooth"] >= 0.03:
        return "airport, dark ground as of runways and aprons"
    if shares["water"] >= 0.05:
        match waterfront(evidence, geography):
            case "terminal":
                return "harbour, as of a container terminal with ships alongside the quay"
            case "quays":
                return "harbour or port waterfront with quays"
            case "built_up":
                return "built-up waterfront"
            case None:
                pass
    if shares["water"] >= 0.9:
        return f"sea or lake surface, {_roughness(evidence)}"
    if shares["built_up"] >= 0.3 and geography.settled:
        at = f" of {geography.place}" if geography.place else ""
        return f"urban or industrial area{at}"
    return "land use not told by backscatter"


def _roughness(evidence: Evidence) -> str:
    """Return a phrase for the grey levels of a water tile, in which water tiles differ."""
    level = evidence.backscatter.relative_level
    shade = "very dark" if level < 0.15 else "dark" if level < 0.4 else "moderately bright"
    return f"{shade} and {'even' if evidence.backscatter.cv < _EVEN_CV else 'uneven'}"


def _strongest(evidence: Evidence) -> str:
    levels = evidence.backscatter.by_region
    brightest = max(range(9), key=lambda i: (levels[i], -i))
    known = [level for level in levels if level > 0]
    if not known or max(known) <= _EVEN_LEVELS * min(known):
        return "backscatter even across the image"
    return f"strongest backscatter in the {region_name(brightest)}"


def _layout(evidence: Evidence, geography: Geography) -> str:
    patches = evidence.cover.patches
    kind = "built-up" if geography.settled else "bright"
    if patches == 0:
        text = f"no {kind} patch"
    elif patches == 1:
        text = f"one connected {kind} area"
    else:
        text = f"{number(patches)} separate {kind} patches"
    if evidence.dominant_deg is None:
        return text
    return f"{text}, edges mainly {axis(evidence.dominant_deg, north_known=evidence.north_known)}"


def _boundary(evidence: Evidence, geography: Geography) -> str:
    line = evidence.waterline
    if line is not None:
        kind = waterfront(evidence, geography)
        if kind is None:
            return waterline_phrase(evidence)
        edge = "built-up shore" if kind == "built_up" else "quays"
        return f"{waterline_phrase(evidence)}; {edge} over {length(line.quay_px, evidence.gsd_m)}"
    shares = evidence.cover.fractions
    first, second = sorted(shares, key=lambda kind: (-shares[kind], kind))[:2]
    if shares[second] < 0.05:
        return "no boundary stands out"
    text = f"gradual, {_ground(first, geography)} to {_ground(second, geography)}"
    # Where the built-up land lies stands in Building.
    return text if second == "built_up" else f"{text} {main_regions(evidence, second)}"


def _ground(kind: CoverClass, geography: Geography) -> str:
    word = cover_name(kind, geography)
    return f"{word} land" if kind == "built_up" else word


def _building(evidence: Evidence, geography: Geography) -> str:
    share = evidence.cover.fractions["built_up"]
    if share < _SOME:
        return "no buildings stand out"
    density = "dense" if share >= _DOMINANT else "scattered" if share < 0.2 else "moderately dense"
    what = "buildings" if geography.settled else "buildings or rugged relief"
    text = f"{density} {what} {main_regions(evidence, 'built_up')}"
    strong = evidence.cover.strong_fraction
    return text if strong < _VERY_BRIGHT else f"{text}, {tenths(strong)} very bright, heights not measured"


def _road(evidence: Evidence, geography: Geography) -> str:
    if not evidence.strips:
        return f"no straight road stands out {spacing_phrase(evidence)}"
    longest = evidence.strips[0]
    region = region_name(region_of(longest.row, longest.col, evidence.height, evidence.width))
    kind = "runway-like" if geography.at_airport is not None else "road-like"
    which = "" if len(evidence.strips) == 1 else "longest "
    direction = axis(longest.orientation_deg, north_known=evidence.north_known)
    reach = length(longest.length_px, evidence.gsd_m)
    return f"{counted(len(evidence.strips), f'{kind} strip')}, {which}{reach}, {direction}, {region}"


def _water(evidence: Evidence) -> str:
    share = evidence.cover.fractions["water"]
    if share == 0:
        return "no open water visible"
    if share > 0.97:
        return "open water, no shore in sight"
    if share < 0.05:
        return f"little open water {main_regions(evidence, 'water')}"
    return f"open water {main_regions(evidence, 'water')}"
