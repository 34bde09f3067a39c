import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.tiles.footprints import footprints


def square(lon: float, lat: float, side: float) -> tuple[np.ndarray, np.ndarray]:
    lons = lon + side * np.array([[-0.5, 0.5, 0.5, -0.5]])
    return (lons + 180) % 360 - 180, lat + side * np.array([[0.5, 0.5, -0.5, -0.5]])


@given(lon=st.floats(-180, 180), lat=st.floats(-80, 80), side=st.floats(0.01, 5))
def test_a_footprint_has_its_area_and_stays_on_the_map(lon: float, lat: float, side: float) -> None:
    (area,) = footprints(*square(lon, lat, side))
    assert area.is_valid
    assert area.area == pytest.approx(side**2, rel=1e-6)
    west, south, east, north = area.bounds
    assert -180 <= west <= east <= 180
    assert (south, north) == pytest.approx((lat - side / 2, lat + side / 2))


def test_a_ring_across_the_antimeridian_is_cut_in_two() -> None:
    (area,) = footprints(*square(179.9, 10.0, 1.0))
    assert area.geom_type == "MultiPolygon"
    assert sorted(round(part.bounds[0], 6) for part in area.geoms) == [-180, 179.4]
    assert area.covers(shapely.Point(-179.7, 10.0))
    assert not area.covers(shapely.Point(0.0, 10.0))


def test_a_ring_around_a_pole_holds_it() -> None:
    lon, lat = np.array([[-135.0, -45.0, 45.0, 135.0]]), np.full((1, 4), 89.5)
    for turned in (lon, lon[:, ::-1]):
        (area,) = footprints(turned, lat)
        assert area.is_valid
        assert area.covers(shapely.Point(10.0, 89.9))
        assert area.bounds == pytest.approx((-180, 89.5, 180, 90))
        assert area.area == pytest.approx(360 * 0.5)
        (south,) = footprints(turned, -lat)
        assert south.covers(shapely.Point(-100.0, -89.9))


def test_many_at_once() -> None:
    rings = [square(0.0, 0.0, 1.0), square(180.0, 5.0, 1.0), square(-60.0, -5.0, 1.0)]
    areas = footprints(np.vstack([r[0] for r in rings]), np.vstack([r[1] for r in rings]))
    assert [area.geom_type for area in areas] == ["Polygon", "MultiPolygon", "Polygon"]
