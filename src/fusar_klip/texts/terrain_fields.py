"""The eight fields of a terrain tile: what the ground is, how it is laid out, and where it lies."""

from collections import Counter

from fusar_klip.texts.evidence import Evidence
from fusar_klip.texts.geography import Geography, name, seen_from_tile, whereabouts
from fusar_klip.texts.surroundings import (
    cover_shares,
    is_coarse,
    mainly_in,
    quays,
    shore,
    spacing,
    wider_view,
)
from fusar_klip.texts.wording import axis, counted, length, listed, number, percent, region_name, region_of

_DOMINANT = 0.6
_SOME = 0.02


def terrain_fields(evidence: Evidence, geography: Geography, parent: Evidence | None) -> dict[str, str]:
    """Return the fields of a tile without countable targets."""
    return {
        "Terrain": _terrain(evidence, geography),
        "Functionality": _functionality(evidence, geography),
        "Location": _location(evidence, geography),
        "Layout": _layout(evidence, geography) + wider_view(parent, geography),
        "Boundary": _boundary(evidence, geography),
        "Building": _building(evidence, geography),
        "Road": _road(evidence),
        "Water": _water(evidence),
    }


def _terrain(evidence: Evidence, geography: Geography) -> str:
    shares = evidence.cover.fractions
    if shares["water"] > 0.97:
        kind = "open water"
    elif shares["water"] >= 0.1:
        kind = "a waterside area of land and water"
    elif shares["built_up"] >= _DOMINANT:
        kind = "a built-up area" if geography.settled else "an area of strong texture"
    elif shares["open_land"] + shares["smooth"] >= 0.8:
        kind = "land of moderate or low backscatter"
    else:
        kind = "a mix of strongly and moderately scattering land"
    text = f"{kind}: {cover_shares(evidence, geography)}"
    if evidence.valid_fraction < 0.95:
        text += (
            f", in the {percent(evidence.valid_fraction).removeprefix('about ')} of the image that hold data"
        )
    if shares["open_land"] >= 0.3 and is_coarse(evidence):
        text += "; vegetation, bare ground and low houses are not told apart at this spacing"
    return text


def _functionality(evidence: Evidence, geography: Geography) -> str:
    shares = evidence.cover.fractions
    quay = quays(evidence, geography)
    if geography.at_airport is not None and shares["smooth"] >= 0.03:
        return (
            f"an airport area at {name(geography.at_airport)}: dark smooth surfaces, as of runways and "
            f"aprons, cover {percent(shares['smooth'])} of it"
        )
    if quay is not None and shares["water"] >= 0.05:
        where = f" near {seen_from_tile(geography.port)}" if geography.port else ""
        return f"a waterfront or harbour area{where}, with {quay}"
    if shares["water"] >= 0.9:
        return "a water surface; its use cannot be told from backscatter"
    if shares["built_up"] >= 0.3 and geography.settled:
        at = f" in or near {geography.place}" if geography.place else ""
        return f"an urban or industrial area{at}; what its buildings are used for is not measured"
    return "land whose use cannot be told from backscatter alone"


def _location(evidence: Evidence, geography: Geography) -> str:
    if evidence.cover.fractions["built_up"] < _SOME:
        return f"{whereabouts(geography)}; no part of the image stands out as built up"
    return f"{whereabouts(geography)}; the strongest backscatter is {mainly_in(evidence, 'built_up')}"


def _layout(evidence: Evidence, geography: Geography) -> str:
    patches = evidence.cover.patches
    kind = "built-up" if geography.settled else "strongly scattering"
    if patches == 0:
        text = "a layout without built-up patches"
    elif patches == 1:
        text = f"one connected {kind} area"
    else:
        text = f"{number(patches)} separate {kind} patches"
    if evidence.dominant_deg is None:
        return f"{text}, with no prevailing direction of edges"
    direction = axis(evidence.dominant_deg, north_known=evidence.north_known)
    return f"{text}, with edges prevailing {direction}"


def _boundary(evidence: Evidence, geography: Geography) -> str:
    quay = quays(evidence, geography)
    if evidence.waterline is not None:
        return shore(evidence) + (f", and {quay}" if quay else "")
    sides = Counter(
        max(region, key=lambda kind: (region[kind], kind))
        for region in evidence.cover.by_region
        if any(region.values())
    )
    if len(sides) <= 1:
        return "no boundary between kinds of ground stands out in the image"
    built_up = "built-up" if geography.settled else "strongly scattering"
    words = {"built_up": built_up, "open_land": "open", "smooth": "dark smooth", "water": "water"}
    kinds = listed([words[kind] for kind, _ in sorted(sides.items(), key=lambda item: (-item[1], item[0]))])
    return f"gradual boundaries between {kinds} ground, with no waterline"


def _building(evidence: Evidence, geography: Geography) -> str:
    share = evidence.cover.fractions["built_up"]
    if share < _SOME:
        return "no area of strongly scattering buildings stands out; single low buildings may be missed"
    density = "dense" if share >= _DOMINANT else "scattered" if share < 0.2 else "moderately dense"
    strong = evidence.cover.strong_fraction
    cause = " as of buildings" if geography.settled else ", of buildings or rugged relief,"
    very = ""
    if strong >= 0.05:
        very = f", {percent(strong)} of the image very bright"
        very += " as of large metal or high-rise structures" if geography.settled else ""
    return (
        f"{density} strong scatterers{cause} cover {percent(share)} of the image, "
        f"{mainly_in(evidence, 'built_up')}{very}; heights of buildings are not measured"
    )


def _road(evidence: Evidence) -> str:
    if not evidence.strips:
        return f"no long dark straight strip, as of a wide road or runway, stands out at {spacing(evidence)}"
    longest = evidence.strips[0]
    region = region_name(region_of(longest.row, longest.col, evidence.height, evidence.width))
    strips = counted(len(evidence.strips), "long dark straight strip")
    kind = "as of main roads, runways or channels"
    reach = length(longest.length_px, evidence.gsd_m)
    direction = axis(longest.orientation_deg, north_known=evidence.north_known)
    which = "" if len(evidence.strips) == 1 else "the longest "
    return f"{strips}, {kind}, {which}{reach} long, running {direction} through the {region} of the image"


def _water(evidence: Evidence) -> str:
    share = evidence.cover.fractions["water"]
    if share == 0:
        return "no open water is visible; narrow streams and canals may be missed"
    if share > 0.97:
        return "water covers nearly all of the image, and smooth ground would look the same"
    return f"dark water covers {percent(share)} of the image, {mainly_in(evidence, 'water')}"
