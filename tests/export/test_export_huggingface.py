"""Hugging Face Parquet, loaded by `datasets` without a network."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from fusar_klip import catalog
from fusar_klip.export import export
from fusar_klip.export.huggingface import write_huggingface
from fusar_klip.export.tile_reader import TileReader

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def test_datasets_loads_it(dataset: Path, tmp_path: Path) -> None:
    summary = export(dataset, to="hf", out=tmp_path / "hf")
    assert (summary.tiles, summary.left_out, summary.texts) == (4, 1, "v001")
    loaded = datasets.load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 2, "val": 1, "test": 1}
    rows = {row["tile_id"]: row for split in loaded.values() for row in split}
    row = rows["la.x_L_0"]
    assert set(row) > set(catalog.TILE_SCHEMA.names)
    with rasterio.open(dataset / row["path"]) as raster:
        np.testing.assert_array_equal(np.asarray(row["image"]), raster.read(1))
        assert row["transform"] == list(raster.transform)[:6]
    assert row["task"] == "terrain"
    assert row["segments"] == [f"{f}: new {f} of la.x_L_0" for f in catalog.FIELDS["terrain"] if f != "Road"]
    assert row["text"] == "\n".join(row["segments"])
    assert row["acquired"].isoformat() == "2020-11-07T13:52:41+00:00"
    bare = rows["chips_L_0"]
    assert (bare["text"], bare["segments"], bare["footprint"], bare["lon"]) == (None, [], None, None)
    assert rows["fiji_L_0"]["footprint"].startswith("MULTIPOLYGON")


def test_datasets_streams_it(dataset: Path, tmp_path: Path) -> None:
    export(dataset, to="hf", out=tmp_path / "hf", every_tile=True)
    stream = datasets.load_dataset(str(tmp_path / "hf"), split="train", streaming=True)
    assert [row["tile_id"] for row in stream] == ["fiji_L_0", "la.x_L_0", "la.x_L_2"]


def test_shards_are_named_by_their_number(without_texts: Path, tmp_path: Path) -> None:
    reader = TileReader(without_texts, kept_only=False, texts=None)
    (without_texts / "dataset.md").write_text("# The card\n")
    (without_texts / "dataset.png").write_bytes(b"a map")
    write_huggingface(reader, tmp_path / "hf", shard_bytes=1, group_bytes=1)
    names = sorted(path.name for path in (tmp_path / "hf" / "data").glob("train-*"))
    assert names == [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    loaded = datasets.load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"), split="train")
    assert len(loaded) == 3
    card = (tmp_path / "hf" / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown\n")
    assert card.endswith("# The card\n")
    assert (tmp_path / "hf" / "dataset.png").read_bytes() == b"a map"
