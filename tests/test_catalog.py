import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, box

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


def test_columns_stand_in_the_schema_s_order(dataset: Path) -> None:
    names = pq.read_schema(dataset / "tiles.parquet").names
    assert names == [*catalog.TILE_SCHEMA.names, "geometry", "bbox"]


def test_it_is_geoparquet_1_1(dataset: Path) -> None:
    # https://geoparquet.org/releases/v1.1.0: version, primary column, WKB, types, extent and covering.
    geo = json.loads(pq.read_schema(dataset / "tiles.parquet").metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert (column["encoding"], column["geometry_types"], column["bbox"]) == (
        "WKB",
        ["Polygon"],
        [0, 0, 2, 2],
    )
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 4326}
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]


def test_tiles_without_coordinates_and_across_the_antimeridian(tmp_path: Path) -> None:
    across = MultiPolygon([box(179, 0, 180, 1), box(-180, 0, -179, 1)])
    rows = [tile_row("a"), tile_row("b"), tile_row("c")]
    catalog.write_tiles(tmp_path, gpd.GeoDataFrame(rows, geometry=[across, None, box(0, 0, 1, 1)], crs=4326))
    catalog.write_manifest(tmp_path, {"format_version": 1})
    frame = gpd.read_parquet(tmp_path / "tiles.parquet")
    assert frame.geometry[0].equals(across)
    assert frame.geometry[1] is None
    assert catalog.read_footprints(tmp_path).equals(frame)
    nowhere = gpd.GeoDataFrame(rows[1:2], geometry=[None], crs=4326)
    catalog.write_tiles(tmp_path, nowhere)
    assert gpd.read_parquet(tmp_path / "tiles.parquet").geometry.tolist() == [None]


def test_duckdb_reads_it(dataset: Path) -> None:
    query = f"""
        select tile_id, width, kept, bbox.xmin, geometry from '{dataset / "tiles.parquet"}'
        where bbox.xmax > 1.5 order by tile_id
    """
    [(tile_id, width, kept, west, wkb)] = duckdb.sql(query).fetchall()
    assert (tile_id, width, kept, west) == ("a", 8, True, 1)
    assert shapely.from_wkb(bytes(wkb)).bounds == (1, 1, 2, 2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.text() | st.none(),
    number=st.floats(allow_nan=False) | st.none(),
    transform=st.lists(st.floats(allow_nan=False), min_size=6, max_size=6) | st.none(),
    acquired=st.datetimes(timezones=st.just(UTC)) | st.none(),
)
def test_odd_values_come_back(
    tmp_path: Path,
    place: str | None,
    number: float | None,
    transform: list[float] | None,
    acquired: datetime | None,
) -> None:
    values = {"place": place, "lon": number, "transform": transform, "acquired": acquired}
    catalog.write_tiles(tmp_path, gpd.GeoDataFrame([tile_row("a", **values)], geometry=[None], crs=4326))
    catalog.write_manifest(tmp_path, {"format_version": 1})
    [row] = catalog.open_tiles(tmp_path).to_table(list(values)).to_pylist()
    assert row == values


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


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def newer(table: pa.Table) -> pa.Table:
    about = {"format_version": catalog.FORMAT_VERSION + 1, "made_by": "fusar-klip 9.9"}
    return table.replace_schema_metadata({b"fusar_klip": json.dumps(about).encode()})


def test_what_a_newer_version_wrote_is_not_misread(dataset: Path) -> None:
    catalog.write_texts(dataset, "v000", text_rows("a"), parent=None, maker={})
    rewrite(dataset / "texts" / "v000.parquet", newer)
    with pytest.raises(
        DatasetError, match=r"v000.parquet was made by a newer version \(fusar-klip 9.9\): upg"
    ):
        catalog.read_texts(dataset)
    rewrite(dataset / "tiles.parquet", newer)
    with pytest.raises(
        DatasetError, match=r"tiles.parquet was made by a newer version \(fusar-klip 9.9\): upg"
    ):
        catalog.read_tiles(dataset)
    catalog.write_manifest(dataset, {"format_version": 2, "made_by": "fusar-klip 9.9"})
    with pytest.raises(DatasetError, match="newer version"):
        catalog.read_manifest(dataset)


def test_columns_of_an_older_version_are_null(dataset: Path) -> None:
    rewrite(dataset / "tiles.parquet", lambda table: table.drop_columns(["density", *catalog.FEATURES]))
    tiles = catalog.read_tiles(dataset)
    assert list(tiles.columns) == catalog.TILE_SCHEMA.names
    assert tiles["density"].isna().all()
    assert catalog.read_tiles(dataset, ["mean"])["mean"].isna().tolist() == [True, True]
    catalog.write_tiles(dataset, catalog.read_footprints(dataset))
    rewrite(dataset / "tiles.parquet", lambda table: table.drop_columns(["kept"]))
    with pytest.raises(DatasetError, match="has no column kept: build the data set again"):
        catalog.read_tiles(dataset)


def test_large_catalogs_are_read_part_by_part(tmp_path: Path) -> None:
    rows = [tile_row(f"{i:06d}", scene_id=f"s{i // 20_000}") for i in range(40_000)]
    frame = gpd.GeoDataFrame(rows, geometry=[box(0, 0, 1, 1)] * len(rows), crs=4326)
    catalog.write_tiles(tmp_path, frame)
    catalog.write_manifest(tmp_path, {"format_version": 1})
    assert pq.ParquetFile(tmp_path / "tiles.parquet").num_row_groups == 3
    tiles = catalog.open_tiles(tmp_path)
    [fragment] = tiles.get_fragments()
    assert len(fragment.split_by_row_group(pc.field("scene_id") == "s1")) == 2
    assert tiles.count_rows(filter=pc.field("scene_id") == "s1") == 20_000
