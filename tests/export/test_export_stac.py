"""STAC: pystac's own schemas for the core, rules written from the extensions' texts for their fields.

The official schemas of the extensions are fetched from the network by pystac, which tests may not use:
`FIELDS` states, for the versions that are written, which fields there are and of what kind. pystac's typed
classes read them besides.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import pystac
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from pystac.extensions.sar import SarExtension
from pystac.extensions.sat import SatExtension
from pystac.extensions.view import ViewExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from shapely.geometry import box, shape

from fusar_klip.export import export
from fusar_klip.export.stac_item import EXTENSIONS, FileInfo, bbox, stac_item
from fusar_klip.export.tile_reader import ExportedTile

NUMBER, TEXT, COUNT = (
    {"type": "number"},
    {"type": "string", "minLength": 1},
    {"type": "integer", "minimum": 0},
)
NUMBERS = {"type": "array", "items": NUMBER}
BAND = {
    "data_type": {"enum": ["uint8"]},
    "nodata": NUMBER,
    "sampling": {"enum": ["area", "point"]},
    "spatial_resolution": NUMBER,
    "statistics": {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": dict.fromkeys(("mean", "stddev", "minimum", "maximum", "valid_percent"), NUMBER),
    },
}
FIELDS: dict[str, dict[str, Any]] = {
    "sar": {
        "sar:instrument_mode": TEXT,
        "sar:frequency_band": {"enum": ["P", "L", "S", "C", "X", "Ku", "K", "Ka"]},
        "sar:polarizations": {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {"enum": ["HH", "VV", "HV", "VH"]},
        },
        "sar:product_type": TEXT,
        "sar:looks_equivalent_number": {"type": "number", "minimum": 0},
        "sar:observation_direction": {"enum": ["left", "right"]},
    },
    "sat": {"sat:orbit_state": {"enum": ["ascending", "descending", "geostationary"]}},
    "view": {"view:incidence_angle": {"type": "number", "minimum": 0, "maximum": 90}},
    "proj": {
        "proj:code": {"type": ["string", "null"], "pattern": "^[A-Z]+:[0-9]+$"},
        "proj:wkt2": {"type": ["string", "null"]},
        "proj:shape": {"type": "array", "minItems": 2, "maxItems": 2, "items": COUNT},
        "proj:transform": NUMBERS | {"minItems": 6, "maxItems": 6},
        "proj:bbox": NUMBERS | {"minItems": 4, "maxItems": 4},
    },
    "raster": {
        "raster:bands": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "properties": BAND, "additionalProperties": False},
        }
    },
    "file": {"file:size": COUNT, "file:checksum": {"type": "string", "pattern": "^1220[0-9a-f]{64}$"}},
}
REQUIRED = {
    "sar": ["sar:instrument_mode", "sar:frequency_band", "sar:polarizations", "sar:product_type"],
    "sat": ["sat:orbit_state"],
}


def rules(name: str) -> dict[str, Any]:
    fields = {
        "type": "object",
        "properties": FIELDS[name],
        "patternProperties": {f"^(?!{name}:)": {}},
        "additionalProperties": False,  # a field with the prefix that the extension does not know
    }
    return {
        "$id": EXTENSIONS[name],
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "properties": {**fields, "required": REQUIRED.get(name, [])},
            "assets": {"type": "object", "additionalProperties": fields},
        },
    }


@pytest.fixture(scope="module")
def validator() -> JsonSchemaSTACValidator:
    known = JsonSchemaSTACValidator()
    known.schema_cache |= {url: rules(name) for name, url in EXTENSIONS.items()}
    return known


def load(dataset: Path, out: Path) -> tuple[pystac.Collection, dict[str, pystac.Item]]:
    export(dataset, to="stac", out=out)
    collection = pystac.Collection.from_file(str(out / "collection.json"))
    return collection, {item.id: item for item in collection.get_items(recursive=True)}


def test_everything_is_valid_stac(dataset: Path, tmp_path: Path, validator: JsonSchemaSTACValidator) -> None:
    collection, items = load(dataset, tmp_path / "stac")
    catalogs = list(collection.get_children())
    assert [catalog.id for catalog in catalogs] == ["chips", "fiji", "la.x"]
    assert len(items) == 5
    checked = set()
    for thing in (collection, *catalogs, *items.values()):
        written = json.loads(Path(thing.self_href).read_text(encoding="utf-8"))
        used = written.get("stac_extensions", [])
        checked |= set(validator.validate(written, thing.STAC_OBJECT_TYPE, "1.1.0", used))
        thing.validate(validator=validator)
    assert checked >= set(EXTENSIONS.values())


def test_the_rules_can_fail(dataset: Path, tmp_path: Path, validator: JsonSchemaSTACValidator) -> None:
    _, items = load(dataset, tmp_path / "stac")
    written = items["la.x_L_0"].to_dict()
    for key, value in (("sar:frequency_band", "Q"), ("sar:colour", "red"), ("proj:code", "32611")):
        broken = {**written, "properties": {**written["properties"], key: value}}
        with pytest.raises(pystac.STACValidationError):
            validator.validate(broken, pystac.STACObjectType.ITEM, "1.1.0", written["stac_extensions"])


def test_extension_fields(dataset: Path, tmp_path: Path) -> None:
    _, items = load(dataset, tmp_path / "stac")
    item = items["la.x_L_0"]
    image = item.assets["image"]
    path = Path(image.get_absolute_href() or "")
    with rasterio.open(path) as raster:
        projection = ProjectionExtension.ext(item)
        assert projection.code == raster.crs.to_string()
        assert projection.transform == list(raster.transform)[:6]
        assert tuple(projection.shape or ()) == raster.shape
        assert projection.bbox == list(raster.bounds)
        [band] = RasterExtension.ext(image).bands or []
        assert (band.data_type, band.nodata) == (raster.dtypes[0], raster.nodata)
    assert band.statistics is not None
    assert (band.statistics.mean, band.statistics.stddev) == (90.0, 40.0)
    facts = FileExtension.ext(image)
    assert facts.size == path.stat().st_size
    assert facts.checksum == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
    sar = SarExtension.ext(item)
    assert (sar.instrument_mode, sar.frequency_band, sar.product_type) == ("IW", "C", "GRDH")
    assert sar.polarizations == ["VH"]
    assert SatExtension.ext(item).orbit_state == "descending"
    assert ViewExtension.ext(item).incidence_angle == 38.5
    assert item.properties["description"].startswith("Terrain: new Terrain of la.x_L_0\n")
    assert item.properties["fusar_klip:place"] == "Los Ángeles | 洛杉矶"
    assert "Road" not in item.properties["description"]
    assert not items["la.x_L_2"].properties["fusar_klip:kept"]


def test_unknown_values_are_left_out(dataset: Path, tmp_path: Path) -> None:
    _, items = load(dataset, tmp_path / "stac")
    bare, local = items["chips_L_0"], items["fiji_L_0"]
    assert (bare.geometry, bare.bbox, bare.datetime) == (None, None, None)
    assert bare.properties["start_datetime"] < bare.properties["end_datetime"]
    assert bare.stac_extensions == [EXTENSIONS["raster"], EXTENSIONS["file"]]
    assert local.properties["proj:code"] is None
    assert local.properties["proj:wkt2"].startswith("PROJCRS")
    assert "fusar_klip:enl" not in items["la.x_L_1"].properties


def test_across_the_antimeridian(dataset: Path, tmp_path: Path) -> None:
    _, items = load(dataset, tmp_path / "stac")
    assert items["fiji_L_0"].bbox == [179.9, -17, -179.9, -16.9]
    assert shape(items["fiji_L_0"].geometry or {}).geom_type == "MultiPolygon"


@given(
    west=st.floats(-180, 180, exclude_max=True),
    south=st.floats(-90, 89),
    width=st.floats(1e-6, 90),
    height=st.floats(1e-6, 1),
)
def test_bbox_is_as_wide_as_its_footprint(west: float, south: float, width: float, height: float) -> None:
    east, north = west + width, min(south + height, 90)
    footprint = box(west, south, min(east, 180), north)
    if east > 180 and west < 180:
        footprint = footprint.union(box(-180, south, east - 360, north))
    found_west, found_south, found_east, found_north = bbox(footprint)
    assert (found_south, found_north) == pytest.approx((south, north))
    assert found_west == pytest.approx(west)
    assert (found_east - found_west) % 360 == pytest.approx(width, abs=1e-9)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    text=st.text() | st.none(),
    number=st.floats(min_value=0, exclude_min=True, allow_infinity=False) | st.none(),
)
def test_odd_values_stay_valid(
    validator: JsonSchemaSTACValidator, text: str | None, number: float | None
) -> None:
    names = ("tile_id", "crs", "transform", "width", "height", "looks", "acquired", "scale", "kept", "std")
    row: dict[str, Any] = {**dict.fromkeys(names), "tile_id": "t", "valid_fraction": 0.5, "kept": True}
    row |= dict.fromkeys(("platform", "band", "polarization", "mode", "product_type", "place"), text)
    row |= {
        "gsd_m": number,
        "mean": number,
        "incidence_deg": None,
        "orbit_direction": None,
        "look_side": None,
    }
    item = stac_item(ExportedTile(row, box(0, 0, 1, 1), None, []), FileInfo(1, "0" * 64), "x.tif", "c")
    validator.validate(item, pystac.STACObjectType.ITEM, "1.1.0", item["stac_extensions"])
    assert json.loads(json.dumps(item, allow_nan=False)) == json.loads(json.dumps(item))


def test_the_collection_shows_the_data_card(dataset: Path, tmp_path: Path) -> None:
    (dataset / "dataset.md").write_text("# The card\n")
    (dataset / "dataset.png").write_bytes(b"a map")
    collection, _ = load(dataset, tmp_path / "stac")
    assert set(collection.assets) == {"items", "card", "thumbnail"}
    for asset in collection.assets.values():
        assert Path(asset.get_absolute_href() or "").is_file()


def test_geoparquet_of_the_items(dataset: Path, tmp_path: Path) -> None:
    collection, items = load(dataset, tmp_path / "stac")
    path = tmp_path / "stac" / "items.parquet"
    frame = gpd.read_parquet(path)
    assert sorted(frame["id"]) == sorted(set(items) - {"chips_L_0"})  # an item needs a place to be in it
    image = frame["assets"].iloc[0]["image"]
    assert (path.parent / image["href"]).resolve().is_file()
    assert collection.assets["items"].get_absolute_href() == str(path)


def test_scenes_without_coordinates_only(without_texts: Path, tmp_path: Path) -> None:
    # The collection's extent is then the whole world, and there is no GeoParquet of nothing.
    from fusar_klip import catalog

    frame = catalog.read_footprints(without_texts)
    catalog.write_tiles(without_texts, frame[frame["scene_id"] == "chips"])
    collection, items = load(without_texts, tmp_path / "stac")
    assert collection.extent.spatial.bboxes == [[-180, -90, 180, 90]]
    assert collection.extent.temporal.intervals == [[None, None]]
    assert "items" not in collection.assets
    assert list(items) == ["chips_L_0"]
