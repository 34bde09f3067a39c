"""Speckle, impulse response and projection behave as SAR theory says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusar_klip.geo.platforms import PLATFORMS
from fusar_klip.simulate.imaging import CLUTTER_REACH_PX, DN_AT_0_DB, PointScatterers, Sensor
from fusar_klip.simulate.noise import Window, smooth, uniform, white
from fusar_klip.simulate.projection import Geometry, project

NO_POINTS = PointScatterers(np.zeros(0), np.zeros(0), np.zeros(0, complex))


def flat(window: Window, sigma: float) -> np.ndarray:
    side = 2 * CLUTTER_REACH_PX
    return np.full((window.height + side, window.width + side), sigma, np.float32)


@pytest.mark.parametrize("name", PLATFORMS)
def test_homogeneous_ground_has_the_looks_and_the_level_of_the_platform(name: str) -> None:
    sensor, window = Sensor(PLATFORMS[name], (0,)), Window(0, 0, 512, 512)
    intensity = sensor.image(flat(window, 1.0), NO_POINTS, window).astype(float) ** 2
    looks = intensity.mean() ** 2 / intensity.var()
    assert looks == pytest.approx(PLATFORMS[name].looks, rel=0.08)
    assert intensity.mean() == pytest.approx(DN_AT_0_DB**2, rel=0.03)


def test_speckle_is_correlated_over_about_a_pixel() -> None:
    sensor, window = Sensor(PLATFORMS["Gaofen-3"], (1,)), Window(0, 0, 512, 512)
    intensity = sensor.image(flat(window, 1.0), NO_POINTS, window).astype(float) ** 2
    correlation = [
        np.corrcoef(intensity[:, :-lag].ravel(), intensity[:, lag:].ravel())[0, 1] for lag in (1, 3)
    ]
    assert 0.2 < correlation[0] < 0.7
    assert abs(correlation[1]) < 0.1


def test_a_strong_point_keeps_its_power_and_shows_a_cross() -> None:
    sensor, window = Sensor(PLATFORMS["Gaofen-3"], (2,)), Window(0, 0, 101, 101)
    point = PointScatterers(np.array([50.5]), np.array([50.5]), np.array([30.0 + 0j]))
    intensity = (sensor.image(flat(window, 0.0), point, window) / DN_AT_0_DB) ** 2
    assert intensity.sum() == pytest.approx(900.0, rel=0.05)
    assert np.unravel_index(intensity.argmax(), intensity.shape) == (50, 50)
    axes = intensity[50, 58:74].mean() + intensity[58:74, 50].mean()
    diagonal = np.mean([intensity[50 + k, 50 + k] for k in range(8, 24)])
    assert axes > 3 * diagonal


def test_layover_leans_to_the_radar_and_shadow_away_from_it() -> None:
    geometry = Geometry(incidence_deg=45.0, gsd_m=1.0, looks_east=True)
    height = np.zeros((5, 100), np.float32)
    height[:, 50:60] = 20.0  # at 45 degrees layover and shadow are as long as the wall is high
    sigma = np.ones_like(height)
    grid = np.arange(5), np.arange(100)
    seen = project(sigma, height, np.ones_like(height), np.ones_like(height), grid, geometry)
    assert (seen[:, 30:50].mean(axis=0) > 1).all()
    assert seen[:, 49].mean() == seen.mean(axis=0).max()  # the double bounce stands at the foot of the wall
    np.testing.assert_array_equal(seen[:, 61:79], 0)
    np.testing.assert_array_equal(seen[:, 81:], 1)
    np.testing.assert_array_equal(seen[:, :28], 1)


@settings(max_examples=25, deadline=None)
@given(
    row=st.integers(-300, 300),
    col=st.integers(-300, 300),
    height=st.integers(1, 150),
    width=st.integers(1, 150),
)
def test_white_noise_is_the_same_in_every_window(row: int, col: int, height: int, width: int) -> None:
    whole = white((7,), Window(-300, -300, 750, 750))
    part = white((7,), Window(row, col, height, width))
    np.testing.assert_array_equal(part, whole[row + 300 :, col + 300 :][:height, :width])


def test_smooth_fields_are_centred_and_of_unit_variance() -> None:
    axis = np.arange(0, 4000, 2.0)
    field = smooth(axis, axis, 25.0, seed=3)
    assert abs(field.mean()) < 0.05
    assert field.std() == pytest.approx(1.0, abs=0.1)


def test_hashed_numbers_are_uniform_and_unrelated() -> None:
    numbers = uniform(np.arange(-300, 300)[:, None], np.arange(-300, 300)[None, :], 5)
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert counts.min() > 0.93 * counts.mean()
    assert abs(np.corrcoef(numbers[:, 1:].ravel(), numbers[:, :-1].ravel())[0, 1]) < 0.01
    assert (
        abs(
            np.corrcoef(
                numbers.ravel(),
                uniform(np.arange(-300, 300)[:, None], np.arange(-300, 300)[None, :], 6).ravel(),
            )[0, 1]
        )
        < 0.01
    )
