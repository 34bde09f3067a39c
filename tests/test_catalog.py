from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyarrow.parquet as pq
import pytest
from shapely.geometry import box

from fusar_klip import catalog
from fusar_klip.errors import DatasetError


def tile_row(tile_id: str, **values: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(catalog.TILE_SCHEMA.names)
    row |= {"tile_id": tile_id, "scene_id": "s", "ground_id": "g", "scale": "small", "path": f"{tile_id}.tif"}
    return row | {"width": 8, "height": 8, "split": "train", "valid_fraction": 1.0, "kept": True} | values


def text_rows(tile_id: str, task: catalog.Task = "terrain") -> pd.DataFrame:
    fields = reversed(catalog.FIELDS[task])
    rows = [{"tile_id": tile_id, "task": task, "field": f, "text": f"about {f}"} for f in fields]
    constant = {"source": "measure", "prompt_version": "1", "verdict": "original"}
    return pd.DataFrame(rows).assign(
        **constant, delta_itc=None, delta_itm=None, itm_score=None, previous=None
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    frame = gpd.GeoDataFrame(
        [tile_row("b"), tile_row("a", lon=1.5)], geometry=[box(0, 0, 1, 1), box(1, 1, 2, 2)], crs="EPSG:4326"
    )
    catalog.write_tiles(tmp_path, frame)
    catalog.write_manifest(tmp_path, {"format_version": 1})
    return tmp_path


def test_tiles_are_ordered_typed_and_open_in_geopandas(dataset: Path) -> None:
    frame = gpd.read_parquet(dataset / "tiles.parquet")
    assert frame.crs == "EPSG:4326"
    assert frame["tile_id"].tolist() == ["a", "b"]
    assert frame.geometry[0].bounds == (1, 1, 2, 2)
    schema = pq.read_schema(dataset / "tiles.parquet")
    assert [schema.field(f.name).type for f in catalog.TILE_SCHEMA] == catalog.TILE_SCHEMA.types
    inside = gpd.read_parquet(dataset / "tiles.parquet", bbox=(1.2, 1.2, 1.4, 1.4))
    assert inside["tile_id"].tolist() == ["a"]


def test_tiles_read_without_geopandas(dataset: Path) -> None:
    tiles = catalog.read_tiles(dataset)
    assert list(tiles.columns) == catalog.TILE_SCHEMA.names
    assert catalog.read_tiles(dataset, ["tile_id", "lon"])["lon"].tolist()[0] == 1.5
    with pytest.raises(DatasetError, match="has no column colour"):
        catalog.read_tiles(dataset, ["colour"])


def test_the_same_tiles_give_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    before = (dataset / "tiles.parquet").read_bytes()
    frame = gpd.read_parquet(dataset / "tiles.parquet").drop(columns="bbox", errors="ignore")
    catalog.write_tiles(tmp_path, frame.iloc[::-1])
    assert (dataset / "tiles.parquet").read_bytes() == before


def test_texts_come_back_in_the_order_of_the_fields(dataset: Path) -> None:
    texts = pd.concat([text_rows("b"), text_rows("a", "marine_target")])
    catalog.write_texts(dataset, "v000", texts, parent=None, maker={"provider": "measure"})
    read = catalog.read_texts(dataset)
    assert read["tile_id"].tolist() == ["a"] * 8 + ["b"] * 8
    assert read["field"].tolist() == [*catalog.TARGET_FIELDS, *catalog.TERRAIN_FIELDS]
    assert catalog.segments_by_tile(read)["a"][0] == "Count: about Count"
    about = catalog.read_text_metadata(dataset, "v000")
    assert about == {"parent": None, "maker": {"provider": "measure"}}


def test_noise_is_not_in_use(dataset: Path) -> None:
    texts = text_rows("a")
    texts.loc[texts["field"] == "Road", "verdict"] = "noise"
    catalog.write_texts(dataset, "v001", texts, parent="v000", maker={})
    assert "Road" not in catalog.read_texts(dataset, "v001")["field"].tolist()
    assert len(catalog.read_texts(dataset, "v001", in_use=False)) == 8


def test_a_version_is_never_edited(dataset: Path) -> None:
    catalog.write_texts(dataset, "v000", text_rows("a"), parent=None, maker={})
    with pytest.raises(DatasetError, match="never edited"):
        catalog.write_texts(dataset, "v000", text_rows("a"), parent=None, maker={})
    assert catalog.text_versions(dataset) == ["v000"]


def test_what_is_missing_or_broken_is_said(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set at"):
        catalog.read_manifest(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="has no texts v007"):
        catalog.read_texts(dataset, "v007")
    (dataset / "tiles.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(DatasetError, match="cannot be read"):
        catalog.read_tiles(dataset)
    (dataset / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="its build has not ended"):
        catalog.read_tiles(dataset)
