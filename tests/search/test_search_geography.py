"""Bounding boxes in degrees, compared with shapely on a strip of three Earths."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import MultiPoint, MultiPolygon, box
from shapely.affinity import translate

from fusar_klip.errors import SearchError
from fusar_klip.search.geography import check_bbox, footprint_bounds, intersects

# Quarters of a degree are exact in floating point, so that boxes that share an edge do so in both ways.
LONGITUDES = st.integers(-720, 719).map(lambda quarter: quarter / 4)
LATITUDES = st.integers(-340, 340).map(lambda quarter: quarter / 4)


def meet(bbox: tuple[float, float, float, float], footprint: shapely.Polygon) -> bool:
    """Whether box and footprint share a point, on a strip of three Earths side by side."""
    west, south, east, north = bbox
    # An envelope may be a line or a point, where a polygon without an area would meet nothing.
    area = MultiPoint([(west, south), (east if east >= west else east + 360, north)]).envelope
    return any(translate(area, turn).intersects(footprint) for turn in (-360, 0, 360))


@given(
    st.lists(
        st.tuples(LONGITUDES, LATITUDES, st.integers(1, 80), st.integers(1, 20)), min_size=1, max_size=8
    ),
    LONGITUDES,
    LONGITUDES,
    st.tuples(LATITUDES, LATITUDES).map(sorted),
)
def test_intersects_agrees_with_shapely(tiles, west, east, lats):
    footprints = [
        box(lon, lat, lon + width / 4, min(lat + height / 4, 90)) for lon, lat, width, height in tiles
    ]
    # As a data set may have them: split at the antimeridian (GeoJSON's way), or running past it.
    stored = [split_at_antimeridian(f) if i % 2 else f for i, f in enumerate(footprints)]
    bounds = footprint_bounds(shapely.to_wkb(stored))
    bbox = check_bbox((west, lats[0], east, lats[1]))
    assert intersects(bounds, bbox).tolist() == [meet(bbox, footprint) for footprint in footprints]


def split_at_antimeridian(footprint: shapely.Polygon) -> shapely.Geometry:
    west, south, east, north = footprint.bounds
    if east <= 180:
        return footprint
    return MultiPolygon([box(west, south, 180, north), box(-180, south, east - 360, north)])


def test_a_ring_across_the_antimeridian():
    ring = shapely.Polygon([(179.75, 0), (-179.5, 0), (-179.5, 1), (179.75, 1)])
    assert footprint_bounds([shapely.to_wkb(ring)]).tolist() == [[179.75, 0, -179.5, 1]]


def test_a_tile_without_a_footprint_intersects_nothing():
    bounds = footprint_bounds([None, shapely.to_wkb(box(0, 0, 1, 1))])
    assert intersects(bounds, (-180, -90, 180, 90)).tolist() == [False, True]


def test_the_whole_earth_holds_every_footprint():
    footprints = [box(-180, -90, -179, -89), box(179, 89, 180, 90), box(-1, -1, 1, 1)]
    assert intersects(footprint_bounds(shapely.to_wkb(footprints)), (-180, -90, 180, 90)).all()


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ((-181, 0, 0, 1), "longitudes"),
        ((0, 0, 200, 1), "longitudes"),
        ((0, -91, 1, 1), "latitudes"),
        ((0, 0, 1, float("nan")), "latitudes"),
        ((float("inf"), 0, 1, 1), "longitudes"),
        ((0, 2, 1, 1), "S above N"),
    ],
)
def test_an_invalid_box_is_refused(bbox, reason):
    with pytest.raises(SearchError, match=reason):
        check_bbox(bbox)


def test_bounds_of_ordinary_footprints():
    footprints = [box(-118.3, 33.7, -118.2, 33.8), box(5, -6, 7, -5)]
    assert np.array_equal(footprint_bounds(shapely.to_wkb(footprints)), shapely.bounds(footprints))
