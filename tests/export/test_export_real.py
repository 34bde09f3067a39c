"""A real scene, built and exported in every format."""

import json
from pathlib import Path

import duckdb
import pystac
import pytest

from fusar_klip.export import export
from fusar_klip.tiles import build


@pytest.mark.real_data
def test_a_real_scene_is_built_and_exported(real_data: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    [scene] = (real_data / "geo" / "s1_port_la_db").glob("*.tif")
    built = build([scene], tmp_path / "ds")
    export(tmp_path / "ds", to="stac", out=tmp_path / "ds" / "stac")
    collection = pystac.Collection.from_file(str(tmp_path / "ds" / "stac" / "collection.json"))
    items = list(collection.get_items(recursive=True))
    assert len(items) == built.tiles
    west, south, east, north = collection.extent.spatial.bboxes[0]
    assert west < -118.26 < east  # the port of Los Angeles
    assert south < 33.73 < north
    for item in items:
        image = item.assets["image"]
        assert Path(image.get_absolute_href() or "").stat().st_size == image.extra_fields["file:size"]
    query = f"select count(*), count(distinct id) from '{tmp_path / 'ds' / 'stac' / 'items.parquet'}'"
    assert duckdb.sql(query).fetchall() == [(built.tiles, built.tiles)]
    kept = export(tmp_path / "ds", to="hf", out=tmp_path / "hf").tiles
    loaded = datasets.load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"))
    assert sum(map(len, loaded.values())) == kept
    assert (tmp_path / "hf" / "README.md").read_text().count("![") == 1
    shards = export(tmp_path / "ds", to="webdataset", out=tmp_path / "wds", every_tile=True)
    assert shards.tiles == built.tiles
    assert json.loads((tmp_path / "wds" / "export.json").read_text())["tiles"] == built.tiles
