"""WebDataset shards, read back by webdataset itself."""

import gc
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from fusar_klip import catalog
from fusar_klip.export import export
from fusar_klip.export.tile_reader import TileReader
from fusar_klip.export.webdataset import write_webdataset

wds = pytest.importorskip("webdataset")
pytestmark = [  # webdataset leaves the shards that it read to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def read(shards: list[Path]) -> dict[str, dict[str, bytes]]:
    opened = wds.WebDataset([str(path) for path in shards], shardshuffle=False, empty_check=False)
    samples = {sample["__key__"]: sample for sample in opened}
    del opened
    gc.collect()
    return samples


def test_webdataset_reads_tiles_rows_and_texts(dataset: Path, tmp_path: Path) -> None:
    summary = export(dataset, to="webdataset", out=tmp_path / "wds")
    assert (summary.tiles, summary.left_out, summary.texts) == (4, 1, "v001")
    assert summary.by_split == {"test": 1, "train": 2, "val": 1}
    samples = read(sorted((tmp_path / "wds").glob("train-*.tar")))
    assert set(samples) == {"la_x_L_0", "fiji_L_0"}  # webdataset ends a key at the first dot
    sample = samples["la_x_L_0"]
    row = json.loads(sample["json"])
    assert set(row) == set(catalog.TILE_SCHEMA.names)
    assert (row["tile_id"], row["acquired"]) == ("la.x_L_0", "2020-11-07T13:52:41Z")
    assert row["place"] == "Los Ángeles | 洛杉矶"
    with rasterio.open(dataset / row["path"]) as raster, Image.open(io.BytesIO(sample["png"])) as image:
        np.testing.assert_array_equal(np.asarray(image), raster.read(1))
    lines = sample["txt"].decode().splitlines()
    assert lines == [f"{f}: new {f} of la.x_L_0" for f in catalog.FIELDS["terrain"] if f != "Road"]
    [without_text] = read([tmp_path / "wds" / "val-000000.tar"]).values()
    assert "txt" not in without_text
    assert json.loads(without_text["json"])["lon"] is None


def test_every_tile_and_older_texts_on_demand(dataset: Path, tmp_path: Path) -> None:
    summary = export(dataset, to="webdataset", out=tmp_path / "wds", every_tile=True, texts="v000")
    assert (summary.tiles, summary.left_out, summary.texts) == (5, 0, "v000")
    samples = read(sorted((tmp_path / "wds").glob("*.tar")))
    assert samples["la_x_L_0"]["txt"].startswith(b"Terrain: old")
    row = json.loads(read([tmp_path / "wds" / "test-000000.tar"])["la_x_L_1"]["json"])
    assert row["enl"] is None  # infinity is no JSON


def test_shards_stay_under_their_bound(dataset: Path, tmp_path: Path) -> None:
    reader = TileReader(dataset, kept_only=False, texts=None)
    write_webdataset(reader, tmp_path, shard_bytes=11_000)
    shards = sorted(tmp_path.glob("train-*.tar"))
    assert len(shards) > 1
    assert all(shard.stat().st_size <= 11_000 for shard in shards)
    assert set(read(shards)) == {"la_x_L_0", "la_x_L_2", "fiji_L_0"}
    for shard in shards:  # the members of a tile are never apart
        with tarfile.open(shard) as archive:
            assert {name.split(".")[1] for name in archive.getnames()} >= {"png", "json"}
