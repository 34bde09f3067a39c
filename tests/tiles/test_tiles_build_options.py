"""What a build can be asked for: overlap, float tiles, screening, scenes without coordinates, a dry run."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine
from typer.testing import CliRunner

from fusar_klip.catalog import FEATURES, read_tiles
from fusar_klip.cli import app
from fusar_klip.errors import DatasetError, SceneError
from fusar_klip.tiles import BuildSettings, build, estimate

WriteScene = Callable[..., Path]
Speckle = Callable[..., NDArray[np.uint16]]


def quick(**sections: dict[str, object]) -> BuildSettings:
    tiling = {"small_extent_m": 320.0, "min_pixels": 32} | sections.pop("tiling", {})
    return BuildSettings.model_validate({"tiling": tiling} | sections)


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pixels_of(path: Path) -> NDArray[np.generic]:
    with rasterio.open(path) as raster:
        return raster.read(1)  # type: ignore[no-any-return]


def test_tiles_overlap_by_the_share_that_is_asked_for(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    source = write_scene((speckle(300, 260) % 255 + 1).astype(np.uint8))
    build([source], tmp_path / "ds", quick(tiling={"overlap": 0.25}))
    tiles = read_tiles(tmp_path / "ds")
    scene = pixels_of(source)
    for tile in tiles.itertuples():
        row, col = (int(part) for part in tile.tile_id.split("_")[-2:])
        step = {"small": 24, "medium": 48, "large": 96}[tile.scale]
        window = scene[row * step : row * step + tile.height, col * step : col * step + tile.width]
        levels = pixels_of(tmp_path / "ds" / tile.path)
        assert (levels[: window.shape[0], : window.shape[1]] == window).all()
        assert tile.transform[2] == 380_000 + 10 * col * step
    ids = set(tiles["tile_id"])
    assert set(tiles["parent_id"].dropna()) <= ids


def test_float_tiles_lie_beside_the_eight_bit_ones(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    amplitude = speckle(200, 200).astype(np.float32) / 1000
    source = write_scene(amplitude)
    build([source], tmp_path / "ds", quick(mapping={"keep_float": True}))
    for tile in read_tiles(tmp_path / "ds").query("scale == 'large'").itertuples():
        path = tmp_path / "ds" / tile.path
        kept, levels = pixels_of(path.with_name(f"{tile.tile_id}.float.tif")), pixels_of(path)
        assert kept.dtype == np.float32
        col, row = round((tile.transform[2] - 380_000) / 10), round((3_735_000 - tile.transform[5]) / 10)
        window = amplitude[row : row + 128, col : col + 128]
        assert (kept[: window.shape[0], : window.shape[1]] == window).all()
        assert ((kept > 0) == (levels > 0)).all()


def test_every_tile_tells_its_scene_and_how_it_was_made(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    tags = {"PLATFORM": "Gaofen-3", "POLARIZATION": "HH"}
    build([write_scene(speckle(128, 128), tags=tags)], tmp_path / "ds", quick())
    for tile in read_tiles(tmp_path / "ds").itertuples():
        with rasterio.open(tmp_path / "ds" / tile.path) as raster:
            told = raster.tags()
        assert told.items() >= (tags | {"SCENE_ID": tile.scene_id, "MAPPING_METHOD": "mean_multiple"}).items()


def test_features_are_in_the_catalog(write_scene: WriteScene, speckle: Speckle, tmp_path: Path) -> None:
    build([write_scene(speckle(256, 256))], tmp_path / "ds", quick())
    tiles = read_tiles(tmp_path / "ds")
    assert tiles[list(FEATURES)].notna().all(axis=None)
    assert (tiles["nodata_fraction"] == 1 - tiles["valid_fraction"]).all()
    assert tiles["quality"].between(0, 1).all()
    for tile in tiles.itertuples():
        levels = pixels_of(tmp_path / "ds" / tile.path)
        assert tile.mean == pytest.approx(levels[levels > 0].mean())


def coast(speckle: Speckle) -> NDArray[np.uint16]:
    """The sea, and in its upper left corner a town of bright points."""
    scene = speckle(768, 768, 30)
    town = np.random.default_rng(0).random((256, 256)) < 0.02
    scene[:256, :256] = np.where(town, 6000, speckle(256, 256, 300, seed=1))
    return scene


def test_screening_marks_drops_or_leaves_alone(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    source = write_scene(coast(speckle), gsd_m=1.0, transform=Affine(1, 0, 380_000, 0, -1, 3_600_000))
    counts = {}
    for mode in ("off", "mark", "drop"):
        settings = quick(tiling={"small_extent_m": 32.0}, screening={"mode": mode, "gazetteer": 0})
        build([source], tmp_path / mode, settings)
        tiles = read_tiles(tmp_path / mode)
        counts[mode] = len(tiles)
        assert set(tiles["parent_id"].dropna()) <= set(tiles["tile_id"])
        assert len(list((tmp_path / mode).glob("tiles/*/*.tif"))) == len(tiles)
        assert (tmp_path / mode / "screening").is_dir() == (mode != "off")
        if mode == "off":
            assert tiles[["density", "dense"]].isna().all(axis=None)
        else:
            assert not tiles.loc[~tiles["dense"].astype(bool), "kept"].any()
    marked = read_tiles(tmp_path / "mark")
    assert counts["off"] == counts["mark"] > counts["drop"] > 0
    assert set(read_tiles(tmp_path / "drop")["tile_id"]) >= set(
        marked.loc[marked["dense"].astype(bool), "tile_id"]
    )


def test_pixels_of_one_metre_without_coordinates(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    # GDAL takes the first tile's transform for none, and rasterio warns of it: an error here.
    chip = write_scene(speckle(200, 200), "chip.tif", crs=None)
    assert build([chip], tmp_path / "ds", quick(scene={"gsd_m": 1.0})).scenes == 1


def test_scenes_without_coordinates_are_cut_by_pixels(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    chip = write_scene(speckle(200, 200), "chip.tif", crs=None)
    placed = write_scene(speckle(128, 128, seed=1), "placed.tif")
    build([placed], tmp_path / "ds", quick())
    build([chip], tmp_path / "ds", quick(scene={"gsd_m": 10.0}))
    tiles = gpd.read_parquet(tmp_path / "ds" / "tiles.parquet")
    chips = tiles[tiles["scene_id"].str.startswith("chip")]
    assert chips.geometry.isna().all()
    assert chips[["lon", "lat", "crs", "place", "country"]].isna().all(axis=None)
    assert (chips["ground_id"] == chips["scene_id"]).all()
    assert (chips["gsd_m"] == 10).all()
    assert set(chips["split"]) == {chips["split"].iloc[0]}
    assert tiles.loc[tiles["scene_id"].str.startswith("placed"), "lon"].notna().all()


def test_two_scenes_with_the_same_name(write_scene: WriteScene, speckle: Speckle, tmp_path: Path) -> None:
    first = write_scene(speckle(128, 128, seed=1), "scene.tif")
    (tmp_path / "other").mkdir()
    shutil.move(first, tmp_path / "other" / "scene.tif")
    second = write_scene(speckle(128, 128, seed=2), "scene.tif")
    (tmp_path / "copy").mkdir()
    shutil.copy(second, tmp_path / "copy" / "scene.tif")
    given = [tmp_path / "other" / "scene.tif", second, tmp_path / "copy" / "scene.tif"]
    summary = build(given, tmp_path / "ds", quick())
    assert summary.scenes == 2  # the copy is the second one
    assert read_tiles(tmp_path / "ds")["scene_id"].nunique() == 2


def test_a_scene_across_the_antimeridian(write_scene: WriteScene, speckle: Speckle, tmp_path: Path) -> None:
    across = Affine(10, 0, 828_500, 0, -10, 1_000_000)  # 180 degrees in UTM zone 60N
    build([write_scene(speckle(256, 256), crs="EPSG:32660", transform=across)], tmp_path / "ds", quick())
    tiles = gpd.read_parquet(tmp_path / "ds" / "tiles.parquet")
    assert "MultiPolygon" in set(tiles.geom_type)
    assert tiles.geometry.is_valid.all()
    bounds = tiles.geometry.explode().bounds
    assert (bounds["maxx"] - bounds["minx"]).max() < 0.1
    assert tiles["split"].nunique() >= 1


def test_a_constant_scene_is_built_and_not_kept(write_scene: WriteScene, tmp_path: Path) -> None:
    build([write_scene(np.full((256, 256), 7, np.uint16))], tmp_path / "ds", quick())
    tiles = read_tiles(tmp_path / "ds")
    assert len(tiles) == 4 + 16 + 64
    assert tiles["glcm_correlation"].isna().all()
    assert not tiles["kept"].any()


def test_a_nearly_empty_scene_is_its_fullest_tile(write_scene: WriteScene, tmp_path: Path) -> None:
    pixels = np.zeros((300, 300), np.uint16)
    pixels[200:205, 130:140] = 9
    summary = build([write_scene(pixels)], tmp_path / "ds", quick())
    assert summary.by_scale == {"large": 1, "medium": 1, "small": 1}
    (small,) = read_tiles(tmp_path / "ds").query("scale == 'small'").itertuples()
    assert small.valid_fraction == pytest.approx(40 / 1024, abs=0.01)


def test_a_dry_run_tells_what_the_build_makes(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    source = write_scene(speckle(700, 600), "valid.tif")
    ahead = estimate([source], tmp_path / "ds", quick(), workers=2)
    assert not (tmp_path / "ds").exists()
    made = build([source], tmp_path / "ds", quick(), workers=2)
    assert ahead.scenes[0].tiles_at_most["large"] == made.by_scale["large"] == 30
    assert ahead.tiles == pytest.approx(made.tiles, rel=0.1)
    size = sum(path.stat().st_size for path in (tmp_path / "ds").glob("tiles/*/*"))
    assert ahead.tile_bytes == pytest.approx(size, rel=0.1)
    assert ahead.scratch_bytes == 700 * 600 * 2
    assert ahead.seconds > 0


def test_a_dry_run_of_a_small_scene_is_exact(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    pixels = speckle(300, 200)
    pixels[100:250, 50:] = 0
    source = write_scene(pixels)
    ahead = estimate([source], tmp_path / "ds", quick())
    made = build([source], tmp_path / "ds", quick())
    assert ahead.scenes[0].tiles == made.by_scale


def test_a_dry_run_on_the_command_line(write_scene: WriteScene, speckle: Speckle, tmp_path: Path) -> None:
    arguments = ["build", str(write_scene(speckle(128, 128))), "--out", str(tmp_path / "ds"), "--dry-run"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["scenes"][0]["tiles"] == {"large": 1, "medium": 1, "small": 1}
    text = CliRunner().invoke(app, arguments).stdout
    assert "3 of at most 21 tiles" in text
    assert "on 2 workers" in text
    assert not (tmp_path / "ds").exists()


def test_a_dry_run_without_any_scene_that_can_be_built(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no such file or folder"):
        estimate([Path("nowhere.tif")], tmp_path / "ds")


def test_facts_come_from_a_manifest(write_scene: WriteScene, speckle: Speckle, tmp_path: Path) -> None:
    source = write_scene(speckle(128, 128))
    facts = tmp_path / "facts.csv"
    facts.write_text("file,platform,place,scene_type\nscene.tif,Qilu-1,Elsewhere,port\n")
    build([source], tmp_path / "ds", quick(), manifest=facts)
    tiles = read_tiles(tmp_path / "ds")
    assert set(tiles["platform"]) == {"Qilu-1"}
    assert set(tiles["place"]) == {"Elsewhere"}
    assert set(tiles["scene_type"]) == {"port"}


def test_files_in_the_settings_count_by_their_content(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path
) -> None:
    area = gpd.GeoSeries.from_wkt(
        ["POLYGON ((-119 33, -117 33, -117 35, -119 35, -119 33))"], crs="EPSG:4326"
    )
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        area.to_file(tmp_path / name / "areas.geojson")
    scenes = [write_scene(speckle(64, 64, seed=i), f"{i}.tif") for i in range(3)]
    for i, name in enumerate("ab"):
        settings = quick(screening={"areas": str(tmp_path / name / "areas.geojson")})
        build([scenes[i]], tmp_path / "ds", settings)
    assert str(tmp_path) not in (tmp_path / "ds" / "dataset.json").read_text()
    area.translate(0.1).to_file(tmp_path / "b" / "areas.geojson")
    with pytest.raises(DatasetError, match=r"screening\.areas"):
        build([scenes[2]], tmp_path / "ds", settings)


def test_the_catalog_is_whole_when_a_build_dies_before_the_manifest(
    write_scene: WriteScene, speckle: Speckle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("fusar_klip.tiles.build")  # whose name in the package is the function's
    first, second = (write_scene(speckle(128, 128, seed=i), f"{i}.tif") for i in range(2))
    build([first], tmp_path / "ds", quick())

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            build([second], tmp_path / "ds", quick())
    build([second], tmp_path / "ds", quick())
    build([first, second], tmp_path / "undisturbed", quick())
    assert all_bytes(tmp_path / "ds") == all_bytes(tmp_path / "undisturbed")
