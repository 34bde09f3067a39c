from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from fusar_klip.catalog import FEATURES
from fusar_klip.errors import SettingsError
from fusar_klip.tiles.screening.quality import classify_quality
from fusar_klip.tiles.screening.texture_features import tile_features
from fusar_klip.tiles.settings import QualitySettings

SIDE = 128


def to_levels(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 1, 255).astype(np.uint8)


def sea(seed: int, mean: float = 12.0) -> NDArray[np.uint8]:
    return to_levels(np.random.default_rng(seed).rayleigh(mean, (SIDE, SIDE)))


def sea_in_db(seed: int) -> NDArray[np.uint8]:
    """As `mapping.method=db` or an 8-bit product gives it: 6 levels a dB."""
    amplitude = np.random.default_rng(seed).rayleigh(0.3, (SIDE, SIDE))
    return to_levels(120 + 6 * 20 * np.log10(amplitude))


def sea_with_gamma(seed: int) -> NDArray[np.uint8]:
    return to_levels(12 * np.sqrt(np.random.default_rng(seed).rayleigh(12, (SIDE, SIDE))))


def sea_with_ship(seed: int) -> NDArray[np.uint8]:
    levels = sea(seed)
    levels[60:66, 50:70] = 255
    return levels


def town(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.uniform(20, 120, (16, 16)), np.ones((8, 8)))
    return to_levels(ground * rng.rayleigh(0.8, (SIDE, SIDE)))


def empty(seed: int) -> NDArray[np.uint8]:
    levels = town(seed)
    levels[:, : 100 + seed % 5] = 0
    return levels


def blank(seed: int) -> NDArray[np.uint8]:
    return np.full((SIDE, SIDE), 40 + seed % 100, np.uint8)


def saturated(seed: int) -> NDArray[np.uint8]:
    return np.where(np.random.default_rng(seed).random((SIDE, SIDE)) < 0.95, 255, 150).astype(np.uint8)


def striped(seed: int) -> NDArray[np.uint8]:
    levels = town(seed)
    levels[::3] //= 4
    return np.maximum(levels, 1)


def noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 256, (SIDE, SIDE)).astype(np.uint8)


GOOD = (sea, sea_with_ship, town, sea_in_db, sea_with_gamma)
BAD = (empty, blank, saturated, striped, noise)


def catalog(*tiles: NDArray[np.uint8], prefix: str = "t") -> gpd.GeoDataFrame:
    rows = [tile_features(tile, [(0, 0, len(tile))])[0] for tile in tiles]
    names = [f"{prefix}_{i:03d}" for i in range(len(rows))]
    frame = gpd.GeoDataFrame(rows, columns=list(FEATURES), geometry=[None] * len(rows))
    return frame.astype(dict.fromkeys(FEATURES, float)).assign(
        tile_id=names, path=[f"tiles/scene/{name}.tif" for name in names]
    )


@pytest.fixture(scope="module")
def mixed() -> gpd.GeoDataFrame:
    return catalog(*(make(seed) for make in (*GOOD, *BAD) for seed in range(6)))


def test_plain_sea_is_good_and_broken_tiles_are_not(mixed: gpd.GeoDataFrame) -> None:
    quality, good = classify_quality(mixed, QualitySettings())
    assert quality.between(0, 1).all()
    assert good.tolist() == [True] * 6 * len(GOOD) + [False] * 6 * len(BAD)


def test_neighbours_decide_what_no_rule_names() -> None:
    half_empty = [town(seed) for seed in range(6)]
    for tile in half_empty:
        tile[:, : SIDE // 2] = 0  # between the rules of the good and of the bad
    tiles = catalog(*(town(s) for s in range(6)), *(empty(s) for s in range(6)), *half_empty)
    quality, _ = classify_quality(tiles, QualitySettings(weights="uniform"))
    assert 0 < quality[12:].mean() < 1
    strict = classify_quality(tiles, QualitySettings(threshold=1.0))[1]
    assert strict.sum() <= classify_quality(tiles, QualitySettings())[1].sum()


def test_the_order_of_the_rows_has_no_say(mixed: gpd.GeoDataFrame) -> None:
    quality, good = classify_quality(mixed, QualitySettings())
    shuffled = mixed.sample(frac=1, random_state=3)
    again, good_again = classify_quality(shuffled, QualitySettings())
    assert (again.index == shuffled.index).all()
    assert again.sort_index().to_list() == quality.to_list()
    assert good_again.sort_index().to_list() == good.to_list()


@pytest.mark.parametrize(("make", "expected"), [(town, 1.0), (blank, 0.0)])
def test_one_class_only(make: object, expected: float) -> None:
    quality, good = classify_quality(catalog(*(make(s) for s in range(3))), QualitySettings())  # type: ignore[operator]
    assert set(quality) == {expected}
    assert set(good) == {expected >= 0.5}


def test_where_only_one_class_is_labelled_the_others_are_good() -> None:
    between = town(0)
    between[:, :64] = 0
    assert classify_quality(catalog(between), QualitySettings())[0].to_list() == [1.0]
    assert classify_quality(catalog(between, blank(0)), QualitySettings())[0].to_list() == [1.0, 0.0]
    quality, good = classify_quality(catalog(), QualitySettings())
    assert len(quality) == len(good) == 0


def test_the_users_labels_rule(tmp_path: Path, mixed: gpd.GeoDataFrame) -> None:
    labels = tmp_path / "labels.csv"
    # A user without use for the open sea; once by tile_id, once by path.
    labels.write_text("tile,label\nt_000,bad\ntiles/scene/t_001.tif,Bad\nt_012,good\nt_013,good\n")
    _, good = classify_quality(mixed, QualitySettings(labels=labels, neighbours=1))
    assert not good[:6].any()
    assert good[12:18].all()


def test_a_class_that_the_user_did_not_name_comes_from_the_rules(
    tmp_path: Path, mixed: gpd.GeoDataFrame
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("tile,label\nt_000,bad\nt_001,bad\n")
    _, good = classify_quality(mixed, QualitySettings(labels=labels, neighbours=3))
    assert not good[:2].any()
    assert good[12:18].all()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot read"),
        ("", "needs the columns tile"),
        ("name,label\nt_000,good\n", "needs the columns tile"),
        ("tile,label\nt_000,fine\n", 'a label in .* is "fine"'),
        ("tile,label\nelsewhere,good\n", "none of the tiles"),
    ],
)
def test_wrong_labels(tmp_path: Path, mixed: gpd.GeoDataFrame, content: str | None, complaint: str) -> None:
    path = tmp_path / "labels.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=complaint):
        classify_quality(mixed, QualitySettings(labels=path))


@pytest.mark.real_data
def test_los_angeles_has_no_bad_tile_but_its_ragged_border(real_data: Path) -> None:
    path = next((real_data / "geo").glob("*LosAngeles*.tif"))
    with rasterio.open(path) as raster:
        scene = raster.read(1)
    corners = [(row, col) for row in range(0, 4940, 988) for col in range(0, 4940, 988)]
    cut = [scene[row : row + 247, col : col + 247] for row, col in corners]
    tiles = catalog(*cut, *(blank(seed) for seed in range(8)), *(noise(seed) for seed in range(8)))
    _, good = classify_quality(tiles, QualitySettings())
    nodata = tiles["nodata_fraction"]
    assert (nodata[: len(cut)] > 0.75).any()
    assert good[nodata < 0.25][:-16].all()
    assert not good[nodata > 0.75].any()
    assert not good[-16:].any()
