import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.catalog import SCALES
from fusar_klip.tiles.grid import GridTile, kept_tiles, large_tiles, tile_sizes
from fusar_klip.tiles.settings import TilingSettings

SETTINGS = TilingSettings()


@pytest.mark.parametrize(
    ("gsd_m", "small"), [(0.2, 1280), (1.0, 256), (3.0, 341), (8.3, 247), (10.0, 410), (0.594, 431)]
)
def test_sizes_of_known_sensors(gsd_m: float, small: int) -> None:
    assert tile_sizes(gsd_m, SETTINGS) == {"large": 4 * small, "medium": 2 * small, "small": small}


@given(gsd_m=st.floats(0.05, 200))
def test_a_small_tile_is_the_least_doubling_that_fills_the_model(gsd_m: float) -> None:
    side = tile_sizes(gsd_m, SETTINGS)["small"]
    assert side >= SETTINGS.min_pixels
    doublings = np.log2(side * gsd_m / SETTINGS.small_extent_m)
    assert (
        abs(doublings - max(round(doublings), 0)) < 0.01
    )  # 256 m times a power of two, within a rounded pixel
    if round(doublings) > 0:
        assert round(SETTINGS.small_extent_m * 2 ** (round(doublings) - 1) / gsd_m) < SETTINGS.min_pixels


@given(height=st.integers(64, 9000), width=st.integers(64, 9000), side=st.integers(64, 5120))
def test_large_tiles_cover_the_scene_once(height: int, width: int, side: int) -> None:
    places = list(large_tiles(height, width, side))
    assert len(set(places)) == len(places)
    rows, cols = max(r for r, _ in places) + 1, max(c for _, c in places) + 1
    assert len(places) == rows * cols
    assert (rows - 1) * side < height <= rows * side
    assert (cols - 1) * side < width <= cols * side


@given(data=st.data(), least=st.floats(0.01, 1))
def test_a_parent_exists_whenever_a_child_does(data: st.DataObject, least: float) -> None:
    small_px = data.draw(st.integers(1, 6))
    density = data.draw(st.floats(0, 1))
    valid = np.random.default_rng(data.draw(st.integers(0, 99))).random((4 * small_px,) * 2) < density
    kept = kept_tiles(valid, 3, 5, small_px, least)
    for tile, fraction in kept.items():
        parent = tile.parent()
        assert parent is None or parent in kept
        px = small_px * {"large": 4, "medium": 2, "small": 1}[tile.scale]
        top, left = tile.row * px - 3 * 4 * small_px, tile.col * px - 5 * 4 * small_px
        assert fraction == pytest.approx(valid[top : top + px, left : left + px].mean())
        has_child = any(t.parent() == tile for t in kept)
        assert fraction >= least or has_child
    assert [t.scale for t in kept] == sorted((t.scale for t in kept), key=SCALES.index)


def test_tile_ids_follow_from_scene_scale_and_place() -> None:
    assert GridTile("medium", 3, 12).tile_id("scene_ab12cd34") == "scene_ab12cd34_M_0003_0012"
    assert GridTile("small", 5, 7).parent() == GridTile("medium", 2, 3)
    assert GridTile("large", 0, 0).parent() is None
