"""Counts of free ships against the truth of simulated scenes, after build and describe; `-s` prints them."""

import json
from pathlib import Path

import rasterio

from fusar_klip.catalog import read_texts, read_tiles
from fusar_klip.simulate import simulate
from fusar_klip.texts import DescribeSettings, describe
from fusar_klip.texts.phrases import number
from fusar_klip.tiles.build import build


def free_ships(scene: Path) -> list[tuple[float, float]]:
    """Return column and row of the centres of the ships that are not moored."""
    truth = json.loads((scene.parent / "truth" / f"{scene.stem}.json").read_text())
    ships = [a for a in truth["annotations"] if a["state"] in ("anchored", "under way")]
    return [(x + w / 2, y + h / 2) for x, y, w, h in (ship["bbox"] for ship in ships)]


def test_free_ships_of_simulated_scenes_are_counted(tmp_path: Path) -> None:
    """A harbour at 3 m and a city by the sea at 10 m; one of the seeds on which thresholds were set."""
    simulate(tmp_path / "scenes", scenes=3, size=2048, seed=5)
    scenes = [*(tmp_path / "scenes").glob("hongtu1*.tif"), *(tmp_path / "scenes").glob("sentinel1*.tif")]
    build(scenes, tmp_path / "dataset")
    describe(tmp_path / "dataset", DescribeSettings(workers=1))
    tiles = read_tiles(tmp_path / "dataset").set_index("tile_id")
    texts = read_texts(tmp_path / "dataset")
    said = texts[(texts["task"] == "marine_target") & (texts["field"] == "Count")]
    errors = []
    for scene in scenes:
        with rasterio.open(scene) as file:
            to_scene = ~file.transform
        centres = free_ships(scene)
        for tile_id, text in zip(said["tile_id"], said["text"], strict=True):
            tile = tiles.loc[tile_id]
            if not tile["scene_id"].startswith(scene.stem):
                continue
            left, top = to_scene @ (tile["transform"][2], tile["transform"][5])
            inside = sum(
                left <= col < left + tile["width"] and top <= row < top + tile["height"]
                for col, row in centres
            )
            counts = {number(count).capitalize(): count for count in range(100)}
            errors.append(abs(counts[text.split()[0]] - inside))
    exact, within_one = (sum(error <= most for error in errors) for most in (0, 1))
    print(f"free ships: exact {exact}, within one {within_one}, of {len(errors)} marine tiles")
    assert len(errors) >= 5
    assert exact >= 0.7 * len(errors)
    assert within_one >= 0.85 * len(errors)
