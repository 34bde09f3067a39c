"""What is planted into a tile is measured: how many, where, how long, in which direction, on what ground."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts_synthetic import GSD_M, city, sea_with_ships, speckled

from fusar_klip.texts import measure_tile
from fusar_klip.texts.measure.land_cover import cell_histograms, measure_cells, scene_reference

NORTH_UP = (GSD_M, 0.0, 0.0, 0.0, -GSD_M, 0.0)
SLOTS = [(80, 80), (80, 200), (80, 320), (200, 80), (200, 200), (200, 320), (320, 80), (320, 320)]


@settings(max_examples=15, deadline=None)
@given(
    places=st.lists(st.sampled_from(SLOTS), min_size=1, max_size=6, unique=True),
    length_m=st.integers(60, 220),
    bearing=st.integers(0, 179),
    seed=st.integers(0, 1000),
)
def test_planted_ships_are_counted_and_placed(
    places: list[tuple[int, int]], length_m: int, bearing: int, seed: int
) -> None:
    pixels = sea_with_ships([(row, col, length_m, 24, bearing) for row, col in places], seed=seed)
    targets = measure_tile(pixels, GSD_M, transform=NORTH_UP).targets
    assert len(targets) == len(places)
    for row, col in places:
        nearest = min(targets, key=lambda t: math.hypot(t.row - row, t.col - col))
        assert math.hypot(nearest.row - row, nearest.col - col) < 2
        assert nearest.length_px * GSD_M == pytest.approx(length_m, abs=max(9, 0.1 * length_m))
        assert nearest.orientation_deg is not None
        turn = abs(nearest.orientation_deg - bearing) % 180
        assert min(turn, 180 - turn) < 6
        assert nearest.setting == "open_water"
        assert not nearest.touches_edge


@pytest.mark.parametrize("turn_deg", [0, 30, 90, 200])
def test_orientation_counts_from_north_whatever_the_transform(turn_deg: int) -> None:
    """The image's up lies at bearing `turn_deg`, so a rod drawn upright points there."""
    up, right = math.radians(turn_deg), math.radians(turn_deg + 90)
    transform = (
        GSD_M * math.sin(right),
        -GSD_M * math.sin(up),
        0.0,
        GSD_M * math.cos(right),
        -GSD_M * math.cos(up),
        0.0,
    )
    (target,) = measure_tile(sea_with_ships([(200, 200, 150, 24, 0)]), GSD_M, transform=transform).targets
    assert target.orientation_deg is not None
    turn = abs(target.orientation_deg - turn_deg) % 180
    assert min(turn, 180 - turn) < 3


def test_a_ship_at_the_edge_says_so() -> None:
    (target,) = measure_tile(sea_with_ships([(200, 2, 120, 24, 90)]), GSD_M).targets
    assert target.touches_edge


@pytest.mark.parametrize("sea", [8.0, 20.0, 60.0])
@pytest.mark.parametrize("seed", range(4))
def test_an_empty_sea_holds_no_target(sea: float, seed: int) -> None:
    pixels = speckled(np.full((400, 400), sea), seed, looks=1.0)
    evidence = measure_tile(pixels, GSD_M)
    assert evidence.targets == ()
    assert evidence.cover.fractions["water"] == pytest.approx(1)


def test_a_city_is_no_water_and_has_its_grid() -> None:
    scene = np.hstack([city(), sea_with_ships([])])
    reference = scene_reference(cell_histograms(measure_cells(scene, GSD_M)))
    evidence = measure_tile(city(), GSD_M, transform=NORTH_UP, reference=reference)
    assert evidence.cover.fractions["water"] == 0
    assert evidence.cover.fractions["built_up"] > 0.5
    assert evidence.targets == ()
    assert evidence.dominant_deg is not None
    assert min(evidence.dominant_deg % 90, 90 - evidence.dominant_deg % 90) < 5


def test_a_coast_is_split_where_it_runs() -> None:
    pixels = sea_with_ships([(200, 80, 120, 24, 0)])
    pixels[:, 240:] = city()[:, 240:]
    evidence = measure_tile(pixels, GSD_M, transform=NORTH_UP)
    assert evidence.cover.fractions["water"] == pytest.approx(0.6, abs=0.05)
    assert evidence.waterline is not None
    assert evidence.waterline.length_px == pytest.approx(400, rel=0.1)
    assert evidence.waterline.orientation_deg == pytest.approx(0, abs=5) or (
        evidence.waterline.orientation_deg == pytest.approx(180, abs=5)
    )
    assert len(evidence.targets) == 1


def test_dark_ground_at_an_airport_is_no_water() -> None:
    pixels = city()
    pixels[100:300, 100:300] = sea_with_ships([(100, 100, 40, 30, 0)], size=200)
    away = measure_tile(pixels, GSD_M)
    there = measure_tile(pixels, GSD_M, airports_rc=[(200, 200)])
    assert away.cover.fractions["water"] > 0.15
    assert there.cover.fractions["water"] == 0
    assert [t.setting for t in there.targets] == ["dark_ground"]
    assert there.targets[0].row == pytest.approx(200, abs=2)


def test_no_target_is_claimed_far_from_the_airport() -> None:
    pixels = city()
    pixels[100:300, 100:300] = sea_with_ships([(100, 100, 40, 30, 0)], size=200)
    evidence = measure_tile(pixels, GSD_M, airports_rc=[(200, 200 + 2_500 / GSD_M)])
    assert evidence.cover.fractions["water"] == 0
    assert evidence.targets == ()


def test_the_scene_tells_what_a_uniform_tile_is() -> None:
    """A uniform field is taken for water when measured alone, but not beside its scene's darker water."""
    field = speckled(np.full((200, 200), 110.0), 3)
    assert measure_tile(field, GSD_M).cover.fractions["water"] > 0.99
    scene = np.hstack([field, speckled(np.full((200, 200), 20.0), 4)])
    reference = scene_reference(cell_histograms(measure_cells(scene, GSD_M)))
    assert measure_tile(field, GSD_M, reference=reference).cover.fractions["water"] == 0


@pytest.mark.parametrize("value", [0, 1, 128, 255])
@pytest.mark.parametrize("gsd_m", [None, 0.2, 3.0, 30.0])
def test_constant_tiles_are_measured_without_warnings(value: int, gsd_m: float | None) -> None:
    evidence = measure_tile(np.full((90, 70), value, np.uint8), gsd_m)
    assert evidence.targets == ()
    assert evidence.valid_fraction == (value > 0)
    assert math.isfinite(evidence.backscatter.enl)


def test_finer_tiles_are_reduced_before_detection() -> None:
    pixels = sea_with_ships([(300, 200, 60, 12, 90)], size=600, gsd_m=0.25)
    (target,) = measure_tile(pixels, 0.25).targets
    assert target.length_px * 0.25 == pytest.approx(60, abs=4)
    assert target.row == pytest.approx(300, abs=4)


def test_entropy_and_looks_of_speckle() -> None:
    backscatter = measure_tile(speckled(np.full((300, 300), 60.0), 5, looks=4.0), GSD_M).backscatter
    assert backscatter.enl == pytest.approx(4, rel=0.25)
    assert 5 < backscatter.entropy_bits < 8


def test_parts_of_a_ship_on_open_water_are_one_at_coarse_spacing() -> None:
    """Bow and bridge of one ship, 50 m apart; and what fades at 10 m stays two at 3 m."""
    parts = [(200.0, 200.0, 60.0, 40.0, 0.0), (211.0, 200.0, 60.0, 40.0, 0.0)]
    (ship,) = measure_tile(sea_with_ships(parts, gsd_m=10.0), 10.0).targets
    assert ship.length_px * 10 == pytest.approx(170, abs=35)
    at_3_m = [(200.0, 200.0, 60.0, 40.0, 0.0), (236.0, 200.0, 60.0, 40.0, 0.0)]
    assert len(measure_tile(sea_with_ships(at_3_m), GSD_M).targets) == 2


def test_a_faint_small_ship_counts_only_on_open_water_at_coarse_spacing() -> None:
    pixels = sea_with_ships([], sea=40.0)
    pixels[200:203, 200:203] = 160
    assert len(measure_tile(pixels, 10.0).targets) == 1
    pixels[:, 216:] = city()[:, 216:]
    assert measure_tile(pixels, 10.0).targets == ()
    pixels[200:203, 200:203] = 255
    assert len(measure_tile(pixels, 10.0).targets) == 1


def test_ships_and_the_water_between_them_are_no_island() -> None:
    """The opening takes the strip between two ships, and both with it make a hole larger than a ship."""
    sea = sea_with_ships([(200, 200, 380, 60, 0), (200, 215, 250, 30, 0)], sea=40.0, gsd_m=10.0)
    reference = scene_reference(cell_histograms(measure_cells(np.hstack([sea, city()]), 10.0)))
    evidence = measure_tile(sea, 10.0, reference=reference)
    assert evidence.cover.fractions["water"] == pytest.approx(1)
    assert len(evidence.targets) == 2
