import json
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from pyproj import Transformer

from fusar_klip.errors import SettingsError
from fusar_klip.tiles.screening.overview import Overview, cell_px_of, overview_of, summarise
from fusar_klip.tiles.screening.screen import Screening, ToLonLat, screen
from fusar_klip.tiles.settings import ScreeningSettings

SETTINGS = ScreeningSettings(gazetteer=0)


def overview(amplitude: NDArray[np.generic], gsd_m: float = 1.0) -> Overview:
    cell_px = cell_px_of(*amplitude.shape, gsd_m)
    strips = [summarise(amplitude[row : row + 100], cell_px, row) for row in range(0, len(amplitude), 100)]
    return overview_of(strips, cell_px, gsd_m)


def even_ground(side: int, mean: float, looks: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    intensity = np.random.default_rng(seed).gamma(looks, 1 / looks, (side, side))
    return (mean * np.sqrt(intensity)).astype(np.float32)


def with_town(ground: NDArray[np.float32], top: int, left: int, side: int, block: int) -> NDArray[np.float32]:
    """Add houses of a third of a block, bright at one wall, dark behind."""
    scene, rng = ground.copy(), np.random.default_rng(7)
    for row in range(top, top + side - block, block):
        for col in range(left, left + side - block, block):
            length = max(block // 3, 1)
            scene[row : row + length, col : col + max(length // 3, 1)] *= rng.uniform(8, 25)
            scene[row : row + length, col + length : col + 2 * length] *= 0.2
    return scene


def to_lonlat_at(lon: float, lat: float, gsd_m: float = 1.0) -> ToLonLat:
    """Place a scene's upper left corner on a plane that touches the Earth there."""
    plane = f"+proj=aeqd +lon_0={lon} +lat_0={lat} +datum=WGS84"
    back = Transformer.from_crs(plane, "EPSG:4326", always_xy=True)

    def to_lonlat(cols: ArrayLike, rows: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x, y = back.transform(np.asarray(cols, float) * gsd_m, -np.asarray(rows, float) * gsd_m)
        return np.asarray(x), np.asarray(y)

    return to_lonlat


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    dtype=st.sampled_from(["u1", "u2", "f4"]),
)
def test_any_strips_give_the_cells_of_the_whole(
    data: st.DataObject, height: int, width: int, dtype: str
) -> None:
    scene = np.random.default_rng(height).integers(0, 200, (height, width)).astype(dtype)
    scene[scene < 60] = 0
    cuts = sorted({0, height, *data.draw(st.lists(st.integers(0, height), max_size=4))})
    parts = [summarise(scene[a:b], 8, a) for a, b in pairwise(cuts)]
    seen = overview_of(parts, 8, 1.0)
    assert seen.amplitude.shape == (-(-height // 8), -(-width // 8))
    for row, col in np.ndindex(seen.amplitude.shape):
        cell = scene[8 * row : 8 * row + 8, 8 * col : 8 * col + 8].astype(float)
        values = cell[cell > 0]
        assert seen.valid[row, col] == pytest.approx(values.size / 64)
        if values.size:
            assert seen.amplitude[row, col] == pytest.approx(values.mean(), rel=1e-5)
            assert seen.contrast[row, col] == pytest.approx(values.std(), rel=1e-4, abs=0.05)
            assert seen.peak[row, col] == values.max()
        else:
            assert seen.amplitude[row, col] == seen.peak[row, col] == 0


@given(height=st.integers(64, 10**6), width=st.integers(64, 10**6), gsd_m=st.floats(0.05, 500))
def test_cells_are_a_power_of_two_and_not_too_many(height: int, width: int, gsd_m: float) -> None:
    side = cell_px_of(height, width, gsd_m)
    assert side >= 8
    assert side & (side - 1) == 0
    assert (height / side) * (width / side) <= 2**21


@pytest.mark.parametrize(
    ("gsd_m", "looks", "block", "scale", "as_type"),
    [
        (1.0, 1, 40, 1.0, "f4"),
        (10.0, 4.4, 9, 1e-3, "f4"),
        (10.0, 4.4, 9, 1.0, "u1"),
        (3.0, 1.5, 14, 50.0, "u2"),
    ],
)
def test_a_town_is_dense_and_open_water_is_not(
    gsd_m: float, looks: float, block: int, scale: float, as_type: str
) -> None:
    side = 1024
    scene = even_ground(side, 20.0, looks)
    scene[:, side // 2 :] *= 3  # land on the right
    scene = with_town(scene, 256, side // 2 + 100, 320, block) * scale
    if as_type != "f4":
        scene = np.clip(np.rint(scene), 1, np.iinfo(as_type).max)
    found = screen(overview(scene.astype(as_type), gsd_m), SETTINGS)
    town = found.density_of(300, side // 2 + 150, 220, 220)
    sea, fields = found.density_of(0, 0, side, side // 2 - 100), found.density_of(700, 700, 300, 300)
    assert sea < 0.1
    assert fields < 0.15
    assert town > 0.4
    assert found.reason(300, side // 2 + 150, 220, 220) == "density"
    assert not found.dense(0, 0, side, side // 2 - 100)
    assert not found.dense(700, 700, 300, 300)


@pytest.mark.parametrize(("gsd_m", "looks", "length"), [(1.0, 1, 120), (10.0, 4.4, 12)])
def test_a_ship_on_the_open_sea_is_worth_its_tile(gsd_m: float, looks: float, length: int) -> None:
    scene = even_ground(1024, 20.0, looks)
    scene[600 : 600 + max(length // 6, 2), 300 : 300 + length] = 900
    found = screen(overview(scene, gsd_m), SETTINGS)
    assert found.density_of(512, 256, 256, 256) < 0.5
    assert found.reason(512, 256, 256, 256) is not None
    assert found.targets[600 // found.cell_px, 310 // found.cell_px]
    assert not found.dense(0, 512, 256, 256)


def test_a_bright_barn_on_land_is_no_ship() -> None:
    scene = with_town(even_ground(1024, 60.0), 0, 0, 500, 40)
    scene[800:806, 800:806] = 2000
    found = screen(overview(scene), SETTINGS)
    assert not found.targets.any()
    assert not found.dense(700, 700, 256, 256)


def test_what_has_no_data_has_no_density() -> None:
    scene = with_town(even_ground(512, 60.0), 0, 0, 500, 40)
    scene[:, 256:] = 0
    found = screen(overview(scene), SETTINGS)
    assert (found.density[:, 16:] == 0).all()
    assert found.density_of(0, 256, 512, 256) == 0
    assert found.density_of(0, 256, 512, 4096) == 0  # overhanging the scene
    assert found.density_of(-100, -100, 50, 50) == 0
    nothing = screen(overview(np.zeros((256, 256), np.uint8)), SETTINGS)
    assert not nothing.dense(0, 0, 256, 256)


def test_the_measure_does_not_depend_on_the_units() -> None:
    scene = with_town(even_ground(512, 60.0), 0, 0, 300, 40)
    one, other = (screen(overview(scene * factor), SETTINGS) for factor in (1.0, 2.0**-20))
    np.testing.assert_allclose(one.density, other.density, atol=1e-4)


def write_area(path: Path, ring: list[list[float]]) -> Path:
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": {"name": "here"}, "geometry": geometry}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def square(to_lonlat: ToLonLat, top: int, left: int, side: int) -> list[list[float]]:
    cols, rows = np.array([0, 1, 1, 0, 0]) * side + left, np.array([0, 0, 1, 1, 0]) * side + top
    return np.stack(to_lonlat(cols, rows), axis=-1).tolist()


@pytest.mark.parametrize(("lon", "lat"), [(-118.2, 33.7), (179.995, -16.5), (15.0, 84.9)])
def test_areas_of_interest_are_kept_wherever_they_lie(tmp_path: Path, lon: float, lat: float) -> None:
    to_lonlat = to_lonlat_at(lon, lat)
    areas = write_area(tmp_path / "areas.geojson", square(to_lonlat, 600, 610, 4))
    found = screen(overview(even_ground(1024, 60.0)), ScreeningSettings(areas=areas, gazetteer=0), to_lonlat)
    kept = [(r, c) for r in range(4) for c in range(4) if found.dense(r * 256, c * 256, 256, 256)]
    assert kept == [(2, 2)]
    assert found.reason(512, 512, 256, 256) == "area"


def test_known_airports_are_kept_within_the_radius() -> None:
    to_lonlat = to_lonlat_at(-118.4085, 33.9425, 10.0)  # LAX is in the upper left corner
    sea = overview(even_ground(1024, 60.0), 10.0)
    near = screen(sea, ScreeningSettings(gazetteer=1.0), to_lonlat)
    assert near.reason(0, 0, 100, 100) == "place"
    assert near.reason(200, 200, 100, 100) is None
    assert screen(sea, ScreeningSettings(gazetteer=3.0), to_lonlat).reason(200, 200, 100, 100) == "place"
    assert screen(sea, SETTINGS, to_lonlat).reason(0, 0, 100, 100) is None


def test_a_scene_without_coordinates_asks_no_gazetteer() -> None:
    def nowhere(cols: ArrayLike, rows: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.full(np.shape(cols), np.nan), np.full(np.shape(rows), np.nan)

    assert screen(overview(even_ground(256, 9.0)), ScreeningSettings(), nowhere).wanted is None


def test_areas_that_cannot_be_read(tmp_path: Path) -> None:
    scene, here = overview(even_ground(128, 60.0)), to_lonlat_at(10, 50)
    for name, content, complaint in (
        ("missing.geojson", None, "no such file"),
        ("text.geojson", "so much", "no vector file"),
        ("plain.csv", "x,y\n1,2\n", "coordinate reference system"),
    ):
        path = tmp_path / name
        if content:
            path.write_text(content)
        with pytest.raises(SettingsError, match=complaint):
            screen(scene, ScreeningSettings(areas=path), here)


def test_a_screening_travels_to_workers() -> None:
    found = screen(overview(even_ground(256, 60.0)), SETTINGS)
    again: Screening = pickle.loads(pickle.dumps(found))
    assert again.density_of(0, 0, 256, 256) == found.density_of(0, 0, 256, 256)


@pytest.mark.real_data
def test_los_angeles(real_data: Path) -> None:
    """The ocean is out; ships at anchor, the port, the airport and downtown are in."""
    path = next((real_data / "geo").glob("*LosAngeles*.tif"))
    with rasterio.open(path) as raster:
        scene = raster.read(1)
        to_wgs84 = Transformer.from_crs(raster.crs, "EPSG:4326", always_xy=True)
        transform = raster.transform

    def to_lonlat(cols: ArrayLike, rows: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x, y = transform @ (np.asarray(cols, float), np.asarray(rows, float))
        return to_wgs84.transform(x, y)

    def window(lon: float, lat: float) -> tuple[int, int, int, int]:
        x, y = to_wgs84.transform(lon, lat, direction="INVERSE")
        col, row = ~transform @ (x, y)
        return int(row) - 124, int(col) - 124, 247, 247

    found = screen(overview(scene, 8.3), SETTINGS, to_lonlat)
    assert not found.dense(*window(-118.55, 33.96))  # Santa Monica Bay
    assert found.reason(*window(-118.27, 33.745)) == "density"  # Port of Los Angeles
    assert found.reason(*window(-118.40, 33.9425)) == "density"  # LAX
    assert found.reason(*window(-118.25, 34.045)) == "density"  # downtown
    harbour = window(-118.16, 33.73)  # anchorage behind the breakwater of Long Beach
    assert found.dense(*harbour)
    assert found.density_of(*window(-118.55, 33.96)) < 0.05 < found.density_of(*window(-118.27, 33.745))
