"""The scene manifest: CSV and STAC, what they say of which file, and what is wrong with them."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pystac
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiles_products_synthetic import message_of

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene.products.source import SceneFacts
from fusar_klip.tiles.scene_metadata import COLUMNS, read_scene_manifest

CSV = """file,platform,band,polarization,acquired,place,country,scene_type,gsd_m,mode,incidence_deg
scenes/a.tif,GF3,C,hh,2021-03-04T05:06:07Z,Shanghai,China,port,1.0,SL,33.5
b.tif,sentinel-1a,,,,,,Airport,,,
b/iw-vv.tiff,,,,,,,urban,,,
c/iw-vv.tiff,MySat,x,,2021-03-04 13:06:07+08:00,"Suzhou, Jiangsu",,,,,
"""


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "scenes.csv"
    path.write_text(CSV, encoding="utf-8-sig")
    return path


def _item(**properties: Any) -> dict[str, Any]:
    item = pystac.Item(
        "id",
        {"type": "Point", "coordinates": [0, 0]},
        [0, 0, 0, 0],
        datetime(2022, 1, 2, 3, 4, 5, tzinfo=UTC),
        properties,
    )
    item.add_asset("vv", pystac.Asset("https://example.org/s1/iw%2Dvv.tiff", roles=["data"]))
    item.add_asset("vh", pystac.Asset("./s1/iw-vh.tiff", extra_fields={"sar:polarizations": ["VH"]}))
    return item.to_dict(include_self_link=False)


class TestCsv:
    def test_says_what_its_cells_say(self, csv_file: Path) -> None:
        manifest = read_scene_manifest(csv_file)
        overrides = manifest.facts_for(Path("/data/scenes/a.tif"))
        assert overrides.gsd_m == 1.0
        assert overrides.facts == SceneFacts(
            platform="Gaofen-3",
            band="C",
            polarization="HH",
            mode="SL",
            incidence_deg=33.5,
            acquired=datetime(2021, 3, 4, 5, 6, 7, tzinfo=UTC),
            place="Shanghai",
            country="China",
            scene_type="port",
        )

    def test_empty_cells_say_nothing(self, csv_file: Path) -> None:
        overrides = read_scene_manifest(csv_file).facts_for(Path("x/b.tif"))
        assert overrides.facts == SceneFacts(platform="Sentinel-1", band="C", scene_type="airport")
        assert overrides.gsd_m is None

    def test_longer_paths_tell_equal_names_apart(self, csv_file: Path) -> None:
        manifest = read_scene_manifest(csv_file)
        assert manifest.facts_for(Path("/data/b/iw-vv.tiff")).facts.scene_type == "urban"
        other = manifest.facts_for(Path("/data/c/iw-vv.tiff")).facts
        assert (other.platform, other.band, other.place) == ("MySat", "X", "Suzhou, Jiangsu")
        assert other.acquired == datetime(2021, 3, 4, 5, 6, 7, tzinfo=UTC)
        assert manifest.facts_for(Path("/data/d/iw-vv.tiff")).facts == SceneFacts()

    def test_a_part_of_a_name_is_no_match(self, csv_file: Path) -> None:
        assert read_scene_manifest(csv_file).facts_for(Path("/data/xb.tif")).facts == SceneFacts()

    def test_files_that_no_scene_is_are_told(self, csv_file: Path) -> None:
        manifest = read_scene_manifest(csv_file)
        assert manifest.unused([Path("b.tif"), Path("q/c/iw-vv.tiff")]) == ["scenes/a.tif", "b/iw-vv.tiff"]

    @pytest.mark.parametrize(
        ("text", "mend"),
        [
            ("file,platfrom\na.tif,x\n", "unknown column 'platfrom': did you mean platform"),
            ("file,zzz\na.tif,x\n", "the columns are file, platform"),
            ("platform\nGF3\n", "needs a column file"),
            ("file,mode,mode\na.tif,x,y\n", "each column once"),
            ("file,scene_type\na.tif,harbour\n", "airport, port, urban, water, industrial, road_network"),
            ("file,gsd_m\na.tif,-1\n", "gsd_m of scene 1 .* has to be positive"),
            ("file,gsd_m\na.tif,one\n", "'one', which is no number"),
            ("file,incidence_deg\na.tif,95\n", "is 95 degrees"),
            ("file,acquired\na.tif,yesterday\n", "no time such as"),
            ("file,orbit_direction\na.tif,up\n", "ascending, descending"),
            ("file,mode\na.tif,x\na.tif,y\n", "a second time"),
            ("file,mode\n,x\n", "names no file"),
            ("file,place\na.tif,Suzhou, Jiangsu\n", "quote cells"),
            ('file\n"a.tif\n', "no CSV"),
            ("", "no CSV"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, text: str, mend: str) -> None:
        path = tmp_path / "scenes.csv"
        path.write_text(text)
        with pytest.raises(SceneError, match=mend):
            read_scene_manifest(path)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SceneError, match="no such scene manifest"):
            read_scene_manifest(tmp_path / "none.csv")

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(rows=st.lists(st.lists(st.text(max_size=12), min_size=2, max_size=2), max_size=4), data=st.data())
    def test_random_cells_are_read_or_named(
        self, tmp_path: Path, rows: list[list[str]], data: st.DataObject
    ) -> None:
        column = data.draw(st.sampled_from(COLUMNS[1:]))
        path = tmp_path / "scenes.csv"
        text = "\n".join([f"file,{column}", *(",".join(row) for row in rows)])
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        assert "\n" not in message_of(lambda: read_scene_manifest(path))


class TestStac:
    PROPERTIES: ClassVar[dict[str, Any]] = {
        "platform": "sentinel-1a",
        "sar:frequency_band": "C",
        "sar:polarizations": ["VV", "VH"],
        "sar:instrument_mode": "IW",
        "sar:product_type": "GRD",
        "sar:observation_direction": "right",
        "sat:orbit_state": "descending",
        "view:incidence_angle": 38.5,
        "sar:looks_equivalent_number": 4.4,
    }

    def _read(self, tmp_path: Path, document: Any) -> Any:
        path = tmp_path / "items.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return read_scene_manifest(path)

    def test_an_item_collection_says_what_its_items_say(self, tmp_path: Path) -> None:
        collection = pystac.ItemCollection([pystac.Item.from_dict(_item(**self.PROPERTIES))]).to_dict()
        manifest = self._read(tmp_path, collection)
        vv, vh = (manifest.facts_for(Path(f"/d/s1/iw-{p}.tiff")).facts for p in ("vv", "vh"))
        assert vh == SceneFacts(
            platform="Sentinel-1",
            band="C",
            polarization="VH",
            mode="IW",
            product_type="GRD",
            orbit_direction="descending",
            look_side="right",
            incidence_deg=38.5,
            looks=4.4,
            acquired=datetime(2022, 1, 2, 3, 4, 5, tzinfo=UTC),
        )
        assert vv.polarization is None  # of the item's two, the asset does not say which one
        assert vv.mode == "IW"

    def test_a_single_item_will_do(self, tmp_path: Path) -> None:
        manifest = self._read(tmp_path, _item(platform="umbra-05", gsd=0.5))
        assert manifest.facts_for(Path("iw-vh.tiff")).facts == SceneFacts()  # the href has a folder
        overrides = manifest.facts_for(Path("s1/iw-vv.tiff"))
        assert (overrides.facts.platform, overrides.facts.band, overrides.gsd_m) == ("Umbra", "X", 0.5)

    def test_a_web_address_fits_by_its_last_parts(self, tmp_path: Path) -> None:
        a, b = _item(gsd=1.0), _item(gsd=2.0)
        b["assets"]["vv"]["href"] = "s3://bucket/other/iw-vv.tiff"
        for item in (a, b):
            item["assets"] = {
                "vv": item["assets"]["vv"],
                "small": {"href": "./iw-vv.png", "roles": ["thumbnail"]},
            }
        manifest = self._read(tmp_path, {"type": "FeatureCollection", "features": [a, b]})
        assert manifest.facts_for(Path("/local/other/iw-vv.tiff")).gsd_m == 2.0
        assert manifest.facts_for(Path("/local/other/iw-vh.tiff")).gsd_m is None
        assert manifest.unused([Path("s1/iw-vv.tiff")]) == ["s3://bucket/other/iw-vv.tiff"]
        with pytest.raises(SceneError, match="2 addresses that may be"):
            manifest.facts_for(Path("/local/iw-vv.tiff"))

    @pytest.mark.parametrize(
        ("document", "mend"),
        [
            ("{", "no valid JSON"),
            ("[1]", "neither a STAC item collection nor an item"),
            ({"type": "FeatureCollection", "features": 3}, "neither a STAC"),
            ({"type": "FeatureCollection", "features": [3]}, "no properties or no assets"),
            ({"type": "Feature", "properties": {}, "assets": {"a": {}}}, "'a' without href"),
            (_item(**{"view:incidence_angle": "steep"}), "'steep', which is no number"),
            (_item(scene_type="harbour"), "airport, port"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, document: Any, mend: str) -> None:
        with pytest.raises(SceneError, match=mend):
            self._read(tmp_path, document)

    _json = st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        key=st.sampled_from([*PROPERTIES, "datetime", "gsd", "scene_type"]),
        value=_json,
        where=st.sampled_from(["properties", "assets", "href", "type"]),
    )
    def test_random_values_are_read_or_named(self, tmp_path: Path, key: str, value: Any, where: str) -> None:
        item = _item(**self.PROPERTIES)
        if where == "properties":
            item["properties"][key] = value
        elif where == "href":
            item["assets"]["vv"]["href"] = value
        else:
            item[where] = value
        assert "\n" not in message_of(lambda: self._read(tmp_path, item))
