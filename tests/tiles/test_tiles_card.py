"""The data card: the same bytes for the same data set, whatever is not known of it."""

import io
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from shapely.geometry import MultiPolygon, box

from fusar_klip import catalog
from fusar_klip.tiles.card.data_card import write_card
from fusar_klip.tiles.card.data_card_map import draw_map

ACROSS = MultiPolygon([box(179.9, -17, 180, -16.9), box(-180, -17, -179.9, -16.9)])


def tile(tile_id: str, **values: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(catalog.TILE_SCHEMA.names)
    row |= {"tile_id": tile_id, "scene_id": "s", "ground_id": "g", "scale": "large", "path": f"{tile_id}.tif"}
    return row | {"width": 8, "height": 8, "split": "train", "valid_fraction": 1.0, "kept": True} | values


def frame(*rows: tuple[dict[str, object], Any]) -> gpd.GeoDataFrame:
    tiles = pd.DataFrame([row for row, _ in rows])
    tiles["acquired"] = pd.to_datetime(tiles["acquired"], utc=True)
    return gpd.GeoDataFrame(tiles, geometry=[footprint for _, footprint in rows], crs="EPSG:4326")


LA = (
    tile("a", lon=-118.3, lat=33.75, gsd_m=8.3, platform="Sentinel-1", band="C", polarization="VH")
    | {"place": "San | Pedro", "country": "United States", "acquired": "2020-11-07T13:52:41Z"},
    box(-118.4, 33.7, -118.2, 33.8),
)
FIJI = (tile("f", scene_id="fiji", lon=180.0, lat=-16.95, kept=False, place="$x_2$ 洛杉矶"), ACROSS)
NOWHERE = (tile("n", scene_id="chips", split="val"), None)
NORTH = (tile("p", scene_id="north", lon=20.0, lat=89.9), box(19, 89.85, 21, 89.95))
SCENE = {"scene_id": "s", "file": "scene.tif", "crs": "EPSG:3395", "warped": False, "gsd_m": 8.308}
MANIFEST = {
    "made_by": "fusar-klip 0.1.0",
    "settings": {"split": {"val": 0.1}},
    "scenes": [SCENE],
    "failed": [],
}


def card(folder: Path, tiles: gpd.GeoDataFrame, **manifest: object) -> str:
    write_card(folder, tiles, MANIFEST | manifest)
    return (folder / "dataset.md").read_text(encoding="utf-8")


def test_counts_tell_tiles_and_kept_ones(tmp_path: Path) -> None:
    text = card(tmp_path, frame(LA, FIJI, NOWHERE))
    assert text.startswith("# 3 SAR tiles of 1 scene\n")
    assert "keep 2 tiles." in text
    assert "Without coordinates: 1 tile." in text
    assert "| Sentinel-1 C VH | 1 | 1 |" in text
    assert "| not known | 2 | 1 |" in text
    assert "| 5 to 20 m | 1 | 1 |" in text
    assert "| train | 2 | 1 |" in text
    assert "| `split.val` | `0.1` |" in text
    assert "| scene.tif | Sentinel-1 C VH | 2020-11-07 13:52 | 8.31 | its own grid, EPSG:3395 |" in text
    assert "licences of the scenes are not known" in text


@pytest.mark.parametrize(
    ("geocoding", "said"),
    [
        (
            {"method": "gcps", "order": 2, "points": 210, "residual_rms_px": 0.314, "leave_one_out_px": 0.35}
            | {"terrain_corrected": False},
            "| 210 control points (order 2), warped to EPSG:3395 | 0.31, 0.35 | no |",
        ),
        (
            {"method": "gcps", "order": "tps", "points": 9, "terrain_corrected": False},
            "| 9 control points (thin-plate spline), warped to EPSG:3395 |  | no |",
        ),
        (
            {"method": "rpcs", "height_m": 12.4, "terrain_corrected": False},
            "| RPCs, warped to EPSG:3395 |  | no, at 12 m |",
        ),
        (
            {"method": "rpcs", "dem": "dem.tif", "terrain_corrected": True},
            "| RPCs, warped to EPSG:3395 |  | yes, by dem.tif |",
        ),
        (
            {"method": "degrees", "terrain_corrected": None},
            "| degrees, warped to EPSG:3395 |  | not known |",
        ),
        (None, "| its own grid, EPSG:3395 |  | not known |"),
    ],
)
def test_geocoding_is_told(tmp_path: Path, geocoding: dict[str, object] | None, said: str) -> None:
    assert said in card(tmp_path, frame(LA), scenes=[SCENE | {"geocoding": geocoding}])


def test_without_coordinates_there_is_no_map(tmp_path: Path) -> None:
    assert "dataset.png" in card(tmp_path, frame(LA))
    assert (tmp_path / "dataset.png").exists()
    text = card(tmp_path, frame(NOWHERE), scenes=[SCENE | {"crs": None}])
    assert "dataset.png" not in text
    assert not (tmp_path / "dataset.png").exists()
    assert "| pixels only, no coordinates |" in text


def test_a_data_set_without_tiles_has_a_card(tmp_path: Path) -> None:
    text = card(tmp_path, frame(LA).iloc[:0], scenes=[])
    assert text.startswith("# 0 SAR tiles of 0 scenes\n")
    assert not (tmp_path / "dataset.png").exists()


def test_failures_stand_with_their_reason(tmp_path: Path) -> None:
    failed = [{"file": "bad|name.tif", "reason": "bad.tif is cut short:\ndownload it again"}]
    text = card(tmp_path, frame(LA), failed=failed)
    assert "| bad\\|name.tif | bad.tif is cut short: download it again |" in text


def test_the_same_data_set_has_the_same_card(tmp_path: Path) -> None:
    tiles = frame(LA, FIJI, NOWHERE, NORTH)
    card(tmp_path / "a", tiles)
    card(tmp_path / "b", tiles)
    for name in ("dataset.md", "dataset.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "dataset.png") as picture:
        assert set(picture.info) <= {"dpi"}  # no time, no program


def test_the_map_shows_the_tiles_in_the_color_of_their_split() -> None:
    def has(tiles: gpd.GeoDataFrame, near: tuple[int, int, int]) -> bool:
        with Image.open(io.BytesIO(draw_map(tiles) or b"")) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        return (np.abs(pixels - near).max(axis=2) < 12).sum() > 5_000

    row, footprint = LA
    blue, orange = (140, 191, 220), (244, 215, 140)
    assert has(frame((row, footprint)), blue)
    assert not has(frame((row, footprint)), orange)
    assert has(frame((row | {"split": "val"}, footprint)), orange)
    assert not has(frame((row | {"kept": False}, footprint)), blue)
    across = tile("f", lon=180.0, lat=-16.95), ACROSS
    assert has(frame(across), blue)  # one area of 0.2 degrees, not one around the globe


def test_thousands_of_scenes_stay_readable(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows, scenes = [], []
    for i in range(2000):
        lon, lat = generator.uniform(-179, 179), generator.uniform(-60, 75)
        place = tile(f"t{i}", scene_id=f"s{i}", lon=lon, lat=lat, country=f"land {i % 300:03d}")
        rows.append((place, box(lon, lat, lon + 0.1, lat + 0.1)))
        scenes.append(SCENE | {"scene_id": f"s{i}", "file": f"s{i}.tif"})
    text = card(tmp_path, frame(*rows), scenes=scenes)
    assert "| and 1,900 more |" in text
    assert "| and 200 more |" in text
    assert len(text) < 40_000


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.text() | st.none(),
    lon=st.floats(-180, 180),
    lat=st.floats(-90, 89.8),
    size=st.floats(1e-4, 0.1),
)
def test_any_place_can_be_drawn(
    tmp_path: Path, place: str | None, lon: float, lat: float, size: float
) -> None:
    row = tile("a", lon=lon, lat=lat, place=place, country=place, platform=place)
    assert card(tmp_path, frame((row, box(lon, lat, min(lon + size, 180.0), lat + size)))).startswith(
        "# 1 SAR"
    )
