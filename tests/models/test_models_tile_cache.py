import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from shapely import box

from fusar_klip import catalog
from fusar_klip.errors import DatasetError
from fusar_klip.models import Preprocess, open_tile_cache


def write_dataset(dataset: Path, names: list[str]) -> None:
    rows = []
    for number, name in enumerate(names):
        path = dataset / "tiles" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(1, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        rows.append(
            dict.fromkeys(catalog.TILE_SCHEMA.names)
            | {"tile_id": name, "scene_id": "s", "ground_id": name, "scale": "small", "split": "train"}
            | {"path": f"tiles/{name}.tif", "width": 40, "height": 40, "valid_fraction": 1.0, "kept": True}
        )
    frame = gpd.GeoDataFrame(pd.DataFrame(rows), geometry=[box(0, 0, 1, 1)] * len(rows), crs="EPSG:4326")
    catalog.write_tiles(dataset, frame)
    catalog.write_manifest(dataset, {"tiles": len(rows)})


def test_the_cache_holds_the_resized_tiles(tmp_path: Path) -> None:
    names = [f"t{number:02d}" for number in range(20)]
    write_dataset(tmp_path, names)
    cache = open_tile_cache(tmp_path, 16)
    assert cache.images.shape == (20, 16, 16)
    assert cache.images.dtype == np.uint8
    for name in names:
        expected = Preprocess(16).resize(tmp_path / "tiles" / f"{name}.tif")
        np.testing.assert_array_equal(cache.images[cache.rows[name]], expected)
    assert not list((tmp_path / "cache").glob(".*"))


def test_it_is_made_once_and_again_when_tiles_are_added(tmp_path: Path) -> None:
    write_dataset(tmp_path, ["a", "b"])
    open_tile_cache(tmp_path, 16)
    array = tmp_path / "cache" / "tiles_16.npy"
    made = array.stat().st_mtime_ns
    open_tile_cache(tmp_path, 16)
    assert array.stat().st_mtime_ns == made
    write_dataset(tmp_path, ["a", "b", "c"])
    assert open_tile_cache(tmp_path, 16).images.shape == (3, 16, 16)
    assert json.loads((tmp_path / "cache" / "tiles_16.json").read_text())["tiles"] == 3
    assert open_tile_cache(tmp_path, 8).images.shape == (3, 8, 8)


def test_a_half_written_cache_is_made_again(tmp_path: Path) -> None:
    write_dataset(tmp_path, ["a", "b"])
    whole = open_tile_cache(tmp_path, 16).images.copy()
    (tmp_path / "cache" / "tiles_16.json").write_text("{")
    (tmp_path / "cache" / "tiles_16.npy").write_bytes(b"")
    np.testing.assert_array_equal(open_tile_cache(tmp_path, 16).images, whole)


def test_an_empty_and_a_broken_data_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set at"):
        open_tile_cache(tmp_path / "none", 16)
    write_dataset(tmp_path, ["a", "b"])
    (tmp_path / "tiles" / "b.tif").write_bytes(b"broken")
    with pytest.raises(DatasetError, match=r"b\.tif cannot be read"):
        open_tile_cache(tmp_path, 16)
    assert not list((tmp_path / "cache").glob("*"))
