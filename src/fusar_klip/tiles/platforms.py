"""What is known of the SAR platforms by their names: band, spacing, looks and the usual geometry.

The simulator makes scenes with these values; the builder uses `platform_of_name` to learn the platform,
band, mode, polarization and time of a scene from its file name or its tags. Values of a single scene (its
incidence angle, its look side) are never taken from here: they are not known from the name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Platform:
    """A SAR platform in the imaging mode that this package simulates.

    Attributes:
        name: As written into the catalog.
        band: Letter of the radar band.
        frequency_ghz: Centre frequency.
        gsd_m: Ground spacing of a pixel, in metres.
        polarization: Transmit and receive, such as "HH".
        mode: The operator's name of the imaging mode.
        product_type: The operator's name of the product.
        looks: Equivalent number of independent looks of a pixel's intensity.
        incidence_deg: Incidence angle at the scene's centre, a usual value.
        look_side: "right" or "left" of the flight direction.
    """

    name: str
    band: str
    frequency_ghz: float
    gsd_m: float
    polarization: str
    mode: str
    product_type: str
    looks: float
    incidence_deg: float
    look_side: str


PLATFORMS: Mapping[str, Platform] = {
    p.name: p
    for p in (
        Platform("Qilu-1", "Ku", 14.9, 0.2, "HH", "spotlight", "L1A", 1.0, 40.0, "right"),
        Platform("Gaofen-3", "C", 5.4, 1.0, "HH", "SL", "L2", 1.0, 35.0, "right"),
        Platform("Hongtu-1", "X", 9.6, 3.0, "HH", "stripmap", "L2", 1.5, 35.0, "right"),
        Platform("Sentinel-1", "C", 5.405, 10.0, "VV", "IW", "GRDH", 4.4, 38.0, "right"),
    )
}
"""The paper's three platforms (section 3.1) and Sentinel-1, whose scenes are free to all."""

BANDS: Mapping[str, str] = {
    **{name: p.band for name, p in PLATFORMS.items()},
    "Umbra": "X",
    "Capella": "X",
    "ICEYE": "X",
    "TerraSAR-X": "X",
    "COSMO-SkyMed": "X",
    "RADARSAT-2": "C",
    "RCM": "C",
    "ALOS-2": "L",
    "SAOCOM": "L",
}
"""Radar band by platform."""

_NAME_PATTERNS: Mapping[str, str] = {
    r"s1[abcd]_|sentinel-?1": "Sentinel-1",
    r"gf-?3|gaofen-?3": "Gaofen-3",
    r"ql-?1|qilu-?1": "Qilu-1",
    r"ht-?1|hongtu-?1|piesat-?1": "Hongtu-1",
    r"umbra": "Umbra",
    r"capella": "Capella",
    r"iceye": "ICEYE",
    r"tsx1|tdx1|terrasar-?x": "TerraSAR-X",
    r"cosmo|csks\d": "COSMO-SkyMed",
    r"rs2|radarsat-?2": "RADARSAT-2",
    r"rcm\d": "RCM",
    r"alos-?2": "ALOS-2",
    r"saocom": "SAOCOM",
}
_SENTINEL_NAME = re.compile(r"s1[abcd]_(iw|ew|sm|wv)_+([a-z]{3})(.)", re.IGNORECASE)
_POLARIZATION = re.compile(r"(?<![a-z0-9])(vv|vh|hh|hv)(?![a-z0-9])", re.IGNORECASE)
_TIME = re.compile(r"(?<!\d)(\d{8})t(\d{6})(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class NamedFacts:
    """What a scene's name or tags say; None where they do not say it."""

    platform: str | None = None
    band: str | None = None
    mode: str | None = None
    product_type: str | None = None
    polarization: str | None = None
    acquired: datetime | None = None


def facts_of_name(name: str) -> NamedFacts:
    """Read platform, band, mode, product, polarization and time (UTC) out of a product or file name."""
    platform = next(
        (
            known
            for pattern, known in _NAME_PATTERNS.items()
            if re.search(rf"(?<![a-z0-9])(?:{pattern})", name, re.IGNORECASE)
        ),
        None,
    )
    sentinel = _SENTINEL_NAME.search(name)
    polarization = _POLARIZATION.search(name.replace("_", " "))
    return NamedFacts(
        platform=platform,
        band=BANDS.get(platform) if platform else None,
        mode=sentinel[1].upper() if sentinel else None,
        product_type=(sentinel[2] + sentinel[3]).upper().strip("_") if sentinel else None,
        polarization=polarization[1].upper() if polarization else None,
        acquired=_time_of_name(name),
    )


def _time_of_name(name: str) -> datetime | None:
    if not (match := _TIME.search(name)):
        return None
    try:
        return datetime.strptime(match[1] + match[2], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:  # digits that only look like a time
        return None
