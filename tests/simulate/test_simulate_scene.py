"""A scene is decided by its seed: the same bytes, however it is cut into blocks."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.geo.platforms import PLATFORMS
from fusar_klip.simulate import simulate
from fusar_klip.simulate.noise import Window
from fusar_klip.simulate.scene import SimulatedScene
from fusar_klip.simulate.themes import THEMES, Theme


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes of 700 px, one of each platform."""
    out = tmp_path_factory.mktemp("simulation") / "scenes"
    simulate(out, scenes=4, size=700, seed=1)
    return out


def test_same_seed_gives_same_bytes(made: Path, tmp_path: Path) -> None:
    again = simulate(tmp_path / "again", scenes=4, size=700, seed=1)
    assert contents(tmp_path / "again") == contents(made)
    assert [scene.platform for scene in again.scenes] == ["Gaofen-3", "Hongtu-1", "Sentinel-1", "Qilu-1"]


def test_other_seeds_and_numbers_give_other_scenes() -> None:
    window = Window(0, 0, 64, 64)
    platform = PLATFORMS["Hongtu-1"]
    images = [
        SimulatedScene(seed, number, 300, platform, "coast").render(window)[0]
        for seed, number in ((0, 0), (1, 0), (0, 1))
    ]
    assert np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1] < 0.5
    assert np.corrcoef(images[0].ravel(), images[2].ravel())[0, 1] < 0.5


@pytest.mark.parametrize(
    ("platform", "theme"),
    [("Qilu-1", "airport"), ("Gaofen-3", "harbour"), ("Hongtu-1", "city"), ("Sentinel-1", "coast")],
)
def test_blocks_join_without_a_seam(platform: str, theme: Theme) -> None:
    scene = SimulatedScene(5, 0, 384, PLATFORMS[platform], theme)
    whole, whole_cover = scene.render(Window(0, 0, 384, 384))
    for window in (Window(0, 0, 130, 200), Window(130, 200, 254, 184), Window(101, 7, 33, 377)):
        at = slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
        pixels, cover = scene.render(window)
        np.testing.assert_array_equal(pixels, whole[at])
        np.testing.assert_array_equal(cover, whole_cover[at])


def test_a_scene_names_and_places_itself(made: Path) -> None:
    manifest = json.loads((made / "simulation.json").read_text())
    assert sorted(p.name for p in made.glob("*.tif")) == sorted(s["image"] for s in manifest["scenes"])
    for scene in manifest["scenes"]:
        with rasterio.open(made / scene["image"]) as image:
            platform = PLATFORMS[scene["platform"]]
            assert image.dtypes == ("uint16",)
            assert image.nodata == 0
            assert image.read(1).min() > 0
            assert image.crs.to_epsg() == scene["epsg"]
            assert image.tags()["PLATFORM"] == platform.name
            assert image.tags()["LOOK_SIDE"] == platform.look_side
            assert image.res == (platform.gsd_m, platform.gsd_m)
            centre = image.transform @ (350, 350)
        to_utm = Transformer.from_crs(4326, scene["epsg"], always_xy=True)
        place = to_utm.transform(scene["lon"], scene["lat"])
        assert np.hypot(centre[0] - place[0], centre[1] - place[1]) <= platform.gsd_m
        with rasterio.open(made / scene["land_cover"]) as cover:
            assert cover.tags()["CLASS_1"] == "water"
            assert set(np.unique(cover.read(1))) <= set(range(1, 10))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_theme_fits_every_spacing(platform: str, theme: Theme) -> None:
    for seed in range(2):
        pixels, cover = SimulatedScene(seed, 0, 64, PLATFORMS[platform], theme).render(Window(0, 0, 64, 64))
        assert pixels.min() >= 1
        assert cover.min() >= 1


def test_smallest_scene(tmp_path: Path) -> None:
    summary = simulate(tmp_path / "small", scenes=1, size=64, seed=3, platforms=["qilu-1"])
    assert summary.scenes[0].platform == "Qilu-1"
    with rasterio.open(tmp_path / "small" / summary.scenes[0].image) as image:
        assert image.shape == (64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"platforms": ["Envisat"]}, "known are Qilu-1, Gaofen-3, Hongtu-1, Sentinel-1"),
        ({"size": 63}, "at least 64"),
        ({"scenes": 0}, "at least one"),
        ({"seed": -1}, "0 or more"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        simulate(tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match=r"thesis\.txt"):
        simulate(out, scenes=1, size=64)
    assert contents(out) == {"thesis.txt": b"years of work"}
    with pytest.raises(DatasetError, match="is a file"):
        simulate(out / "thesis.txt", scenes=1, size=64)


def test_a_simulation_of_other_options_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    simulate(out, scenes=2, size=64, seed=0)
    before = contents(out)
    for options in ({"scenes": 2, "size": 64, "seed": 1}, {"scenes": 2, "size": 80, "seed": 0}):
        with pytest.raises(DatasetError, match="give a new folder"):
            simulate(out, **options)
    assert contents(out) == before
    simulate(out, scenes=2, size=64, seed=0)
    assert contents(out) == before


def test_an_interrupted_simulation_goes_on(tmp_path: Path) -> None:
    simulate(tmp_path / "whole", scenes=2, size=64)
    simulate(tmp_path / "cut", scenes=2, size=64)
    (tmp_path / "cut" / "simulation.json").unlink()
    (tmp_path / "cut" / ".x.tif.1.partial").write_bytes(b"half")
    simulate(tmp_path / "cut", scenes=2, size=64)
    (tmp_path / "cut" / ".x.tif.1.partial").unlink()
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
