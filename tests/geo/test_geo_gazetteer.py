from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from fusar_klip.geo.gazetteer import PlaceKind, distance_km, nearest, place_and_country, places
from fusar_klip.geo.platforms import facts_of_name

GEOD = Geod(ellps="WGS84")


def test_los_angeles() -> None:
    airport = nearest("airport", -118.40, 33.94)[0]
    assert airport.place.code == "KLAX"
    assert airport.distance_km < 2
    port = nearest("port", -118.25, 33.745)[0]
    assert (port.place.name, port.place.country) == ("Los Angeles", "United States")
    assert 200 < port.bearing_deg < 250  # south-west of the terminal island
    assert place_and_country(-118.25, 33.745)[1] == "United States"


def test_the_open_ocean_has_no_neighbours() -> None:
    assert nearest("port", -140, -45, within_km=200) == []
    assert place_and_country(-140, -45) == (None, None)


@pytest.mark.parametrize("kind", ["airport", "port"])
@settings(max_examples=20)
@given(lon=st.floats(-180, 180), lat=st.floats(-89, 89))
def test_nearest_agrees_with_an_exhaustive_search(kind: PlaceKind, lon: float, lat: float) -> None:
    found = places(kind)
    n = len(found)
    metres = GEOD.inv([lon] * n, [lat] * n, [p.lon for p in found], [p.lat for p in found])[2]
    expected = sorted(d / 1000 for d in metres if d <= 500_000)[:3]
    assert [x.distance_km for x in nearest(kind, lon, lat, count=3, within_km=500)] == pytest.approx(expected)


def test_distances_of_many_points() -> None:
    lon, lat = [-118.40, 179.99, float("nan")], [33.94, -16.7, 0.0]
    first, second, nowhere = distance_km("airport", lon, lat)
    for found, x, y in ((first, lon[0], lat[0]), (second, lon[1], lat[1])):
        assert found == pytest.approx(nearest("airport", x, y)[0].distance_km, rel=0.01)
    assert nowhere != nowhere
    assert len(distance_km("port", [], [])) == 0


def test_names_of_products() -> None:
    facts = facts_of_name("S1A_IW_GRDH_1SDV_20201107T135241_20201107T135306_035143_041A16_322B.SAFE")
    assert (facts.platform, facts.band, facts.mode, facts.product_type) == ("Sentinel-1", "C", "IW", "GRDH")
    assert facts.acquired == datetime(2020, 11, 7, 13, 52, 41, tzinfo=UTC)
    assert facts_of_name("umbra_mount_yasur").platform == "Umbra"
    assert facts_of_name("GF3_SAY_SL_002143_E121.3_N31.1_20170103_L1A_HH").polarization == "HH"
    assert facts_of_name("my_scene_99999999T999999").acquired is None


@given(st.text(max_size=60))
def test_any_name_is_read_without_error(name: str) -> None:
    facts_of_name(name)
