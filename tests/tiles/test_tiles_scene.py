"""Reading scenes: kinds of pixels, bands, no data, facts, damaged files, and windows that add up."""

import contextlib
import logging
import os
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene.calibration import Calibration
from fusar_klip.tiles.scene.scene import Scene, open_scenes
from fusar_klip.tiles.scene_metadata import read_scene_manifest
from fusar_klip.tiles.settings import SceneSettings

WriteScene = Callable[..., Path]
Speckle = Callable[..., NDArray[np.uint16]]
FIXTURES = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
DEGREES = {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 10.0, 0, -1e-4, 45.0)}


def only_scene(path: Path, **settings: object) -> Scene:
    (scene,) = open_scenes(path, SceneSettings.model_validate(settings))
    return scene


def whole(scene: Scene) -> NDArray[np.generic]:
    with scene.reader() as reader:
        amplitude = reader.read(0, 0, scene.height, scene.width)
    assert amplitude.dtype == scene.dtype
    assert amplitude.shape == (scene.height, scene.width)
    return amplitude


# Kinds of pixels.


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        ("uint8", "uint8"),
        ("uint16", "uint16"),
        ("int16", "uint16"),
        ("int8", "uint16"),
        ("uint32", "float32"),
        ("int32", "float32"),
        ("float32", "float32"),
        ("float64", "float32"),
    ],
)
def test_amplitude_of_every_type(write_scene: WriteScene, stored: str, dtype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 120, (70, 80)).astype(stored)
    scene = only_scene(write_scene(pixels))
    assert (scene.kind, scene.dtype) == ("amplitude", dtype)
    assert (whole(scene) == pixels).all()
    assert scene.eight_bit == (stored == "uint8")


@pytest.mark.parametrize("name", ["intensity", "db", "complex", "complex_int16", "real_and_imaginary"])
@pytest.mark.parametrize("place", [{}, DEGREES])
def test_every_kind_becomes_the_amplitude(
    write_scene: WriteScene, speckle: Speckle, name: str, place: dict[str, object]
) -> None:
    amplitude = speckle(80, 70).astype(np.float64)
    phase = np.exp(1j * np.linspace(0, 60, amplitude.size).reshape(amplitude.shape))
    slc = amplitude * phase
    settings: dict[str, object] = {}
    profile: dict[str, object] = {}
    match name:
        case "intensity":
            pixels, settings = (amplitude**2).astype(np.float32), {"kind": "intensity"}
        case "db":
            pixels = (20 * np.log10(amplitude) - 80).astype(np.float32)
            amplitude = amplitude / 1e4
        case "complex":
            pixels = slc.astype(np.complex64)
        case "complex_int16":
            pixels, profile = np.rint(slc.real) + 1j * np.rint(slc.imag), {"dtype": "complex_int16"}
        case _:
            pixels, settings = np.stack([slc.real, slc.imag]).astype(np.float32), {"kind": "complex"}
    scene = only_scene(write_complex(write_scene, pixels, **profile, **place), **settings)
    assert scene.kind == {"complex_int16": "complex", "real_and_imaginary": "complex"}.get(name, name)
    assert scene.dtype == "float32"
    read = whole(scene)
    expected = amplitude
    if scene.geocoding is not None:  # the same values, but in other places
        read, expected = np.percentile(read[read > 0], [5, 50, 95]), np.percentile(amplitude, [5, 50, 95])
    assert read == pytest.approx(expected, rel=0.05 if scene.geocoding else 0.02, abs=1)


def write_complex(write_scene: WriteScene, pixels: NDArray[np.generic], **profile: object) -> Path:
    if (stored := profile.pop("dtype", None)) is None:
        return write_scene(pixels, **profile)
    path = write_scene(np.abs(pixels).astype(np.float32), "template.tif", **profile)
    with rasterio.open(path) as template:
        profile = template.profile | {"dtype": stored}
    slc = path.with_name("scene.tif")
    with rasterio.open(slc, "w", **profile) as raster:
        raster.write(pixels.astype(np.complex64), 1)
    return slc


@pytest.mark.parametrize(
    ("description", "kind"),
    [("Sigma0_VV", "intensity"), ("Intensity_VH", "intensity"), ("Amplitude_VV", "amplitude"),
     ("Sigma0_VV_db", "db"), ("Gamma0_VV", "intensity"), ("", "amplitude"), ("VV", "amplitude")],
)  # fmt: skip
def test_a_band_name_tells_the_kind(
    write_scene: WriteScene, speckle: Speckle, caplog: pytest.LogCaptureFixture, description: str, kind: str
) -> None:
    path = write_scene(speckle(64, 64).astype(np.float32), descriptions=(description,))
    with caplog.at_level(logging.INFO):
        assert only_scene(path).kind == kind
    assert f"{kind} pixels" in caplog.text
    assert only_scene(path, kind="db").kind == "db"  # the user knows better


def test_a_scaled_band_is_unscaled(write_scene: WriteScene) -> None:
    hundredths = np.full((64, 64), -1000, np.int16)
    hundredths[0, 0] = -32768
    path = write_scene(hundredths, nodata=-32768)
    with rasterio.open(path, "r+") as raster:
        raster.scales = (0.01,)
    scene = only_scene(path)
    assert scene.kind == "db"
    picture = whole(scene)
    assert picture[0, 0] == 0
    assert picture[1:] == pytest.approx(10 ** (-10 / 20))


@pytest.mark.parametrize("kind", ["amplitude", "intensity", "db"])
def test_complex_pixels_are_nothing_else(write_scene: WriteScene, kind: str) -> None:
    path = write_scene(np.ones((64, 64), np.complex64))
    with pytest.raises(SceneError, match=f"complex pixels, not {kind}: leave scene.kind out"):
        only_scene(path, kind=kind)
    with pytest.raises(SceneError, match="real-valued pixels"):
        only_scene(write_scene(np.ones((64, 64), np.float32), "real.tif"), kind="complex")


# No data.


@pytest.mark.parametrize("place", [{}, DEGREES])
@pytest.mark.parametrize("nodata", [None, 0, -9999.0, 17.0, float("nan")])
@pytest.mark.parametrize("kind", ["amplitude", "db"])
def test_no_data_is_zero_and_nothing_else_is(
    write_scene: WriteScene, kind: str, nodata: float | None, place: dict[str, object]
) -> None:
    pixels = np.random.default_rng(0).uniform(20, 30, (100, 100)).astype(np.float32)
    pixels[:30] = np.nan if nodata is None else nodata
    pixels[30, :3] = [np.inf, -np.inf, np.nan]
    scene = only_scene(write_scene(pixels, nodata=nodata, **place), kind=kind)
    picture = whole(scene)
    if scene.geocoding is None:
        assert (picture[:30] == 0).all()
        assert (picture[30, :3] == 0).all()
        assert (picture[31:] > 0).all()
    values = picture[picture > 0]
    low, high = (20, 30) if kind == "amplitude" else (10**1.0, 10**1.5)
    assert values.min() >= low * 0.999
    assert values.max() <= high * 1.001
    assert 0.6 < (picture > 0).mean() < 0.72


@pytest.mark.parametrize("fill", [9.96921e36, 3.4028235e38])
def test_a_fill_value_that_was_not_declared_is_no_data(write_scene: WriteScene, fill: float) -> None:
    pixels = np.full((64, 64), 10, np.float32)
    pixels[:8] = fill
    picture = whole(only_scene(write_scene(pixels)))
    assert (picture[:8] == 0).all()
    assert (picture[8:] == 10).all()


def test_negative_amplitude_is_no_data(write_scene: WriteScene) -> None:
    for dtype in (np.int16, np.int32, np.float32):
        pixels = np.full((64, 64), 10, dtype)
        pixels[0] = -10
        picture = whole(only_scene(write_scene(pixels, f"{dtype.__name__}.tif")))
        assert (picture[0] == 0).all()
        assert (picture[1:] == 10).all()


@pytest.mark.parametrize("place", [{}, DEGREES])
def test_a_mask_beside_the_pixels_counts(write_scene: WriteScene, place: dict[str, object]) -> None:
    path = write_scene(np.full((80, 80), 50, np.uint16), **place)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
        mask = np.full((80, 80), 255, np.uint8)
        mask[:40] = 0
        raster.write_mask(mask)
    assert (whole(only_scene(path)) > 0).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("place", [{}, DEGREES])
def test_an_alpha_band_is_no_band_to_choose(write_scene: WriteScene, place: dict[str, object]) -> None:
    alpha = np.full((80, 80), 255, np.uint8)
    alpha[:40] = 0
    path = write_scene(np.stack([np.full((80, 80), 50, np.uint8), alpha]), alpha="yes", **place)
    scene = only_scene(path)
    assert (scene.band_index, scene.kind) == (1, "amplitude")
    assert (whole(scene) > 0).mean() == pytest.approx(0.5, abs=0.03)


def test_a_constant_scene_is_read(write_scene: WriteScene) -> None:
    assert (whole(only_scene(write_scene(np.full((64, 64), 7.5, np.float32)))) == 7.5).all()


# Bands.


def test_a_band_is_chosen_by_number_name_or_polarization(write_scene: WriteScene, speckle: Speckle) -> None:
    bands = np.stack([speckle(64, 64, 100 * n, seed=n) for n in (1, 2, 3)])
    path = write_scene(bands, descriptions=("Amplitude_VV", "Amplitude_VH", "angle"))
    ids = set()
    for settings, index in (
        ({"band": 2}, 2),
        ({"band": "2"}, 2),
        ({"band": "amplitude_vh"}, 2),
        ({"band": "VH"}, 2),
        ({"polarization": "VH"}, 2),
        ({"polarization": "vv"}, 1),
        ({"band": "angle"}, 3),
    ):
        scene = only_scene(path, **settings)
        assert scene.band_index == index
        assert (whole(scene) == bands[index - 1]).all()
        ids.add(scene.scene_id)
    assert len(ids) == 3  # a scene for each band, so that both polarizations go into one data set
    assert only_scene(path, band="VH").facts.polarization == "VH"
    with pytest.raises(SceneError, match=r"has 3 bands \(1 Amplitude_VV, .*--set scene.band=Amplitude_VV"):
        only_scene(path)
    with pytest.raises(SceneError, match=r"has no band HH: set scene.band to one of 1 Amplitude_VV"):
        only_scene(path, polarization="HH")


def test_a_pair_of_bands_is_complex_only_if_told(write_scene: WriteScene) -> None:
    path = write_scene(np.stack([np.full((64, 64), 3, np.int16), np.full((64, 64), -4, np.int16)]))
    with pytest.raises(SceneError, match=r"choose one .* or --set scene.kind=complex"):
        only_scene(path)
    assert (whole(only_scene(path, kind="complex")) == 5).all()
    with pytest.raises(SceneError, match="real-valued pixels"):
        only_scene(path, kind="complex", band=1)


# Windows.


@pytest.mark.parametrize("place", ["own", "degrees", "gcps"])
def test_windows_add_up_to_the_whole(write_scene: WriteScene, speckle: Speckle, place: str) -> None:
    pixels = speckle(700, 1300)
    if place == "gcps":
        path = with_points(write_scene, pixels)
    else:
        path = write_scene(
            pixels, tiled=True, blockxsize=256, blockysize=128, **(DEGREES if place == "degrees" else {})
        )
    scene = only_scene(path)
    assert scene.block_rows == (128 if place == "own" else 512)
    picture = whole(scene)
    generator = np.random.default_rng(0)
    for _ in range(12):
        top, bottom = np.sort(generator.choice(scene.height + 1, 2, replace=False)).tolist()
        left, right = np.sort(generator.choice(scene.width + 1, 2, replace=False)).tolist()
        with scene.reader() as reader:
            window = reader.read(top, left, bottom - top, right - left)
        assert (window == picture[top:bottom, left:right]).all()


def bent_points(height: int, width: int) -> list[GroundControlPoint]:
    return [
        GroundControlPoint(
            row, col, 10 + 1e-4 * col + 3e-5 * row + 2e-9 * row * col, 45 - 1e-4 * row + 2e-9 * col**2, 0.0
        )
        for row in np.linspace(0, height, 6).tolist()
        for col in np.linspace(0, width, 6).tolist()
    ]


def with_points(write_scene: WriteScene, pixels: NDArray[np.generic]) -> Path:
    """Write a scene with 36 control points on a bent surface."""
    path = without_geo_reference(write_scene, pixels)
    with rasterio.open(path, "r+") as raster:
        raster.gcps = (bent_points(*pixels.shape), rasterio.CRS.from_epsg(4326))
    return path


def without_geo_reference(write_scene: WriteScene, pixels: NDArray[np.generic]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return write_scene(pixels, crs=None, transform=Affine.identity())


def test_scenes_can_be_sent_to_another_process(write_scene: WriteScene, speckle: Speckle) -> None:
    for name, place in (("own.tif", {}), ("degrees.tif", DEGREES)):
        scene = only_scene(write_scene(speckle(100, 90), name, **place))
        sent = pickle.loads(pickle.dumps(scene))
        assert sent == scene
        assert (whole(sent) == whole(scene)).all()


def test_bilinear_is_smoother_than_nearest(write_scene: WriteScene, speckle: Speckle) -> None:
    path = write_scene(speckle(200, 200).astype(np.float32), **DEGREES)
    nearest, bilinear = (whole(only_scene(path, resampling=r)) for r in ("nearest", "bilinear"))
    assert bilinear[bilinear > 0].std() < 0.9 * nearest[nearest > 0].std()


def test_complex_pixels_are_not_averaged(write_scene: WriteScene) -> None:
    path = write_scene(np.ones((100, 100), np.complex64), **DEGREES)
    with pytest.raises(SceneError, match=r"leave scene\.resampling out"):
        only_scene(path, resampling="bilinear")


# Calibration.


@pytest.mark.parametrize("place", ["own", "gcps"])
def test_sigma0_is_amplitude_over_the_table_at_the_files_own_rows(
    write_scene: WriteScene, place: str
) -> None:
    lines, columns = np.array([-10.0, 150, 310]), np.array([0.0, 100, 399])
    sigma = (100 + lines[:, None] * 0.2 + columns * 0.5).astype(np.float64)
    rows, cols = np.mgrid[:300, :400]
    # Brightness that the calibration makes even.
    pixels = np.rint(50 * (100 + rows * 0.2 + cols * 0.5)).astype(np.uint16)
    path = with_points(write_scene, pixels) if place == "gcps" else write_scene(pixels)
    table = Calibration(lines, columns, sigma)
    plain = only_scene(path)
    scene = replace(plain, source=replace(plain.source, calibration=table), calibrated=True)
    assert scene.dtype == "float32"
    picture = whole(scene)
    assert (picture > 0).sum() == (whole(plain) > 0).sum()
    # The table's values are those of pixel centres; a file's row moves a warped pixel by up to one.
    assert picture[picture > 0] == pytest.approx(50, rel=6e-3)


# Facts.


def test_facts_by_order_of_trust(write_scene: WriteScene, speckle: Speckle, tmp_path: Path) -> None:
    tags = {"PLATFORM": "Gaofen-3", "POLARIZATION": "HV", "LOOKS": "1.5", "ACQUIRED": "2021-03-04T05:06:07",
            "INCIDENCE_DEG": "steep"}  # fmt: skip
    path = write_scene(speckle(64, 64), "S1A_IW_GRDH_VH_20201107T135241.tif", tags=tags)
    facts = only_scene(path).facts
    assert (facts.platform, facts.band, facts.polarization, facts.looks) == ("Gaofen-3", "C", "HV", 1.5)
    assert facts.acquired == datetime(2021, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert facts.incidence_deg is None
    assert facts.mode == "IW"
    listing = tmp_path / "scenes.csv"
    listing.write_text("file,platform,polarization,place,scene_type\n"
                       "S1A_IW_GRDH_VH_20201107T135241.tif,Umbra,HH,Long Beach,port\n")  # fmt: skip
    manifest = read_scene_manifest(listing)
    (scene,) = open_scenes(path, SceneSettings(), manifest)
    assert (scene.facts.platform, scene.facts.band, scene.facts.polarization) == ("Umbra", "X", "HH")
    assert (scene.facts.place, scene.facts.scene_type) == ("Long Beach", "port")
    (scene,) = open_scenes(path, SceneSettings(platform="Capella", polarization="VV"), manifest)
    assert (scene.facts.platform, scene.facts.polarization) == ("Capella", "VV")


def test_a_manifest_gives_the_spacing_of_a_chip(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    path = without_geo_reference(write_scene, speckle(64, 64))
    listing = tmp_path / "scenes.csv"
    listing.write_text("file,gsd_m\nscene.tif,0.5\n")
    (scene,) = open_scenes(path, SceneSettings(), read_scene_manifest(listing))
    assert (scene.gsd_m, scene.crs) == (0.5, None)


@FIXTURES
@given(
    tags=st.dictionaries(
        st.sampled_from(["PLATFORM", "BAND", "POLARIZATION", "LOOKS", "INCIDENCE_DEG", "ACQUIRED", "SENSOR",
                         "SOURCE_PRODUCT", "MODE"]),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
    ),
    description=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
)  # fmt: skip
def test_any_tags_are_read(write_scene: WriteScene, tags: dict[str, str], description: str) -> None:
    path = write_scene(np.ones((64, 64), np.uint16), tags=tags, descriptions=(description,))
    scene = only_scene(path)
    assert scene.facts.acquired is None or scene.facts.acquired.tzinfo is not None
    assert scene.facts.looks is None or np.isfinite(scene.facts.looks)


# Names.


def test_the_id_is_of_the_content(write_scene: WriteScene, speckle: Speckle, tmp_path: Path) -> None:
    first = only_scene(write_scene(speckle(64, 64), "a b.tif"))
    other = only_scene(write_scene(speckle(64, 64, seed=1), "a b.tif"))
    again = only_scene(write_scene(speckle(64, 64), "a b.tif"))
    assert first.scene_id == again.scene_id == f"a-b_{first.digest[:8]}"
    assert other.scene_id != first.scene_id


# Damaged files.


COMPRESSED = [
    {"compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 256},
    {"compress": "lzw"},
    {"compress": "zstd"},
    {"tiled": True, "blockxsize": 256, "blockysize": 256},
    {},
]


@pytest.mark.parametrize("profile", COMPRESSED)
@pytest.mark.parametrize("place", [{}, DEGREES])
def test_a_truncated_file_is_noticed(
    write_scene: WriteScene, speckle: Speckle, profile: dict[str, object], place: dict[str, object]
) -> None:
    path = write_scene(speckle(512, 512), **profile, **place)
    os.truncate(path, int(path.stat().st_size * 0.7))
    with pytest.raises(SceneError, match=r"scene\.tif is (damaged near row|no raster)") as caught:
        whole(only_scene(path))
    assert "\n" not in str(caught.value)


@FIXTURES
@given(data=st.data())
def test_any_damage_is_one_sentence_or_no_matter(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path, data: st.DataObject
) -> None:
    (tmp_path / "scene.tif").unlink(missing_ok=True)
    path = write_scene(speckle(80, 80), compress="deflate", tags={"PLATFORM": "Umbra"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content) - 1, 1200)))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(SceneError):  # anything else is a traceback for the user
        scene = only_scene(path)
        if scene.height * scene.width < 1e6:
            whole(scene)


def test_no_raster_and_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no such file"):
        only_scene(tmp_path / "nowhere.tif")
    for name, content in (("empty.tif", b""), ("notes.tif", b"no raster")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SceneError, match=f"{name} is no raster that GDAL can read"):
            only_scene(tmp_path / name)


@pytest.mark.parametrize(("height", "width"), [(63, 300), (300, 63), (1, 1)])
def test_chips_are_no_scenes(write_scene: WriteScene, height: int, width: int) -> None:
    with pytest.raises(SceneError, match=f"is {width} x {height} px, and a scene needs at least 64 px"):
        only_scene(write_scene(np.ones((height, width), np.uint16)))


# Real scenes.


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("pattern", "settings", "kind", "epsg", "gsd_m", "polarization"),
    [
        ("S1A*LosAngeles*.tif", {}, "amplitude", 3395, 8.31, "VH"),
        ("S1A*OrangeCounty*.tif", {}, "amplitude", 3395, 8.32, "VH"),
        ("umbra_yasur/*.tiff", {}, "amplitude", 32759, 0.594, None),
        ("s1_grd_gcp/*/iw-vv.tiff", {}, "amplitude", 32643, 201.8, "VV"),
        ("s1_grd_gcp/*/iw-vh.tiff", {}, "amplitude", 32643, 201.8, "VH"),
        ("sen1floods11_spain/*S1Hand.tif", {"band": "VV"}, "db", 32630, 8.86, "VV"),
        ("sen1floods11_spain/*S1Hand.tif", {"polarization": "VH"}, "db", 32630, 8.86, "VH"),
        ("s1_port_la_db/*.tif", {}, "db", 32611, 30.0, None),
        ("pyrosar_s1/*.tif", {}, "db", 32631, 20.0, "VV"),
        *(
            (f"solaris_quadpol_slc/sar_{p.lower()}.tif", {}, "complex", 32631, 2.5, p)
            for p in ("HH", "HV", "VH", "VV")
        ),
    ],
)
def test_real_scenes(
    real_data: Path,
    pattern: str,
    settings: dict[str, object],
    kind: str,
    epsg: int,
    gsd_m: float,
    polarization: str | None,
) -> None:
    (path,) = (real_data / "geo").glob(pattern)
    scene = only_scene(path, **settings)
    assert scene.crs is not None
    assert (scene.kind, scene.crs.to_epsg(), scene.facts.polarization) == (kind, epsg, polarization)
    assert scene.gsd_m == pytest.approx(gsd_m, rel=2e-3)
    with scene.reader() as reader:
        picture = reader.read(0, 0, min(scene.height, 1024), min(scene.width, 1024))
    values = picture[picture > 0].astype(float)
    assert values.size > 0.3 * picture.size
    # Speckle and land: neither flat nor a few pixels that outshine all.
    assert 0.2 < values.std() / values.mean() < 3
