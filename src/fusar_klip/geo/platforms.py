"""SAR platforms: band, spacing, looks and usual geometry; and metadata in the names of product files.

The simulator uses these values. `build` uses `facts_of_name` to read platform, band, mode, polarization and
time of a scene from its file name or tags. Values of a single scene (incidence angle, look side) are never
taken from the table: the name does not contain them.
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
"""The paper's three platforms (section 3.1), and Sentinel-1, whose scenes are freely available."""

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
    "Lutan-1": "L",
    "ENVISAT": "C",
}
"""Radar band by platform."""

_NAME_PATTERNS: Mapping[str, str] = {
    r"s1[abcd]_|s1[abcd]-(?:iw|ew|wv|s[1-6])|sentinel-?1": "Sentinel-1",
    r"gf-?3(?!\d)|gaofen-?3": "Gaofen-3",
    r"ql-?1(?!\d)|qlsar-?0?1|qilu-?1": "Qilu-1",
    r"ht-?1(?!\d)|hongtu-?1|piesat-?1": "Hongtu-1",
    r"lt-?1[ab]|lutan-?1": "Lutan-1",
    r"umbra(?![a-z])": "Umbra",
    r"capella(?![a-z])": "Capella",
    r"iceye(?![a-z])": "ICEYE",
    r"t[sd]x-?1|paz1|terrasar-?x|tandem-?x": "TerraSAR-X",
    r"cosmo-?skymed|csks\d|csg_": "COSMO-SkyMed",
    r"rs-?2(?!\d)|radarsat-?2": "RADARSAT-2",
    r"rcm-?\d?(?![a-z])": "RCM",
    r"alos-?2": "ALOS-2",
    r"saocom": "SAOCOM",
    r"asa_|envisat": "ENVISAT",
}
_POL = r"(?:vv|vh|hh|hv)"
_PRODUCT_NAMES: tuple[re.Pattern[str], ...] = tuple(
    re.compile(rf"(?<![a-z0-9]){pattern}", re.IGNORECASE)
    for pattern in (
        # S1A_IW_GRDH_1SDV_20180716T004042_..., and its measurements s1a-iw-grd-vv-20180716t004042-...
        r"s1[abcd]_(?P<mode>iw|ew|sm|wv|s[1-6])_+(?P<product>[a-z]{3}[fhm_])",
        r"s1[abcd]-(?P<mode>iw|ew|wv|s[1-6])\d?-(?P<product>[a-z]{3})-",
        # S1A__IW___A_20150309T173017_VV_grd_mli_geo_norm_db: pyroSAR's names
        r"s1[abcd]__(?P<mode>iw|ew|sm|wv|s[1-6])_+(?P<orbit>[ad])_",
        # GF3_KAS_FSI_014480_E103.4_N31.0_20190511_L1A_HHHV_L10003992720, and its HH and HV files
        r"gf3[bc]?_[a-z0-9]+_(?P<mode>[a-z0-9]+)_\d+_[ew][\d.]+_[ns][\d.]+_\d{8}_(?P<product>l\d[ab]?)_",
        # HT1-A_MONO_KRN_STRIP_005116_E39.2_N35.3_20240321_SLC_HH_L1A, LT1A likewise
        r"[hl]t-?1-?[a-d]?_[a-z]+_[a-z]+_(?P<mode>[a-z0-9]+)_\d+_[ew][\d.]+_[ns][\d.]+_\d{8}_(?P<product>[a-z]+)_",
        # TSX1_SAR__MGD_SE___SM_S_SRA_20110721T051234_...
        r"t[sd]x1_sar__(?P<product>ssc|mgd|gec|eec)_[a-z_]{4}_+(?P<mode>[a-z]{2})_",
        # CSKS4_DGM_B_WR_03_VV_RA_FF_20120101050000_...: look side, then orbit direction
        r"csks\d_(?P<product>[a-z]{3})_[a-z]_(?P<mode>[a-z0-9]{2})_[a-z0-9]{2}_[a-z]{2}_(?P<side>[rl])(?P<orbit>[ad])_",
        # 2023-01-15-02-03-04_UMBRA-05_GEC.tif
        r"umbra-?\d+_(?P<product>gec|sicd|sidd|csi|mm)(?![a-z])",
        # CAPELLA_C02_SM_GEO_HH_20201118191000_20201118191005
        r"capella_c\d+_(?P<mode>[a-z]{2})_(?P<product>[a-z]{3,4})_",
        # ICEYE_X2_GRD_SM_12345_20200101T012345
        r"iceye_(?:x\d+_)?(?P<product>grd|slc|csi|amp|cro)_(?P<mode>[a-z]{2,4})_",
        # RS2_OK123_PK456_DK789_FQ2_20080415_143807_HH_VV_SGF, RCM1_OK1_PK2_1_3M28_20200219_032254_HH_GRD
        r"(?:rs2|rcm\d)_ok\d+_pk\d+_(?:dk\d+|\d+)_(?P<mode>[a-z0-9]+)_\d{8}_\d{6}(?:_[hvc]{2})+_(?P<product>[a-z]{3})",
        # ASA_IMP_1PNUPA20020812_081234_...
        r"asa_(?P<product>(?P<mode>[a-z]{2})[a-z])_\d[a-z]",
    )
)
# Transmit and receive; "HHHV" and "HH_HV" name two, so neither is the scene's.
_POLARIZATION = re.compile(rf"(?<![a-z0-9]){_POL}(?![a-z0-9])", re.IGNORECASE)
_TIMES: tuple[re.Pattern[str], ...] = (
    re.compile(r"(?<!\d)(\d{4})(\d\d)(\d\d)[t_]?(\d\d)(\d\d)(\d\d)(?!\d)", re.IGNORECASE),
    re.compile(r"(?<!\d)(\d{4})-(\d\d)-(\d\d)[-t_](\d\d)[-:](\d\d)[-:](\d\d)(?!\d)", re.IGNORECASE),
)
_BAND_LIMITS_GHZ: tuple[tuple[str, float, float], ...] = (
    ("P", 0.25, 1.0),
    ("L", 1.0, 2.0),
    ("S", 2.0, 4.0),
    ("C", 4.0, 8.0),
    ("X", 8.0, 12.0),
    ("Ku", 12.0, 18.0),
    ("K", 18.0, 27.0),
    ("Ka", 27.0, 40.0),
)


def band_of_frequency(frequency_ghz: float) -> str | None:
    """Return the letter of a radar band (IEEE 521; P below L), None outside of them."""
    return next((band for band, low, high in _BAND_LIMITS_GHZ if low <= frequency_ghz < high), None)


@dataclass(frozen=True)
class NamedFacts:
    """Metadata in a scene's name or tags; None where they contain none."""

    platform: str | None = None
    band: str | None = None
    mode: str | None = None
    product_type: str | None = None
    polarization: str | None = None
    orbit_direction: str | None = None
    look_side: str | None = None
    acquired: datetime | None = None


def facts_of_name(name: str) -> NamedFacts:
    """Parse platform, band, mode, product, polarization and time (UTC) from a product or file name.

    Knows the names of Sentinel-1 (pyroSAR's too), Gaofen-3, Hongtu-1, Lutan-1, TerraSAR-X, COSMO-SkyMed,
    Umbra, Capella, ICEYE, RADARSAT-2, RCM and ENVISAT products; from other names, what is in the common
    spelling. A name with two polarizations gives no polarization; a date without a time gives no time.
    """
    platform = next(
        (
            known
            for pattern, known in _NAME_PATTERNS.items()
            if re.search(rf"(?<![a-z0-9])(?:{pattern})", name, re.IGNORECASE)
        ),
        None,
    )
    found = next((match for p in _PRODUCT_NAMES if (match := p.search(name))), None)
    groups = {key: value.upper() for key, value in found.groupdict().items() if value} if found else {}
    polarizations = {p.upper() for p in _POLARIZATION.findall(name.replace("_", " "))}
    return NamedFacts(
        platform=platform,
        band=BANDS.get(platform) if platform else None,
        mode=groups.get("mode"),
        product_type=groups["product"].strip("_") if "product" in groups else None,
        polarization=polarizations.pop() if len(polarizations) == 1 else None,
        orbit_direction={"A": "ascending", "D": "descending"}.get(groups.get("orbit", "")),
        look_side={"R": "right", "L": "left"}.get(groups.get("side", "")),
        acquired=_time_of_name(name),
    )


def _time_of_name(name: str) -> datetime | None:
    for pattern in _TIMES:
        for match in pattern.finditer(name):
            try:
                return datetime(*map(int, match.groups()), tzinfo=UTC)  # type: ignore[misc,arg-type]
            except ValueError:  # digits that only look like a time
                continue
    return None
