"""SICD and SIDD files that sarkit wrote, read back: facts, pixels' bands, and where they lie."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tiles_products_synthetic as synthetic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene.products import Source, find_sources
from fusar_klip.tiles.settings import SceneSettings

sicd = pytest.importorskip("sarkit.sicd", reason='needs the extra "sicd"')
wgs84 = pytest.importorskip("sarkit.wgs84")
SHAPE = (synthetic.HEIGHT, synthetic.WIDTH)


def _pixels(pixel_type: str) -> NDArray[Any]:
    pixels = np.zeros(SHAPE, sicd.PIXEL_TYPES[pixel_type]["dtype"])
    ramp = np.arange(pixels.size).reshape(SHAPE) % 199
    if pixels.dtype.names is None:
        return (ramp - 1j * (ramp + 3)).astype(np.complex64)
    for number, name in enumerate(pixels.dtype.names):
        pixels[name] = ramp + number
    return pixels


def _source(path: Path) -> Source:
    (source,) = find_sources(path, SceneSettings())
    return source


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(pixel_type: str = "RE16I_IM16I", edit: Callable[[str], str] = str, **options: Any) -> Path:
        xml = edit(synthetic.sicd_xml(pixel_type, **options))
        return synthetic.write_sicd(tmp_path / "a.nitf", _pixels(pixel_type), pixel_type, xml)

    return write


def test_facts(write: Callable[..., Path]) -> None:
    source = _source(write())
    facts = source.facts
    assert (facts.platform, facts.band, facts.polarization) == ("Umbra", "X", "VV")
    assert (facts.mode, facts.product_type, facts.looks) == ("SPOTLIGHT", "SICD", 1.0)
    assert (facts.orbit_direction, facts.look_side) == ("ascending", "right")
    assert facts.incidence_deg == pytest.approx(np.degrees(np.arctan2(400, 500)))
    assert facts.acquired == datetime(2023, 1, 15, 2, 3, 4, 500_000, tzinfo=UTC)
    assert source.gsd_m == (0.5, 0.7)


@pytest.mark.parametrize("pixel_type", ["RE32F_IM32F", "RE16I_IM16I"])
def test_gdal_reads_the_pair_in_the_bands_that_are_told(write: Callable[..., Path], pixel_type: str) -> None:
    source = _source(write(pixel_type))
    assert (source.kind, source.bands, source.amplitude_table) == ("complex", (1, 2), None)
    with rasterio.open(source.raster) as raster:
        real, imaginary = raster.read(source.bands)
    written = _pixels(pixel_type)
    if written.dtype.names:
        np.testing.assert_array_equal(real, written["real"])
        np.testing.assert_array_equal(imaginary, written["imag"])
    else:
        np.testing.assert_array_equal(real + 1j * imaginary, written)


@pytest.mark.parametrize("amplitudes", [True, False])
def test_amplitude_and_phase_go_by_the_table(write: Callable[..., Path], amplitudes: bool) -> None:
    source = _source(write("AMP8I_PHS8I", amplitudes=amplitudes))
    assert (source.kind, source.bands) == ("amplitude", (1,))
    assert source.amplitude_table is not None
    np.testing.assert_array_equal(source.amplitude_table, np.arange(256) * (0.5 if amplitudes else 1.0))
    with rasterio.open(source.raster) as raster:
        np.testing.assert_array_equal(raster.read(1), _pixels("AMP8I_PHS8I")["amp"])


@pytest.mark.filterwarnings("ignore:.*_text is deprecated:DeprecationWarning")  # sarkit under Python 3.11
def test_control_points_have_the_range_and_doppler_of_their_pixels(write: Callable[..., Path]) -> None:
    """The ground point at the height of the centre is where the pixel's point on the slant plane folds to."""
    path = write()
    points = _source(path).gcps
    assert len(points) == 49
    with path.open("rb") as file, sicd.NitfReader(file) as reader:
        helper = sicd.XmlHelper(reader.metadata.xmltree)
        scp, arp, velocity = (
            helper.load(f"{{*}}{name}")
            for name in ("GeoData/{*}SCP/{*}ECF", "SCPCOA/{*}ARPPos", "SCPCOA/{*}ARPVel")
        )
        u_row, u_col = (helper.load(f"{{*}}Grid/{{*}}{side}/{{*}}UVectECF") for side in ("Row", "Col"))
    for point in points:
        row, col = point.row - 0.5 - SHAPE[0] // 2, point.col - 0.5 - SHAPE[1] // 2
        slant = scp + 0.5 * row * u_row + 0.7 * col * u_col
        ground = wgs84.geodetic_to_cartesian([point.y, point.x, synthetic.SCP[2]])
        assert np.linalg.norm(ground - arp) == pytest.approx(np.linalg.norm(slant - arp), abs=0.01)
        sight, slant_sight = ground - arp, slant - arp
        assert sight @ velocity / np.linalg.norm(sight) == pytest.approx(
            slant_sight @ velocity / np.linalg.norm(slant_sight), abs=1e-3
        )


def test_the_centre_pixel_is_the_scene_centre_point(write: Callable[..., Path]) -> None:
    points = {(p.row, p.col): p for p in _source(write()).gcps}
    rows, cols = sorted({row for row, _ in points}), sorted({col for _, col in points})
    assert (rows[0], rows[-1], cols[0], cols[-1]) == (0.5, SHAPE[0] - 0.5, 0.5, SHAPE[1] - 0.5)
    # The centre of the grid is half a pixel before the centre point, which is pixel (60, 80).
    middle = points[rows[3], cols[3]]
    assert middle.x == pytest.approx(synthetic.SCP[1], abs=1e-5)
    assert middle.y == pytest.approx(synthetic.SCP[0], abs=1e-5)
    assert points[rows[-1], cols[3]].x > points[rows[0], cols[3]].x  # range runs to the east


def test_without_a_trajectory_the_corners_serve(write: Callable[..., Path]) -> None:
    points = _source(write(edit=lambda xml: xml.replace("ARPPoly", "Forgotten"))).gcps
    assert [(p.row, p.col) for p in points] == [(0.5, 0.5), (0.5, 159.5), (119.5, 159.5), (119.5, 0.5)]
    assert [(p.x, p.y) for p in points][:2] == [(-118.0005, 34.0005), (-118.0005, 33.9995)]


def test_sidd_lies_by_its_corners(tmp_path: Path) -> None:
    pixels = (np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 251).astype(np.uint8)
    source = _source(synthetic.write_sidd(tmp_path / "d.nitf", pixels, synthetic.sidd_xml()))
    facts = source.facts
    assert (facts.platform, facts.band, facts.polarization) == ("Capella", "X", "HH")
    assert (facts.mode, facts.product_type, facts.incidence_deg) == ("STRIPMAP", "SIDD", 40.0)
    assert facts.acquired == datetime(2023, 1, 15, 2, 3, 4, tzinfo=UTC)
    assert (source.kind, source.bands, source.gsd_m) == ("amplitude", (1,), (0.9, 0.8))
    assert [(p.x, p.y) for p in source.gcps][2] == (-117.9994, 33.9995)
    with rasterio.open(source.raster) as raster:
        np.testing.assert_array_equal(raster.read(1), pixels)


def test_another_nitf_file_is_a_plain_raster(tmp_path: Path) -> None:
    path = tmp_path / "plain.ntf"
    transform = rasterio.Affine(1e-4, 0, -118, 0, -1e-4, 34)
    profile = {"driver": "NITF", "width": 70, "height": 70, "count": 1, "dtype": "uint8", "ICORDS": "G"}
    with rasterio.open(path, "w", crs="EPSG:4326", transform=transform, **profile) as raster:
        raster.write(np.ones((1, 70, 70), np.uint8))
    source = _source(path)
    assert (source.bands, source.gcps, source.facts.product_type) == (None, (), None)


def test_the_missing_extra_is_named(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    monkeypatch.setitem(sys.modules, "sarkit.sicd", None)  # what a missing module is to an import
    with pytest.raises(SceneError, match=r'pip install "fusar-klip\[sicd\]"'):
        find_sources(path, SceneSettings())


@pytest.mark.parametrize(
    ("old", "new", "mend"),
    [
        ("<Lat>34.0005</Lat>", "<Lat>99.0005</Lat>", "does not place corner 1"),
        ("<CollectStart>2023", "<CollectStart>year", "no time such as"),
        ("<PixelType>RE16I_IM16I", "<PixelType>RE16I_XX16I", "pixels of type RE16I_XX16I"),
        ("<SS>0.5</SS>", "<SS>-.5</SS>", "Row spacing .* has to be positive"),
    ],
)
def test_wrong_metadata_is_named(tmp_path: Path, old: str, new: str, mend: str) -> None:
    xml = synthetic.sicd_xml("RE16I_IM16I").replace("ARPPoly", "Forgotten")
    path = synthetic.write_sicd(tmp_path / "a.nitf", _pixels("RE16I_IM16I"), "RE16I_IM16I", xml)
    content = path.read_bytes()
    assert old.encode() in content
    assert len(new) == len(old)  # the NITF header tells the length of the metadata
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))
    with pytest.raises(SceneError, match=mend):
        find_sources(path, SceneSettings())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_gives_sources_or_one_error(tmp_path: Path, data: st.DataObject) -> None:
    whole = tmp_path / "whole.nitf"
    if not whole.exists():
        synthetic.write_sicd(whole, _pixels("RE16I_IM16I"), "RE16I_IM16I", synthetic.sicd_xml("RE16I_IM16I"))
    content = bytearray(whole.read_bytes())
    headers = data.draw(st.booleans())
    start = data.draw(st.integers(0, 900)) if headers else len(content) - data.draw(st.integers(1, 5000))
    damage = data.draw(st.binary(min_size=1, max_size=30))
    content[start : start + len(damage)] = damage
    cut = len(content) if data.draw(st.booleans()) else data.draw(st.integers(0, len(content)))
    path = tmp_path / "a.nitf"
    path.write_bytes(content[:cut])
    assert "\n" not in synthetic.message_of(lambda: find_sources(path, SceneSettings()))
