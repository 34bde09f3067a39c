"""What find_sources makes of rasters, SAFE folders and zips, level-1A folders and other folders."""

import pickle
import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiles_products_synthetic as synthetic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.transform import RPCTransformer

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene.products import Source, find_sources
from fusar_klip.tiles.scene.products.metadata import parse_json, parse_xml
from fusar_klip.tiles.scene.products.rpc import read_rpc
from fusar_klip.tiles.settings import SceneSettings

# Writing and opening a raster whose geometry is beside it warns that it has none.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
ANY = SceneSettings()


@pytest.fixture
def safe(tmp_path: Path) -> Path:
    return synthetic.write_safe(tmp_path)


@pytest.fixture
def level1a(tmp_path: Path) -> Path:
    return synthetic.write_level1a(tmp_path)


def _only(sources: list[Source]) -> Source:
    assert len(sources) == 1
    return sources[0]


class TestSafe:
    def test_gives_one_source_a_polarization(self, safe: Path) -> None:
        found = find_sources(safe, ANY)
        assert [source.facts.polarization for source in found] == ["VH", "VV"]
        vv = found[1]
        assert vv.facts.platform == "Sentinel-1"
        assert vv.facts.band == "C"
        assert vv.facts.mode == "IW"
        assert vv.facts.product_type == "GRDH"
        assert vv.facts.orbit_direction == "descending"
        assert vv.facts.look_side == "right"
        assert vv.facts.incidence_deg == 38.0
        assert vv.facts.looks == 5.0
        assert vv.facts.acquired == datetime(2018, 7, 16, 0, 40, 42, 123456, tzinfo=UTC)
        assert vv.gsd_m == (11.0, 10.0)
        assert vv.kind == "amplitude"
        assert vv.name.startswith("s1a-iw-grd-vv-20180716t004042")
        assert vv.files == (Path(vv.raster),)
        assert vv.calibration is None

    @pytest.mark.parametrize("inside", ["manifest.safe", "measurement"])
    def test_its_manifest_and_a_measurement_stand_for_it(self, safe: Path, inside: str) -> None:
        whole = find_sources(safe, ANY)
        if inside == "manifest.safe":
            assert [s.raster for s in find_sources(safe / inside, ANY)] == [s.raster for s in whole]
        else:
            own = _only(find_sources(Path(whole[0].raster), ANY))
            assert own.facts == whole[0].facts

    def test_a_zip_says_the_same_and_opens_without_unpacking(self, safe: Path, tmp_path: Path) -> None:
        archive = synthetic.zip_folder(safe, tmp_path / "product.zip")
        of_folder, of_zip = find_sources(safe, ANY), find_sources(archive, ANY)
        assert [s.facts for s in of_zip] == [s.facts for s in of_folder]
        assert [s.name for s in of_zip] == [s.name for s in of_folder]
        assert {file for s in of_zip for file in s.files} == {archive}
        for unpacked, packed in zip(of_folder, of_zip, strict=True):
            with rasterio.open(unpacked.raster) as a, rasterio.open(packed.raster) as b:
                assert np.array_equal(a.read(1), b.read(1))
                assert len(b.gcps[0]) == 16

    def test_polarization_chooses(self, safe: Path) -> None:
        assert _only(find_sources(safe, SceneSettings(polarization="vh"))).facts.polarization == "VH"
        with pytest.raises(SceneError, match=r"no polarization HH: set scene\.polarization to one of VH, VV"):
            find_sources(safe, SceneSettings(polarization="HH"))

    def test_a_single_polarization_is_not_called_another(self, safe: Path) -> None:
        vh, _ = find_sources(safe, SceneSettings())
        with pytest.raises(SceneError, match=r"no polarization VV: set scene\.polarization to one of VH$"):
            find_sources(Path(vh.raster), SceneSettings(polarization="VV"))

    def test_look_up_tables_are_read_when_wanted(self, safe: Path) -> None:
        wanted = SceneSettings(calibration="sigma0")
        found = find_sources(safe, wanted)
        assert all(source.calibration is not None for source in found)
        again = pickle.loads(pickle.dumps(found[0])).calibration
        dn = np.full((4, 5), 320, np.uint16)
        np.testing.assert_array_equal(again.sigma0(dn, 3, 7), found[0].calibration.sigma0(dn, 3, 7))
        shutil.rmtree(safe / "annotation" / "calibration")
        with pytest.raises(SceneError, match=r"leave scene\.calibration out"):
            find_sources(safe, wanted)

    def test_without_annotation_the_names_serve(self, safe: Path) -> None:
        shutil.rmtree(safe / "annotation")
        vv = find_sources(safe, ANY)[1]
        assert (vv.facts.polarization, vv.facts.mode, vv.facts.incidence_deg) == ("VV", "IW", None)

    def test_a_renamed_folder_named_from_inside_keeps_its_facts(
        self, safe: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        renamed = safe.rename(safe.parent / "kochi")
        vv = find_sources(renamed, ANY)[1]
        assert (vv.facts.product_type, vv.facts.mode, vv.facts.looks) == ("GRD", "IW", 5.0)
        monkeypatch.chdir(renamed / "measurement")
        own = _only(find_sources(Path(f"{vv.name}.tiff"), ANY))
        assert (own.facts, own.name, own.files) == (vv.facts, vv.name, vv.files)

    def test_bursts_are_refused(self, safe: Path) -> None:
        for file in (safe / "annotation").glob("*.xml"):
            file.write_text(synthetic.annotation(product_type="SLC", bursts="<burst/>"))
        with pytest.raises(SceneError, match="give the GRD product"):
            find_sources(safe, ANY)

    @pytest.mark.parametrize(
        ("damage", "mend"),
        [
            (lambda safe: shutil.rmtree(safe / "measurement"), "it is not whole"),
            (lambda safe: (safe / "manifest.safe").write_text("<XFDU><metadata"), "is damaged"),
            (
                lambda safe: next((safe / "annotation").glob("*.xml")).write_text(
                    synthetic.annotation(incidence="138")
                ),
                "incidence angle .* is 138 degrees",
            ),
            (
                lambda safe: next((safe / "annotation").glob("*.xml")).write_text(
                    synthetic.annotation(incidence="abc")
                ),
                "'abc', which is no number",
            ),
        ],
    )
    def test_damage_is_named(self, safe: Path, damage: object, mend: str) -> None:
        damage(safe)  # type: ignore[operator]
        with pytest.raises(SceneError, match=mend):
            find_sources(safe, ANY)

    def test_a_truncated_or_empty_zip_is_named(self, safe: Path, tmp_path: Path) -> None:
        archive = synthetic.zip_folder(safe, tmp_path / "product.zip")
        content = archive.read_bytes()
        archive.write_bytes(content[: len(content) // 2])
        with pytest.raises(SceneError, match="no whole zip"):
            find_sources(archive, ANY)
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("readme.txt", "nothing")
        with pytest.raises(SceneError, match="holds 0 Sentinel-1 products"):
            find_sources(archive, ANY)

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(position=st.integers(0, 20_000), damage=st.binary(min_size=1, max_size=40))
    def test_a_damaged_zip_gives_sources_or_one_error(
        self, tmp_path: Path, position: int, damage: bytes
    ) -> None:
        whole = tmp_path / "whole.zip"
        if not whole.exists():
            synthetic.zip_folder(synthetic.write_safe(tmp_path), whole)
        content = bytearray(whole.read_bytes())
        position = -1 - position % len(content)  # the directory is at the end
        content[position : position + len(damage)] = damage
        (tmp_path / "damaged.zip").write_bytes(content)
        wanted = SceneSettings(calibration="sigma0")
        assert "\n" not in synthetic.message_of(lambda: find_sources(tmp_path / "damaged.zip", wanted))


class TestProductInfo:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / synthetic.SAFE_NAME.removesuffix(".SAFE")
        for polarization in ("vv", "vh"):
            synthetic.write_tiff(
                folder / f"iw-{polarization}.tiff",
                np.ones((80, 90), np.uint16),
                gcps=synthetic.gcps(80, 90),
                crs="EPSG:4326",
            )
        (folder / "productInfo.json").write_text('{"mode": "IW", "startTime": "2018-07-16T00:40:42"}')
        return folder

    def test_folder_and_file_have_the_same_facts(self, folder: Path) -> None:
        vh, vv = find_sources(folder, ANY)
        assert vv.name == f"{folder.name}_VV"
        assert (vv.facts.platform, vv.facts.mode, vv.facts.product_type) == ("Sentinel-1", "IW", "GRDH")
        assert vv.facts.acquired == datetime(2018, 7, 16, 0, 40, 42, tzinfo=UTC)
        alone = _only(find_sources(folder / "iw-vh.tiff", ANY))
        assert alone.facts == vh.facts
        assert alone.name == vh.name

    @pytest.mark.parametrize("content", ["{", "[]", '{"startTime": "yesterday"}'])
    def test_damage_is_named(self, folder: Path, content: str) -> None:
        (folder / "productInfo.json").write_text(content)
        with pytest.raises(SceneError, match=r"productInfo\.json"):
            find_sources(folder, ANY)

    @pytest.mark.real_data
    def test_real_product(self, real_data: Path) -> None:
        folder = next((real_data / "geo" / "s1_grd_gcp").iterdir())
        vh, vv = find_sources(folder, ANY)
        assert (vh.facts.polarization, vv.facts.polarization) == ("VH", "VV")
        assert vv.facts.acquired == datetime(2018, 7, 16, 0, 40, 42, tzinfo=UTC)
        alone = _only(find_sources(folder / "iw-vv.tiff", ANY))
        assert (alone.facts, alone.name) == (vv.facts, vv.name)
        with rasterio.open(vv.raster) as raster:
            assert len(raster.gcps[0]) == 210


class TestLevel1A:
    @pytest.mark.parametrize("spelling", [".rpc", ".rpb"])
    def test_gives_facts_bands_and_rpcs(self, tmp_path: Path, spelling: str) -> None:
        hh, hv = find_sources(synthetic.write_level1a(tmp_path, spelling=spelling), ANY)
        assert (hh.facts.polarization, hv.facts.polarization) == ("HH", "HV")
        facts = hh.facts
        assert (facts.platform, facts.band, facts.mode) == ("Gaofen-3", "C", "FSI")
        assert (facts.product_type, facts.orbit_direction, facts.look_side) == ("SLC", "descending", "right")
        assert facts.incidence_deg == pytest.approx(36 + 0.025 * 80)
        assert facts.looks == 1.0
        assert facts.acquired == datetime(2019, 5, 11, 9, 54, 12, 345678, tzinfo=UTC)
        assert hh.gsd_m == (3.117, 2.248443)
        assert (hh.kind, hh.bands) == ("complex", (1, 2))
        assert hh.rpcs is not None
        assert hh.rpcs.lat_off == 30.9
        assert hh.rpcs.samp_num_coeff == synthetic.RPC_LISTS["SAMP_NUM_COEFF"]
        assert pickle.loads(pickle.dumps(hh)).rpcs == hh.rpcs

    def test_gdal_places_pixels_by_the_rpcs(self, level1a: Path) -> None:
        source = find_sources(level1a, ANY)[0]
        with RPCTransformer(source.rpcs, rpc_height=20.0) as transformer:
            lon, lat = transformer.xy(synthetic.HEIGHT / 2 - 0.5, synthetic.WIDTH / 2 - 0.5)
        assert (lon, lat) == (pytest.approx(121.1, abs=1e-3), pytest.approx(30.9, abs=1e-3))

    def test_one_tiff_and_the_meta_xml_stand_for_themselves_and_all(self, level1a: Path) -> None:
        whole = find_sources(level1a, ANY)
        assert _only(find_sources(Path(whole[1].raster), ANY)).facts == whole[1].facts
        assert len(find_sources(level1a / f"{synthetic.GF3_NAME}.meta.xml", ANY)) == 2

    def test_qilu_1_has_the_same_layout(self, tmp_path: Path) -> None:
        folder = tmp_path / "QL1_SAR_20220101"
        synthetic.write_tiff(folder / "QL1_SAR_20220101_HH.tiff", np.ones((2, 80, 80), np.int16))
        (folder / "QL1_SAR_20220101_HH.rpb").write_text(synthetic.rpb_text())
        text = synthetic.meta_xml(satellite="QILU-1", polar_mode="HH").replace("5.400012", "14.9")
        (folder / "QL1_SAR_20220101_HH.meta.xml").write_text(text)
        source = _only(find_sources(folder, ANY))
        assert (source.facts.platform, source.facts.band, source.facts.polarization) == ("Qilu-1", "Ku", "HH")
        assert source.rpcs is not None

    @pytest.mark.parametrize("level", ["1A", "L1A", "LEVEL1A"])
    def test_the_level_stands_for_a_missing_product_type(self, level1a: Path, level: str) -> None:
        meta = level1a / f"{synthetic.GF3_NAME}.meta.xml"
        meta.write_text(
            synthetic.meta_xml().replace(">SLC<", ">NULL<").replace("Level>1A<", f"Level>{level}<")
        )
        source = find_sources(level1a, ANY)[0]
        assert (source.facts.product_type, source.bands) == ("L1A", (1, 2))

    def test_another_scenes_rpc_is_refused(self, level1a: Path) -> None:
        (level1a / f"{synthetic.GF3_NAME}.meta.xml").write_text(synthetic.meta_xml(latitude=45.0))
        with pytest.raises(SceneError, match="put the RPC file of this scene there"):
            find_sources(level1a, ANY)

    def test_missing_rpc_leaves_none(self, level1a: Path) -> None:
        for file in level1a.glob("*.rpc"):
            file.unlink()
        assert [source.rpcs for source in find_sources(level1a, ANY)] == [None, None]

    def test_metadata_without_a_tiff_is_named(self, level1a: Path) -> None:
        for file in level1a.glob("*.tiff"):
            file.unlink()
        with pytest.raises(SceneError, match="put the TIFF there"):
            find_sources(level1a, ANY)

    def test_a_meta_xml_of_another_product_says_nothing(self, level1a: Path) -> None:
        other = synthetic.write_tiff(level1a / "GF3_SAY_SL_1_VV.tiff", np.ones((80, 80), np.uint16))
        assert _only(find_sources(other, ANY)).facts.acquired is None


class TestRpcFiles:
    @pytest.mark.parametrize("write", [synthetic.rpc_text, synthetic.rpb_text])
    @pytest.mark.parametrize(
        ("old", "new", "mend"),
        [
            ("30.90000000", "130.90000000", "not on the Earth"),
            ("30.90000000", "north", "no number|numbers in latOffset"),
            ("500.00000000", "0", "HEIGHT_SCALE .* has to be positive"),
            ("1.000000000E+00", "0.0", "divides by a polynomial of zeros"),
        ],
    )
    def test_wrong_numbers_are_named(
        self, tmp_path: Path, write: object, old: str, new: str, mend: str
    ) -> None:
        text = write()  # type: ignore[operator]
        assert old in text
        file = tmp_path / "a.rpc"
        file.write_text(text.replace(old, new))
        with pytest.raises(SceneError, match=mend):
            read_rpc(file)

    @pytest.mark.parametrize("write", [synthetic.rpc_text, synthetic.rpb_text])
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(share=st.floats(0, 0.98))
    def test_a_truncated_file_is_named(self, tmp_path: Path, write: object, share: float) -> None:
        text = write()  # type: ignore[operator]
        file = tmp_path / "a.rpb"
        file.write_text(text[: int(len(text) * share)])
        with pytest.raises(SceneError, match=r"get the RPC file of this scene again|no number"):
            read_rpc(file)

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(content=st.binary(max_size=300))
    def test_random_bytes_are_named(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "a.rpc"
        file.write_bytes(content)
        with pytest.raises(SceneError):
            read_rpc(file)


class TestXml:
    def test_entities_and_document_types_are_refused(self) -> None:
        bomb = b'<!DOCTYPE p [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><p>&b;</p>'
        outside = b'<!DOCTYPE p SYSTEM "http://example.org/p.dtd"><p/>'
        for content in (bomb, outside):
            with pytest.raises(SceneError, match="document type"):
                parse_xml(content, "annotation.xml")

    def test_nesting_without_end_is_refused(self) -> None:
        with pytest.raises(SceneError, match="nests deeper"):
            parse_xml(b"<a>" * 5000, "annotation.xml")

    def test_namespaces_are_gone(self) -> None:
        root = parse_xml(b'<x:a xmlns:x="urn:x" x:k="1"><x:b>2</x:b></x:a>', "a.xml")
        assert (root.tag, root.get("k"), root.findtext("b")) == ("a", "1", "2")

    @settings(max_examples=200, deadline=None)
    @given(content=st.one_of(st.binary(max_size=200), st.text(alphabet="<>&a/!\"=[] '", max_size=60)))
    def test_random_documents_parse_or_are_named(self, content: bytes | str) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        for parse in (parse_xml, parse_json):
            message = synthetic.message_of(lambda parse=parse: parse(data, "a"))  # type: ignore[misc]
            assert not message or "again" in message


class TestDamagedMetadata:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_of_a_level_1a_product(self, tmp_path: Path, data: st.DataObject) -> None:
        folder = tmp_path / "P"
        if not folder.exists():
            synthetic.write_tiff(folder / "P.tiff", np.ones((2, 70, 70), np.int16))
        documents = {
            "P.meta.xml": synthetic.meta_xml(polar_mode="HH"),
            "P.rpc": data.draw(st.sampled_from([synthetic.rpc_text(), synthetic.rpb_text()])),
        }
        name = data.draw(st.sampled_from(list(documents)))
        documents[name] = data.draw(synthetic.damaged(documents[name]))
        for file, text in documents.items():
            (folder / file).write_text(text, encoding="utf-8")
        message = synthetic.message_of(lambda: find_sources(folder, ANY))
        assert not message or "P." in message
        assert "\n" not in message

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_of_a_safe_product(self, tmp_path: Path, data: st.DataObject) -> None:
        product = tmp_path / synthetic.SAFE_NAME
        if not product.exists():
            synthetic.write_safe(tmp_path)
        documents = sorted([*product.glob("annotation/**/*.xml"), product / "manifest.safe"])
        file = data.draw(st.sampled_from(documents))
        whole = file.read_text()
        file.write_text(data.draw(synthetic.damaged(whole)), encoding="utf-8")
        try:
            message = synthetic.message_of(lambda: find_sources(product, SceneSettings(calibration="sigma0")))
        finally:
            file.write_text(whole)
        assert not message or file.name in message or product.name in message
        assert "\n" not in message


class TestFolders:
    def test_a_plain_raster_gives_itself(self, tmp_path: Path) -> None:
        path = synthetic.write_tiff(
            tmp_path / "CAPELLA_C02_SM_GEO_HH_20201118191000_20201118191005.tif", np.ones((70, 70), np.uint16)
        )
        source = _only(find_sources(path, ANY))
        assert (source.raster, source.name, source.files) == (str(path), path.stem, (path,))
        assert (source.facts.platform, source.facts.polarization) == ("Capella", "HH")
        assert (source.rpcs, source.gcps, source.bands, source.kind) == (None, (), None, None)

    def test_polarizations_of_one_folder_belong_together(self, tmp_path: Path) -> None:
        for polarization in ("hh", "hv"):
            synthetic.write_tiff(tmp_path / f"sar_{polarization}.tif", np.ones((70, 70), np.uint16))
        synthetic.write_tiff(tmp_path / "thumbnail.tif", np.ones((7, 7), np.uint8))
        assert [s.name for s in find_sources(tmp_path, ANY)] == ["sar_hh", "sar_hv"]
        assert _only(find_sources(tmp_path, SceneSettings(polarization="HV"))).name == "sar_hv"

    def test_a_radarsat_2_folder_is_opened_by_its_document(self, tmp_path: Path) -> None:
        folder = tmp_path / "RS2_OK1_PK2_DK3_FQ2_20080415_143807_HH_HV_SGF"
        for pole in ("HH", "HV"):
            synthetic.write_tiff(folder / f"imagery_{pole}.tif", np.ones((70, 80), np.uint16))
        ties = "".join(
            f"<imageTiePoint><imageCoordinate><line>{row}</line><pixel>{col}</pixel></imageCoordinate>"
            f"<geodeticCoordinate><latitude>{45 - row / 1e3}</latitude>"
            f"<longitude>{-75 + col / 1e3}</longitude><height>0</height></geodeticCoordinate></imageTiePoint>"
            for row in (0, 69)
            for col in (0, 79)
        )
        images = "".join(
            f'<fullResolutionImageData pole="{pole}">imagery_{pole}.tif</fullResolutionImageData>'
            for pole in ("HH", "HV")
        )
        (folder / "product.xml").write_text(
            "<product xmlns='http://www.rsi.ca/rs2/prod/xml/schemas'><sourceAttributes><radarParameters>"
            "<polarizations>HH HV</polarizations></radarParameters></sourceAttributes>"
            "<imageGenerationParameters><generalProcessingInformation><productType>SGF</productType>"
            "</generalProcessingInformation></imageGenerationParameters><imageAttributes><rasterAttributes>"
            "<dataType>Magnitude Detected</dataType><bitsPerSample dataStream='Magnitude'>16</bitsPerSample>"
            "<numberOfSamplesPerLine>80</numberOfSamplesPerLine><numberOfLines>70</numberOfLines>"
            f"</rasterAttributes><geographicInformation><geolocationGrid>{ties}</geolocationGrid>"
            f"</geographicInformation>{images}</imageAttributes></product>"
        )
        hh, hv = find_sources(folder, ANY)
        assert (hh.facts.platform, hh.facts.mode, hh.facts.product_type) == ("RADARSAT-2", "FQ2", "SGF")
        assert (hh.facts.polarization, hv.facts.polarization) == ("HH", "HV")
        assert (hh.bands, hv.bands) == ((1,), (2,))
        assert (hh.files[0].name, hv.files[0].name) == ("imagery_HH.tif", "imagery_HV.tif")
        with rasterio.open(hv.raster) as raster:
            assert len(raster.gcps[0]) == 4

    def test_a_terrasar_x_folder_is_opened_by_its_document(self, tmp_path: Path) -> None:
        folder = tmp_path / "TSX1_SAR__MGD_SE___SM_S_SRA_20110721T051234_20110721T051240"
        image = folder / "IMAGEDATA" / "IMAGE_HH_SRA_strip_007.tif"
        pixels = np.arange(70 * 80, dtype=np.uint16).reshape(70, 80)
        synthetic.write_tiff(image, pixels)
        (folder / f"{folder.name}.xml").write_text(
            "<level1Product><productComponents><imageData><polLayer>HH</polLayer><file><location>"
            f"<path>IMAGEDATA</path><filename>{image.name}</filename></location></file></imageData>"
            "</productComponents><productInfo><missionInfo><mission>TSX-1</mission></missionInfo>"
            "<productVariantInfo><productType>MGD</productType><productVariant>MGD</productVariant>"
            "</productVariantInfo><imageDataInfo><imageDataType>DETECTED</imageDataType><imageDataFormat>GEOTIFF"
            "</imageDataFormat><imageDataDepth>16</imageDataDepth><imageRaster><numberOfRows>70</numberOfRows>"
            "<numberOfColumns>80</numberOfColumns></imageRaster></imageDataInfo></productInfo></level1Product>"
        )
        source = _only(find_sources(folder, ANY))
        facts = source.facts
        assert (facts.platform, facts.polarization, facts.mode) == ("TerraSAR-X", "HH", "SM")
        assert (source.files, source.name) == ((image,), folder.name)
        with rasterio.open(source.raster) as raster:
            np.testing.assert_array_equal(raster.read(1), pixels)

    @pytest.mark.parametrize("names", [[], ["a.txt"], ["a_vv.tif", "b_vv.tif"], ["a.tif", "b.tif"]])
    def test_other_folders_are_refused(self, tmp_path: Path, names: list[str]) -> None:
        for name in names:
            if name.endswith(".tif"):
                synthetic.write_tiff(tmp_path / name, np.ones((70, 70), np.uint16))
            else:
                (tmp_path / name).write_text("text")
        with pytest.raises(SceneError, match="give"):
            find_sources(tmp_path, ANY)

    def test_nothing_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SceneError, match="no such file or folder"):
            find_sources(tmp_path / "nothing", ANY)
