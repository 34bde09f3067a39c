from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusar_klip.tiles.card.screening_map import REASONS, save_map
from fusar_klip.tiles.screening.overview import Overview, overview_of, summarise
from fusar_klip.tiles.screening.screen import screen
from fusar_klip.tiles.settings import ScreeningSettings


def make(height: int, width: int) -> Overview:
    rng = np.random.default_rng(0)
    scene = rng.rayleigh(20.0, (height, width)).astype(np.float32)
    scene[:, width // 2 :] *= rng.choice([0.5, 2.0, 12.0], (height, width - width // 2))
    scene[: height // 4, : width // 4] = 0
    return overview_of([summarise(scene, 8)], 8, 10.0)


@pytest.mark.parametrize(("height", "width"), [(512, 512), (64, 1200), (1200, 64), (8, 8)])
def test_the_map_is_whole_and_the_same_each_time(tmp_path: Path, height: int, width: int) -> None:
    overview = make(height, width)
    screening = screen(overview, ScreeningSettings())
    kept = [(0, width // 2, 100, 100), (height - 50, width - 50, 100, 100)]
    for name in ("a.png", "b.png"):
        save_map(tmp_path / name, overview, screening, kept, title="S1A_" + "a very long name " * 20)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width <= 2000
        assert 180 < picture.height <= 1100


def test_kept_tiles_are_outlined_in_the_color_of_their_reason(tmp_path: Path) -> None:
    overview = make(512, 512)
    screening = screen(overview, ScreeningSettings())
    assert screening.reason(128, 256, 128, 128) == "density"
    color = np.array(REASONS["density"][1])

    def colored(kept: list[tuple[int, int, int, int]]) -> int:
        save_map(tmp_path / "map.png", overview, screening, kept)
        return int((np.asarray(Image.open(tmp_path / "map.png")) == color).all(axis=-1).sum())

    assert colored([]) == 0
    one, two = colored([(128, 256, 128, 128)]), colored([(128, 256, 128, 128), (256, 256, 128, 128)])
    assert 1000 < one < two
