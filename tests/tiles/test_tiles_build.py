"""Whole builds on made scenes: geometry against pyproj, pixels against the source, faults, additions."""

import errno
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from pyproj import Geod, Transformer
from rasterio.transform import Affine
from rasterio.windows import Window
from scipy.stats import spearmanr

from fusar_klip.catalog import read_tiles
from fusar_klip.errors import DatasetError, SceneError, SettingsError
from fusar_klip.tiles import BuildSettings, build
from fusar_klip.tiles.settings import MappingSettings, SceneSettings

WriteScene = Callable[..., Path]
Speckle = Callable[..., NDArray[np.uint16]]
SMALL_TILES = {"tiling": {"small_extent_m": 320.0, "min_pixels": 32}}


def quick(**sections: object) -> BuildSettings:
    """Tiles of 32, 64 and 128 px at 10 m, so that builds are fast."""
    return BuildSettings.model_validate(SMALL_TILES | sections)


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_tiles_lie_where_the_scene_does(write_scene: WriteScene, speckle: Speckle, tmp_path: Path) -> None:
    rotated = Affine(8.0, 3.0, 380_000, 3.0, -8.0, 3_735_000)
    source = write_scene(speckle(200, 300), transform=rotated)
    build([source], tmp_path / "ds", quick())
    tiles = gpd.read_parquet(tmp_path / "ds" / "tiles.parquet")
    assert tiles.crs == "EPSG:4326"
    to_wgs84 = Transformer.from_crs("EPSG:32611", "EPSG:4326", always_xy=True)
    with rasterio.open(source) as scene:
        pixels = scene.read(1)
        for tile in tiles.itertuples():
            with rasterio.open(tmp_path / "ds" / tile.path) as raster:
                assert (raster.crs, raster.nodata, raster.count) == ("EPSG:32611", 0, 1)
                assert raster.transform.almost_equals(Affine(*tile.transform))
                corner = raster.transform @ (0, 0)
                levels = raster.read(1)
            col, row = (round(x, 6) for x in ~scene.transform @ corner)
            assert col == int(col)
            assert row == int(row)
            window = pixels[int(row) : int(row) + tile.height, int(col) : int(col) + tile.width]
            inside = levels[: window.shape[0], : window.shape[1]]
            assert spearmanr(window.ravel(), inside.ravel()).statistic > 0.99
            assert tile.valid_fraction == pytest.approx((levels > 0).mean())
            assert not levels[window.shape[0] :].any()
            assert not levels[:, window.shape[1] :].any()
            ring = [scene.transform @ (col + dx, row + dy) for dx, dy in [(0, 0), (tile.width, tile.height)]]
            for x, y in ring:
                assert (
                    tile.geometry.distance(gpd.points_from_xy(*([v] for v in to_wgs84.transform(x, y)))[0])
                    < 1e-9
                )


def test_ground_spacing_is_measured_on_the_ground(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    mercator = Affine(10, 0, -13_180_000, 0, -10, 4_010_000)  # Los Angeles in World Mercator
    build([write_scene(speckle(128, 128), crs="EPSG:3395", transform=mercator)], tmp_path / "ds", quick())
    tile = read_tiles(tmp_path / "ds").query("scale == 'large'").iloc[0]
    to_wgs84 = Transformer.from_crs("EPSG:3395", "EPSG:4326", always_xy=True)
    transform = Affine(*tile["transform"])
    centre = np.array([tile["width"] / 2, tile["height"] / 2])
    ends = [to_wgs84.transform(*(transform @ tuple(centre + d))) for d in ([0, 0], [1, 0], [0, 1])]
    across = [Geod(ellps="WGS84").inv(*ends[0], *end)[2] for end in ends[1:]]
    assert tile["gsd_m"] == pytest.approx(np.sqrt(np.prod(across)), rel=1e-6)
    assert 8.2 < tile["gsd_m"] < 8.4
    assert tile["extent_m"] == pytest.approx(tile["gsd_m"] * tile["width"])


def test_scenes_in_degrees_are_warped_to_utm(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    degrees = Affine(9e-5, 0, -0.78, 0, -9e-5, 38.13)
    build([write_scene(speckle(256, 256), crs="EPSG:4326", transform=degrees)], tmp_path / "ds", quick())
    tiles = read_tiles(tmp_path / "ds")
    assert set(tiles["crs"]) == {"EPSG:32630"}
    assert tiles["lon"].between(-0.79, -0.75).all()
    assert tiles["lat"].between(38.10, 38.14).all()
    assert tiles["gsd_m"].between(8, 10).all()  # between 7.9 m east-west and 10 m north-south


def test_db_intensity_and_complex_give_the_amplitude_picture(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    amplitude = speckle(128, 128).astype(np.float64)
    phase = np.exp(1j * np.linspace(0, 60, 128 * 128).reshape(128, 128))
    forms: dict[str, NDArray[np.generic]] = {
        "amplitude": amplitude.astype(np.float32),
        "intensity": (amplitude**2).astype(np.float32),
        "db": (20 * np.log10(amplitude) - 80).astype(np.float32),
        "complex": (amplitude * phase).astype(np.complex64),
    }
    pictures = {}
    for kind, pixels in forms.items():
        # Intensity cannot be told from amplitude by its values, so it is named; the others are found.
        settings = quick(scene={"kind": "intensity"}) if kind == "intensity" else quick()
        out = tmp_path / kind
        build([write_scene(pixels, f"{kind}.tif")], out, settings)
        assert json.loads((out / "dataset.json").read_text())["scenes"][0]["kind"] == kind
        with rasterio.open(out / read_tiles(out).query("scale == 'large'")["path"].iloc[0]) as raster:
            pictures[kind] = raster.read(1).astype(int)
    for picture in pictures.values():
        assert np.abs(picture - pictures["amplitude"]).max() <= 1


def test_same_input_same_bytes_whatever_the_order_and_workers(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    first = write_scene(speckle(200, 160, seed=1), "first.tif")
    second = write_scene(
        speckle(160, 200, seed=2), "second.tif", transform=Affine(10, 0, 380_400, 0, -10, 3_735_000)
    )
    build([first, second], tmp_path / "together", quick(), workers=3)
    build([second], tmp_path / "one_by_one", quick())
    build([first], tmp_path / "one_by_one", quick())
    assert all_bytes(tmp_path / "together") == all_bytes(tmp_path / "one_by_one")


def test_shared_ground_is_one_group_and_one_split(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    apart = Affine(10, 0, 480_000, 0, -10, 3_735_000)
    scenes = [
        write_scene(speckle(128, 128, seed=1), "january.tif"),
        write_scene(speckle(128, 128, seed=2), "june.tif"),
        write_scene(speckle(128, 128, seed=3), "elsewhere.tif", transform=apart),
    ]
    build(scenes, tmp_path / "ds", quick())
    tiles = read_tiles(tmp_path / "ds")
    groups = tiles.groupby(tiles["scene_id"].str.split("_").str[0])["ground_id"].agg(set)
    assert groups["january"] == groups["june"]
    assert groups["january"].isdisjoint(groups["elsewhere"])
    assert (tiles.groupby("ground_id")["split"].nunique() == 1).all()


def test_facts_come_from_tags_and_names(write_scene: WriteScene, speckle: Speckle, tmp_path: Path) -> None:
    tags = {
        "PLATFORM": "Gaofen-3",
        "POLARIZATION": "HH",
        "LOOKS": "1.5",
        "ACQUIRED": "2021-03-04T05:06:07+00:00",
    }
    named = "S1A_IW_GRDH_VH_20201107T135241.tif"
    scenes = [write_scene(speckle(64, 64), "x.tif", tags=tags), write_scene(speckle(64, 64, seed=1), named)]
    build(scenes, tmp_path / "ds", quick())
    tiles = read_tiles(tmp_path / "ds").drop_duplicates("scene_id").set_index("platform")
    assert tiles.loc["Gaofen-3", ["band", "polarization", "looks"]].tolist() == ["C", "HH", 1.5]
    assert tiles.loc["Gaofen-3", "acquired"].isoformat() == "2021-03-04T05:06:07+00:00"
    assert tiles.loc["Sentinel-1", ["mode", "product_type", "polarization"]].tolist() == ["IW", "GRDH", "VH"]
    assert tiles["incidence_deg"].isna().all()


def test_a_scene_smaller_than_a_tile_gives_one_padded_tile_of_each_scale(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    summary = build([write_scene(speckle(64, 70))], tmp_path / "ds")
    assert summary.by_scale == {"large": 1, "medium": 1, "small": 1}


def test_eight_bit_pixels_pass_unmapped(write_scene: WriteScene, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    build([write_scene(pixels)], tmp_path / "ds", quick())
    path = read_tiles(tmp_path / "ds").query("scale == 'large'")["path"].iloc[0]
    with rasterio.open(tmp_path / "ds" / path) as raster:
        assert (raster.read(1) == pixels).all()
        assert raster.tags()["MAPPING_METHOD"] == "identity"


def test_nan_infinity_and_negative_amplitude_are_no_data(write_scene: WriteScene, tmp_path: Path) -> None:
    pixels = np.full((128, 128), 10, np.float32)
    pixels[0, :4] = [np.nan, np.inf, -np.inf, -5]
    build([write_scene(pixels)], tmp_path / "ds", quick())
    path = read_tiles(tmp_path / "ds").query("scale == 'large'")["path"].iloc[0]
    with rasterio.open(tmp_path / "ds" / path) as raster:
        levels = raster.read(1)
    assert (levels[0, :4] == 0).all()
    assert (levels > 0).sum() == 128 * 128 - 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w, s: Path("nowhere.tif"), "no such file or folder: nowhere.tif"),
        (lambda w, s: w(s(32, 128)), "at least 64 px"),
        (lambda w, s: w(s(128, 128), crs=None), "has no geo-reference"),
        (lambda w, s: w(np.zeros((128, 128), np.uint16)), "every pixel of scene.tif is no data"),
        (lambda w, s: w(np.zeros((128, 128), np.uint8)), "every pixel of scene.tif is no data"),
        (lambda w, s: w(np.stack([s(64, 64)] * 2)), r"2 bands \(1, 2\): choose one with --set scene.band=1"),
        (
            lambda w, s: w(np.stack([s(64, 64)] * 2), descriptions=("VV", "VH")),
            r"2 bands \(1 VV, 2 VH\): choose one with --set scene.band=VV",
        ),
        (lambda w, s: w(s(64, 64), transform=Affine(10, 0, 5e8, 0, -10, 5e8)), "nowhere on the Earth"),
        (
            lambda w, s: w(s(64, 64), transform=Affine(1e-6, 0, 380_000, 0, -1e-6, 3_735_000)),
            "no SAR scene has",
        ),
    ],
)
def test_a_bad_scene_gets_one_sentence_and_leaves_nothing(
    make: Callable[[WriteScene, Speckle], Path],
    message: str,
    write_scene: WriteScene,
    speckle: Speckle,
    tmp_path: Path,
) -> None:
    with pytest.raises(SceneError, match=message):
        build([make(write_scene, speckle)], tmp_path / "ds", quick())
    assert not (tmp_path / "ds" / "dataset.json").exists()
    assert not (tmp_path / "ds" / "tiles.parquet").exists()


def test_no_raster_and_a_truncated_one(write_scene: WriteScene, speckle: Speckle, tmp_path: Path) -> None:
    text = tmp_path / "notes.tif"
    text.write_text("no raster")
    with pytest.raises(SceneError, match=r"notes\.tif is no raster that GDAL can read"):
        build([text], tmp_path / "ds", quick())
    cut = write_scene(speckle(512, 512), "cut.tif", tiled=True, blockxsize=256, blockysize=256)
    os.truncate(cut, cut.stat().st_size // 2)
    with pytest.raises(SceneError, match=r"cut\.tif"):
        build([cut], tmp_path / "ds", quick())


def test_a_band_is_chosen_by_name_or_number(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    dark, bright = speckle(64, 64, 100), speckle(64, 64, 1000)
    source = write_scene(np.stack([dark, bright]), descriptions=("VH", "VV"))
    for out, band in (("by_name", "vv"), ("by_number", 2)):
        build([source], tmp_path / out, quick(scene={"band": band}))
        scene = json.loads((tmp_path / out / "dataset.json").read_text())["scenes"][0]
        assert scene["raster_band"] == 2
        assert scene["mapping"]["threshold"] == pytest.approx(3 * bright.mean(), rel=1e-4)
        assert set(read_tiles(tmp_path / out)["polarization"]) == {"VV"}
    with pytest.raises(SceneError, match="has no band HH"):
        build([source], tmp_path / "none", BuildSettings(scene=SceneSettings(band="HH")))


def test_good_scenes_are_kept_and_bad_ones_are_reported(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    good, bad = write_scene(speckle(64, 64), "good.tif"), tmp_path / "bad.tif"
    bad.write_text("no raster")
    summary = build([bad, good], tmp_path / "ds", quick())
    assert (summary.scenes, [f["file"] for f in summary.failed]) == (1, ["bad.tif"])
    manifest = json.loads((tmp_path / "ds" / "dataset.json").read_text())
    assert "no raster" in manifest["failed"][0]["reason"]


def test_a_failed_scene_stands_in_the_manifest_until_it_is_mended(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    good, bad = write_scene(speckle(64, 64), "good.tif"), tmp_path / "bad.tif"
    bad.write_text("no raster")
    manifest = tmp_path / "ds" / "dataset.json"
    build([bad, good], tmp_path / "ds", quick())
    both = manifest.read_bytes()
    assert build([good], tmp_path / "ds", quick()).failed == []  # none of this build's
    assert manifest.read_bytes() == both
    write_scene(speckle(80, 80), "bad.tif")
    build([bad], tmp_path / "ds", quick())
    assert json.loads(manifest.read_text())["failed"] == []


def test_other_settings_and_strange_folders_are_refused(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    source = write_scene(speckle(64, 64))
    build([source], tmp_path / "ds", quick())
    before = all_bytes(tmp_path / "ds")
    with pytest.raises(DatasetError, match=r"built with other settings \(mapping.multiple=3.0\)"):
        build([source], tmp_path / "ds", quick(mapping=MappingSettings(multiple=4)))
    assert all_bytes(tmp_path / "ds") == before
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.doc").write_text("x")
    with pytest.raises(DatasetError, match=r"contains other files \(thesis.doc\)"):
        build([source], tmp_path / "home", quick())
    with pytest.raises(DatasetError, match="is a file"):
        build([source], source, quick())


def test_two_builds_into_one_data_set_at_the_same_time(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    source, out = write_scene(speckle(64, 64)), tmp_path / "ds"
    out.mkdir()
    other = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match=r"another build writes to .*ds: wait"):
            build([source], out, quick())
    finally:
        os.close(other)
    assert all_bytes(out) == {}
    assert build([source], out, quick()).scenes == 1


@pytest.mark.parametrize(("content", "message"), [("[]", "no manifest"), ("{}", "no settings")])
def test_a_manifest_that_is_none(
    content: str, message: str, write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        build([write_scene(speckle(64, 64))], tmp_path, quick())


def test_large_tiles_that_do_not_fit_into_memory_fail_their_scene_alone(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    coarse = write_scene(speckle(64, 64), "coarse.tif", transform=Affine(100, 0, 380_000, 0, -100, 3_735_000))
    fine = write_scene(speckle(64, 64), "fine.tif", transform=Affine(0.1, 0, 380_000, 0, -0.1, 3_735_000))
    settings = BuildSettings.model_validate({"tiling": {"small_extent_m": 6400.0, "min_pixels": 32}})
    summary = build([fine, coarse], tmp_path / "ds", settings)
    assert summary.scenes == 1
    assert "fine.tif: large tiles" in summary.failed[0]["reason"]


def test_wrong_labels_are_told_before_any_work(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    settings = quick(quality={"labels": tmp_path / "labels.csv"})
    with pytest.raises(SettingsError, match=r"quality\.labels: cannot read"):
        build([write_scene(speckle(64, 64))], tmp_path / "ds", settings)
    assert not (tmp_path / "ds").exists()


def test_shares_of_the_split_are_at_most_all() -> None:
    with pytest.raises(ValueError, match="val and test sum to more than 1"):
        quick(split={"val": 0.6, "test": 0.5})


def test_a_full_disk_leaves_the_data_set_as_it_was(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "ds"
    build([write_scene(speckle(64, 64), "first.tif")], out, quick())
    before = all_bytes(out)
    second = write_scene(speckle(128, 128, seed=1), "second.tif")
    write, left = Path.write_bytes, [3]

    def write_until_full(path: Path, content: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_until_full)
        with pytest.raises(OSError, match="No space"):
            build([second], out, quick())
    after = all_bytes(out)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.endswith(".partial")]
    build([second], out, quick())
    build([second, tmp_path / "first.tif"], tmp_path / "undisturbed", quick())
    assert all_bytes(out) == all_bytes(tmp_path / "undisturbed")


@pytest.mark.real_data
def test_real_scenes(real_data: Path, tmp_path: Path) -> None:
    geo = real_data / "geo"
    scenes = [*sorted(geo.glob("S1A*OrangeCounty*.tif")), geo / "umbra_yasur" / "umbra_mount_yasur.tiff"]
    summary = build(scenes, tmp_path / "ds", workers=2)
    assert summary.scenes == 2
    tiles = read_tiles(tmp_path / "ds")
    assert dict(tiles.groupby("platform")["gsd_m"].mean().round(2)) == {"Sentinel-1": 8.32, "Umbra": 0.59}
    assert dict(tiles.groupby("platform")["country"].first()) == {
        "Sentinel-1": "United States",
        "Umbra": "Vanuatu",
    }
    with rasterio.open(scenes[0]) as scene:
        for tile in tiles[tiles["platform"] == "Sentinel-1"].sample(10, random_state=0).itertuples():
            with rasterio.open(tmp_path / "ds" / tile.path) as raster:
                levels = raster.read(1)
            col, row = ~scene.transform @ tuple(np.array(tile.transform)[[2, 5]])
            window = Window(round(col), round(row), tile.width, tile.height)
            assert (scene.read(1, window=window, boundless=True, fill_value=0) == levels).all()
