from collections.abc import Callable
from pathlib import Path
from typing import get_args

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from pyproj import Transformer

from fusar_klip.catalog import Landform, SceneType, read_tiles
from fusar_klip.tiles import BuildSettings, build
from fusar_klip.tiles.screening.landform import classify, landforms
from fusar_klip.tiles.screening.overview import cell_px_of, overview_of, summarise
from fusar_klip.tiles.screening.screen import Screening, ToLonLat, screen
from fusar_klip.tiles.settings import ScreeningSettings

LAX = (-118.408, 33.9425)
OCEAN = (-140.0, 30.0)
LONG_BEACH = (-118.2, 33.75)
DOWNTOWN = (-118.25, 34.045)
SETTINGS = ScreeningSettings(gazetteer=0)


def tile(place: tuple[float, float] = DOWNTOWN, **values: object) -> gpd.GeoDataFrame:
    usual = {
        "lon": place[0],
        "lat": place[1],
        "extent_m": 1000.0,
        "density": 0.4,
        "water_fraction": 0.0,
        "nodata_fraction": 0.0,
        "scene_type": None,
        "landform": None,
    }
    return gpd.GeoDataFrame([{**usual, **values}], geometry=gpd.points_from_xy([0], [0]))


@pytest.mark.parametrize(
    ("row", "landform", "scene_type"),
    [
        (tile(OCEAN, density=0.02, water_fraction=1.0), "water", "water"),
        (tile(OCEAN, density=0.5, water_fraction=0.95), "water", "water"),  # with ships
        (tile(OCEAN, density=0.02, water_fraction=1.0, nodata_fraction=0.8), None, None),
        (tile(OCEAN, density=0.02, water_fraction=None), None, None),
        (tile(OCEAN, density=None, water_fraction=None), None, None),
        (tile(density=0.8, water_fraction=0.4), "shore", None),
        (tile(density=0.8), "built_up", "urban"),
        (tile(density=0.4, water_fraction=0.05), "mixed", None),
        (tile(density=0.1), "open_land", None),
        (tile(LAX), "mixed", "airport"),
        (tile(LAX, density=0.8), "built_up", "airport"),
        (tile(LAX, extent_m=40_000.0), "mixed", None),
        (tile(LONG_BEACH, density=0.5, water_fraction=0.5), "shore", "port"),
        (tile(LONG_BEACH, density=0.01, water_fraction=1.0), "water", "water"),
        (tile(density=0.8, scene_type="industrial"), "built_up", "industrial"),
        (tile((np.nan, np.nan), density=0.8), "built_up", "urban"),
    ],
)
def test_what_a_tile_shows(row: gpd.GeoDataFrame, landform: str | None, scene_type: str | None) -> None:
    found = classify(row).iloc[0]
    assert (found["landform"] or None) == landform
    assert (found["scene_type"] or None) == scene_type
    assert landform is None or landform in get_args(Landform)
    assert scene_type is None or scene_type in get_args(SceneType)


@given(
    water_fraction=st.floats(0, 1) | st.just(np.nan),
    density=st.floats(0, 1) | st.just(np.nan),
    nodata=st.floats(0, 1),
)
def test_a_tile_has_a_landform_just_where_it_was_measured(
    water_fraction: float, density: float, nodata: float
) -> None:
    [found] = landforms(np.array([water_fraction]), np.array([density]), np.array([nodata]))
    told = np.isfinite(water_fraction) and np.isfinite(density) and nodata <= 0.5
    assert found in get_args(Landform) if told else found is None


def test_the_input_is_left_alone_and_nothing_is_fine() -> None:
    before = tile(OCEAN, water_fraction=1.0)
    classify(before)
    assert before["landform"].isna().all()
    assert len(classify(before.iloc[:0])) == 0


def test_a_catalog_read_from_disk(tmp_path: Path) -> None:
    """Parquet gives columns of all nulls other types than Python's None."""
    path = tmp_path / "tiles.parquet"
    tile(OCEAN, density=0.02, water_fraction=1.0).to_parquet(path)
    assert classify(gpd.read_parquet(path))["landform"].tolist() == ["water"]


# Water in scenes: speckle of one look on 1 m pixels, in cells of 16 m.


def ground(height: int = 1024, width: int = 1024, mean: float = 60.0) -> NDArray[np.float32]:
    rayleigh = np.random.default_rng(0).rayleigh(mean / np.sqrt(np.pi / 2), (height, width))
    return np.maximum(rayleigh, 1).astype(np.float32)


def with_houses(scene: NDArray[np.float32], top: int, left: int, side: int) -> NDArray[np.float32]:
    """Add bright walls and dark yards, 40 m apart."""
    scene, rng = scene.copy(), np.random.default_rng(7)
    for row in range(top, top + side - 40, 40):
        for col in range(left, left + side - 40, 40):
            scene[row : row + 13, col : col + 4] *= rng.uniform(8, 25)
            scene[row : row + 13, col + 13 : col + 26] *= 0.2
    return scene


def screened(scene: NDArray[np.generic], gsd_m: float = 1.0, to_lonlat: ToLonLat | None = None) -> Screening:
    cell_px = cell_px_of(*scene.shape, gsd_m)
    return screen(overview_of([summarise(scene, cell_px)], cell_px, gsd_m), SETTINGS, to_lonlat)


def coast() -> NDArray[np.float32]:
    """Sea 10 dB under the land in the left half, a town on the right."""
    scene = with_houses(ground(), 200, 560, 440)
    scene[:, :512] *= 0.3
    return scene


def test_a_coast() -> None:
    found = screened(coast())
    assert found.water_fraction_of(0, 0, 1024, 480) == 1
    assert found.water_fraction_of(0, 560, 1024, 464) == 0
    assert found.water_fraction_of(0, 0, 1024, 1024) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("factor", [2.0**-20, 1000.0])
def test_water_does_not_depend_on_the_units(factor: float) -> None:
    one, other = screened(coast()).water, screened(coast() * np.float32(factor)).water
    np.testing.assert_array_equal(one, other)


def test_a_ship_is_on_the_water() -> None:
    scene = coast()
    scene[600:630, 200:350] = 2000
    assert screened(scene).water_fraction_of(512, 128, 256, 256) == 1


@pytest.mark.parametrize(
    ("rows", "cols", "level", "is_water"),
    [
        (slice(300, 700), slice(300, 700), 0.3, True),  # a lake
        (slice(400, 600), slice(300, 600), 0.3, False),  # a car park: as dark, but small
        (slice(0, 1024), slice(400, 460), 0.2, False),  # a runway: dark and long, but narrow
        (slice(300, 700), slice(300, 700), 0.65, False),  # a smooth field: 4 dB under the land
    ],
)
def test_what_is_dark_is_not_always_water(rows: slice, cols: slice, level: float, is_water: bool) -> None:
    scene = with_houses(ground(), 0, 720, 300)
    scene[rows, cols] *= level
    found = screened(scene)
    assert found.water is not None
    assert found.water.any() == is_water


def test_wide_pavement_at_a_known_airport_is_no_water() -> None:
    scene = with_houses(ground(), 0, 720, 300)
    scene[200:650, 200:700] *= 0.25

    def at(lon: float, lat: float) -> ToLonLat:
        def to_lonlat(cols: ArrayLike, rows: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            return lon + np.asarray(cols) * 1e-5, lat - np.asarray(rows) * 1e-5

        return to_lonlat

    pavement, lake = (screened(scene, to_lonlat=at(*place)) for place in (LAX, OCEAN))
    assert pavement.water_fraction_of(200, 200, 450, 500) == 0
    assert lake.water_fraction_of(224, 224, 400, 450) == 1


def test_where_nothing_tells_water_from_land() -> None:
    even = screened(ground())
    assert even.water is None
    assert even.water_fraction_of(0, 0, 256, 256) is None
    anchorage = ground()
    for row in (100, 300, 500, 800):
        anchorage[row : row + 20, row : row + 150] = 2000
    assert screened(anchorage).targets.any()
    assert screened(anchorage).water is None


def test_what_has_no_data_has_no_water() -> None:
    scene = coast()
    scene[:, :256] = 0
    found = screened(scene)
    assert found.water_fraction_of(0, 0, 1024, 256) is None
    assert found.water_fraction_of(0, 0, 1024, 480) == 1  # of what is seen
    assert found.water_fraction_of(0, 2000, 256, 256) is None


def test_the_columns_of_a_build(tmp_path: Path, write_scene: Callable[..., Path]) -> None:
    path = write_scene(np.rint(coast() * 4).astype(np.uint16), gsd_m=1.0)
    build([path], tmp_path / "screened", BuildSettings.model_validate({"screening": {"gazetteer": 0}}))
    tiles = read_tiles(tmp_path / "screened")
    small = tiles[tiles["scale"] == "small"]
    assert small["landform"].value_counts()["water"] == 8
    assert set(tiles["landform"]) >= {"water", "shore", "built_up"}
    assert tiles["landform"].notna().all()
    assert tiles["water_fraction"].between(0, 1).all()
    assert (tiles["scene_type"] == "water").equals(tiles["landform"] == "water")
    build([path], tmp_path / "not", BuildSettings.model_validate({"screening": {"mode": "off"}}))
    tiles = read_tiles(tmp_path / "not")
    assert tiles[["landform", "water_fraction"]].isna().all(axis=None)


@pytest.mark.real_data
def test_los_angeles(real_data: Path) -> None:
    path = next((real_data / "geo").glob("*LosAngeles*.tif"))
    with rasterio.open(path) as raster:
        scene, transform = raster.read(1), raster.transform
        to_wgs84 = Transformer.from_crs(raster.crs, "EPSG:4326", always_xy=True)

    def to_lonlat(cols: ArrayLike, rows: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x, y = transform @ (np.asarray(cols, float), np.asarray(rows, float))
        return to_wgs84.transform(x, y)

    found = screened(scene, 8.3, to_lonlat)

    def landform(lon: float, lat: float) -> str:
        """Of the tile of 247 pixels (2 km) around a point."""
        col, row = ~transform @ to_wgs84.transform(lon, lat, direction="INVERSE")
        window = (int(row) - 124, int(col) - 124, 247, 247)
        figures = (found.water_fraction_of(*window), found.density_of(*window), 0.0)
        return landforms(*(np.array([figure], float) for figure in figures))[0]

    assert landform(-118.497, 33.972) == "water"  # Santa Monica Bay
    assert landform(-118.16, 33.73) == "water"  # the anchorage of Long Beach, with ships
    assert landform(-118.49, 34.005) == "shore"  # Santa Monica
    assert landform(-118.25, 33.735) == "shore"  # Port of Los Angeles
    assert landform(-118.25, 34.045) == "built_up"  # downtown
    assert landform(-118.39, 33.9425) not in ("water", "shore")  # LAX


@pytest.mark.real_data
def test_a_flood_in_spain(real_data: Path) -> None:
    """What is called water is water by the hand-made mask; shallow and patchy water is missed."""
    folder = real_data / "geo" / "sen1floods11_spain"
    with rasterio.open(folder / "Spain_7370579_S1Hand.tif") as raster:
        scene = np.nan_to_num(10 ** (raster.read(1) / 20))
    with rasterio.open(folder / "Spain_7370579_LabelHand.tif") as raster:
        truth = raster.read(1) == 1
    found = screened(scene, 9.0)
    assert found.water is not None
    water = np.kron(found.water, np.ones((found.cell_px, found.cell_px), bool))
    precision, recall = (truth & water).sum() / water.sum(), (truth & water).sum() / truth.sum()
    assert precision > 0.85
    assert 0.15 < recall < 0.5
    per_tile = [
        (found.water_fraction_of(row, col, 128, 128), truth[row : row + 128, col : col + 128].mean())
        for row in range(0, 512, 128)
        for col in range(0, 512, 128)
    ]
    assert np.corrcoef(np.transpose(per_tile))[0, 1] > 0.8
