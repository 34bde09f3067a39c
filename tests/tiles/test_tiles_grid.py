from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusar_klip.catalog import SCALES
from fusar_klip.tiles.grid import Grid, GridTile, kept_tiles, tile_sizes, valid_fractions
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


OVERLAPS = st.one_of(st.just(0.0), st.floats(0, 0.9))


def grid(height: int, width: int, small_px: int, overlap: float) -> Grid:
    settings = TilingSettings(small_extent_m=float(small_px), min_pixels=16, overlap=overlap)
    return Grid.over(height, width, 1.0, settings)


@settings(deadline=None)
@given(height=st.integers(64, 500), width=st.integers(64, 500), side=st.integers(20, 200), overlap=OVERLAPS)
def test_the_tiles_of_every_scale_cover_the_scene(height: int, width: int, side: int, overlap: float) -> None:
    lain = grid(height, width, side, overlap)
    assert lain.step_px == max(1, round(side * (1 - overlap)))
    large = lain.large_tiles()
    assert len(set(large)) == len(large)
    for scale in SCALES:
        tiles = [tile for parent in large for tile in lain.family(parent) if tile.scale == scale]
        assert len(set(tiles)) == len(tiles)
        for axis, length in ((0, height), (1, width)):
            starts = sorted({lain.corner(tile)[axis] for tile in tiles})
            assert starts[0] == 0
            assert set(np.diff(starts)) <= {lain.step(scale)}
            assert starts[-1] + lain.side(scale) >= length
            assert all(b <= a + lain.side(scale) for a, b in pairwise(starts))
    # One row or column of large tiles less would not do.
    last_small = lain.step("large") * (max(tile.row for tile in large)) - lain.step_px + lain.side("small")
    assert last_small < height or len({tile.row for tile in large}) == 1


@given(height=st.integers(64, 9000), width=st.integers(64, 9000), side=st.integers(16, 1280))
def test_without_overlap_large_tiles_cover_the_scene_once(height: int, width: int, side: int) -> None:
    lain = grid(height, width, side, 0.0)
    large = lain.large_tiles()
    assert len(large) == -(-height // (4 * side)) * -(-width // (4 * side))


@given(side=st.integers(16, 600), overlap=OVERLAPS, row=st.integers(0, 50), col=st.integers(0, 50))
def test_a_tile_lies_in_its_parent_and_in_its_large_tile(
    side: int, overlap: float, row: int, col: int
) -> None:
    lain = grid(10_000, 10_000, side, overlap)
    large = GridTile("large", row, col)
    family = lain.family(large)
    assert [tile.scale for tile in family] == ["large"] + ["medium"] * 4 + ["small"] * 16
    for tile in family:
        top, left, px = lain.window(tile, large)
        assert 0 <= top <= top + px <= lain.side("large")
        assert 0 <= left <= left + px <= lain.side("large")
        if (parent := tile.parent()) is not None:
            assert parent in family
            for inner, outer in zip(lain.corner(tile), lain.corner(parent), strict=True):
                assert outer <= inner <= inner + px <= outer + lain.side(parent.scale)


@given(data=st.data(), least=st.floats(0.01, 1), overlap=OVERLAPS)
def test_a_parent_exists_whenever_a_child_does(data: st.DataObject, least: float, overlap: float) -> None:
    small_px = data.draw(st.integers(16, 20))
    density = data.draw(st.floats(0, 1))
    lain, large = grid(5000, 5000, small_px, overlap), GridTile("large", 3, 5)
    valid = np.random.default_rng(data.draw(st.integers(0, 99))).random((4 * small_px,) * 2) < density
    fractions = valid_fractions(valid, lain, large)
    kept = kept_tiles(fractions, least)
    for tile in kept:
        parent = tile.parent()
        assert parent is None or parent in kept
        top, left, px = lain.window(tile, large)
        assert fractions[tile] == pytest.approx(valid[top : top + px, left : left + px].mean())
        assert fractions[tile] >= least or any(t.parent() == tile for t in kept)
    assert all(fractions[tile] < least for tile in set(fractions) - set(kept))
    assert [t.scale for t in kept] == sorted((t.scale for t in kept), key=SCALES.index)


def test_tile_ids_follow_from_scene_scale_and_place() -> None:
    assert GridTile("medium", 3, 12).tile_id("scene_ab12cd34") == "scene_ab12cd34_M_0003_0012"
    assert GridTile("small", 5, 7).parent() == GridTile("medium", 2, 3)
    assert GridTile("large", 0, 0).parent() is None
