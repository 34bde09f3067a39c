"""What the file names of the common products tell."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.geo.platforms import BANDS, NamedFacts, band_of_frequency, facts_of_name


def _at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


NAMES = {
    "S1A_IW_GRDH_1SDV_20180716T004042_20180716T004107_022812_02792A_FD5B": NamedFacts(
        "Sentinel-1", "C", "IW", "GRDH", acquired=_at(2018, 7, 16, 0, 40, 42)
    ),
    "s1c-ew-grd-hv-20250716t004042-20250716t004107-022812-02792a-002": NamedFacts(
        "Sentinel-1", "C", "EW", "GRD", "HV", acquired=_at(2025, 7, 16, 0, 40, 42)
    ),
    "S1A__IW___A_20150309T173017_VV_grd_mli_geo_norm_db": NamedFacts(
        "Sentinel-1", "C", "IW", None, "VV", "ascending", acquired=_at(2015, 3, 9, 17, 30, 17)
    ),
    "GF3_KAS_FSI_014480_E103.4_N31.0_20190511_L1A_HHHV_L10003992720": NamedFacts(
        "Gaofen-3", "C", "FSI", "L1A"
    ),
    "GF3B_MYN_QPSI_001009_E107.9_N39.6_20161018_L1A_VH_L10001906059": NamedFacts(
        "Gaofen-3", "C", "QPSI", "L1A", "VH"
    ),
    "HT1-A_MONO_KRN_STRIP_005116_E39.2_N35.3_20240321_SLC_HH_L1A": NamedFacts(
        "Hongtu-1", "X", "STRIP", "SLC", "HH"
    ),
    "TSX1_SAR__MGD_SE___SM_S_SRA_20110721T051234_20110721T051240": NamedFacts(
        "TerraSAR-X", "X", "SM", "MGD", acquired=_at(2011, 7, 21, 5, 12, 34)
    ),
    "CSKS4_DGM_B_WR_03_VV_RD_FF_20120101050000_20120101050015": NamedFacts(
        "COSMO-SkyMed", "X", "WR", "DGM", "VV", "descending", "right", _at(2012, 1, 1, 5)
    ),
    "2023-01-15-02-03-04_UMBRA-05_GEC": NamedFacts(
        "Umbra", "X", None, "GEC", acquired=_at(2023, 1, 15, 2, 3, 4)
    ),
    "CAPELLA_C02_SM_GEO_HH_20201118191000_20201118191005": NamedFacts(
        "Capella", "X", "SM", "GEO", "HH", acquired=_at(2020, 11, 18, 19, 10)
    ),
    "ICEYE_X2_GRD_SM_12345_20200101T012345": NamedFacts(
        "ICEYE", "X", "SM", "GRD", acquired=_at(2020, 1, 1, 1, 23, 45)
    ),
    "RCM1_OK1050603_PK1050605_1_3M28_20200219_032254_HH_GRD": NamedFacts(
        "RCM", "C", "3M28", "GRD", "HH", acquired=_at(2020, 2, 19, 3, 22, 54)
    ),
    "RS2_OK12_PK4_DK7_FQ2_20080415_143807_HH_VV_HV_VH_SLC": NamedFacts(
        "RADARSAT-2", "C", "FQ2", "SLC", acquired=_at(2008, 4, 15, 14, 38, 7)
    ),
    "ASA_IMP_1PNUPA20020812_081234_000000152008_00354_02369_0001": NamedFacts(
        "ENVISAT", "C", "IM", "IMP", acquired=_at(2002, 8, 12, 8, 12, 34)
    ),
    "iw-vv": NamedFacts(polarization="VV"),
    "2021-01-05": NamedFacts(),
    "image_of_cosmology_rsi": NamedFacts(),
}


@pytest.mark.parametrize(("name", "facts"), NAMES.items())
def test_names_tell(name: str, facts: NamedFacts) -> None:
    assert facts_of_name(name) == facts


@given(name=st.text(alphabet="abcdefghs1gf3_-0123456789T.", max_size=60))
def test_any_name_is_read_and_the_band_follows_the_platform(name: str) -> None:
    facts = facts_of_name(name)
    assert facts.band == (BANDS[facts.platform] if facts.platform else None)


@pytest.mark.parametrize(
    ("ghz", "band"),
    [(0.43, "P"), (1.27, "L"), (5.405, "C"), (9.65, "X"), (14.9, "Ku"), (35.0, "Ka"), (90.0, None)],
)
def test_band_of_frequency(ghz: float, band: str | None) -> None:
    assert band_of_frequency(ghz) == band
