import errno
import logging
import os
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from shapely import box

from fusar_klip import catalog
from fusar_klip.errors import DatasetError
from fusar_klip.models import Preprocess, open_tile_cache, tile_cache


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
    shard = tmp_path / "cache" / "tiles_16" / "00000.arrow"
    made = shard.stat().st_mtime_ns
    open_tile_cache(tmp_path, 16)
    assert shard.stat().st_mtime_ns == made
    write_dataset(tmp_path, ["a", "b", "c"])
    assert open_tile_cache(tmp_path, 16).images.shape == (3, 16, 16)
    assert open_tile_cache(tmp_path, 8).images.shape == (3, 8, 8)


def test_images_are_indexed_as_an_array_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_cache, "_SHARD_TILES", 7)
    monkeypatch.setattr(tile_cache, "_BLOCK_TILES", 3)
    write_dataset(tmp_path, [f"t{number:02d}" for number in range(17)])
    images = open_tile_cache(tmp_path, 16).images
    whole = np.asarray(images)
    assert whole.shape == images.shape == (17, 16, 16)
    assert len(images) == 17
    assert len(np.unique(whole, axis=0)) == 17
    rows = [16, 0, 7, 7, 6, -1]
    np.testing.assert_array_equal(images[rows], whole[rows])
    np.testing.assert_array_equal(images[np.array(rows)], whole[rows])
    np.testing.assert_array_equal(images[np.arange(17) % 2 == 0], whole[::2])
    np.testing.assert_array_equal(images[13], whole[13])
    assert not images[13].flags.writeable
    assert images[13].base is not None, "one tile is the file itself, not a copy"
    with pytest.raises(IndexError):
        images[17]


def test_a_killed_filling_goes_on_with_the_shards_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_cache, "_SHARD_TILES", 4)
    write_dataset(tmp_path, [f"t{number:02d}" for number in range(10)])
    whole = np.asarray(open_tile_cache(tmp_path, 16).images)
    shards = sorted((tmp_path / "cache" / "tiles_16").glob("*"))
    assert [shard.name for shard in shards] == ["00000.arrow", "00001.arrow", "00002.arrow"]
    shards[1].write_bytes(shards[1].read_bytes()[:-30])
    shards[2].unlink()
    made = shards[0].stat().st_mtime_ns
    read = []
    resize = Preprocess.resize
    monkeypatch.setattr(Preprocess, "resize", lambda self, path: read.append(path) or resize(self, path))
    np.testing.assert_array_equal(open_tile_cache(tmp_path, 16).images, whole)
    assert len(read) == 6
    assert shards[0].stat().st_mtime_ns == made
    write_dataset(tmp_path, ["t00"])
    assert len(open_tile_cache(tmp_path, 16).images) == 1
    assert [path.name for path in (tmp_path / "cache" / "tiles_16").glob("*")] == ["00000.arrow"]


def test_a_tile_that_cannot_be_read_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_dataset(tmp_path, ["a", "b", "c"])
    broken = tmp_path / "tiles" / "b.tif"
    good = broken.read_bytes()
    broken.write_bytes(good[:200])
    for _ in range(2):  # as it is filled, and as it is opened again
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            cache = open_tile_cache(tmp_path, 16)
        assert "b.tif" in caplog.text
        assert dict(cache.rows) == {"a": 0, "c": 2}
        assert list(cache.unreadable) == ["b"]
        with pytest.raises(DatasetError, match=r"b\.tif is not a readable image.*replace or remove it"):
            cache.rows["b"]
        with pytest.raises(KeyError):
            cache.rows["d"]
        expected = Preprocess(16).resize(tmp_path / "tiles" / "c.tif")
        np.testing.assert_array_equal(cache.images[2], expected)
    broken.write_bytes(good)
    mended = open_tile_cache(tmp_path, 16)
    assert not mended.unreadable
    np.testing.assert_array_equal(mended.images[mended.rows["b"]], Preprocess(16).resize(broken))


def test_an_empty_data_set_and_none(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set at"):
        open_tile_cache(tmp_path / "none", 16)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, ["a", "b"])

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tile_cache.pa.ipc, "new_file", full)
    with pytest.raises(DatasetError, match=r"cannot write the tile cache .*No space left.*free disk space"):
        open_tile_cache(tmp_path, 16)
    assert not list((tmp_path / "cache" / "tiles_16").iterdir())
