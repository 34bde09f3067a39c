import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusar_klip.tiles.scene.radiometry import IDENTITY, AmplitudeHistogram, fit_mapping, to_levels
from fusar_klip.tiles.settings import MappingMethod, MappingSettings


def gamma_amplitude(seed: int, scale: float) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).gamma(2.0, scale, (4, 50, 60))).astype(np.float32)


def histogram_of(amplitude: NDArray[np.generic]) -> AmplitudeHistogram:
    histogram = AmplitudeHistogram.empty(str(amplitude.dtype))
    histogram.add(amplitude)
    return histogram


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_streamed_histogram_equals_that_of_the_whole(dtype: str) -> None:
    blocks = np.clip(gamma_amplitude(0, 40), 1, 255).astype(dtype)
    blocks[1, :10] = 0
    streamed = AmplitudeHistogram.empty(dtype)
    for block in reversed(blocks):
        streamed.merge(histogram_of(block))
    whole, valid = histogram_of(blocks), blocks[blocks > 0].astype(np.float64)
    assert (streamed.counts == whole.counts).all()
    assert streamed.mean == whole.mean
    assert streamed.count == valid.size
    assert streamed.mean == pytest.approx(valid.mean(), rel=1e-14)
    within = 0.008 if dtype == "float32" else 0
    assert streamed.percentile(99) == pytest.approx(
        np.percentile(valid, 99, method="inverted_cdf"), rel=within
    )


@given(seed=st.integers(0, 99), scale=st.floats(1e-30, 1e30), cut=st.integers(1, 11_999))
def test_the_mean_does_not_depend_on_how_the_scene_is_cut(seed: int, scale: float, cut: int) -> None:
    pixels = gamma_amplitude(seed, scale).ravel()
    parts = histogram_of(pixels[cut:])
    parts.merge(histogram_of(pixels[:cut]))
    assert parts.mean == histogram_of(pixels).mean
    assert parts.mean == pytest.approx(pixels.mean(dtype=np.float64), rel=1e-12)


def test_no_pixels_have_no_mean() -> None:
    assert histogram_of(np.zeros((3, 3), np.uint16)).count == 0
    assert histogram_of(np.zeros((3, 3), np.float32)).mean == 0


@pytest.mark.parametrize("method", ["mean_multiple", "percentile", "db"])
@given(scale=st.floats(1e-4, 1e5), seed=st.integers(0, 50), gamma=st.sampled_from([1.0, 0.5]))
def test_mapping_keeps_order_and_no_data(
    method: MappingMethod, scale: float, seed: int, gamma: float
) -> None:
    amplitude = gamma_amplitude(seed, scale)
    amplitude[0, 0] = 0
    mapping = fit_mapping(histogram_of(amplitude), MappingSettings(method=method, gamma=gamma))
    levels = to_levels(amplitude, mapping, None)
    assert levels.dtype == np.uint8
    assert levels.shape == amplitude.shape
    assert ((levels == 0) == (amplitude == 0)).all()
    order = np.argsort(amplitude, axis=None)
    assert (np.diff(levels.ravel()[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("method", ["mean_multiple", "percentile", "db"])
def test_the_table_says_what_the_mapping_does(method: MappingMethod) -> None:
    amplitude = gamma_amplitude(3, 300)[0].astype(np.uint16)
    mapping = fit_mapping(histogram_of(amplitude), MappingSettings(method=method))
    table = mapping.lookup_table("uint16")
    assert table is not None
    assert (to_levels(amplitude, mapping, table) == mapping.levels(amplitude)).all()


def test_the_threshold_is_a_multiple_of_the_mean() -> None:
    amplitude = gamma_amplitude(1, 10)
    mapping = fit_mapping(histogram_of(amplitude), MappingSettings(multiple=2.5))
    assert mapping.threshold == pytest.approx(2.5 * amplitude.mean(), rel=1e-6)
    at = np.float32([[mapping.threshold, 2 * mapping.threshold, mapping.threshold / 2]])
    assert mapping.levels(at).tolist() == [[255, 255, 128]]


def test_tags_undo_the_mapping() -> None:
    amplitude = gamma_amplitude(2, 10)
    mapping = fit_mapping(histogram_of(amplitude), MappingSettings(gamma=0.5))
    tags = mapping.tags()
    levels = mapping.levels(amplitude).astype(float)
    share = (levels - 1) / 254
    undone = float(tags["MAPPING_THRESHOLD"]) * share ** (1 / float(tags["MAPPING_GAMMA"]))
    unsaturated = levels < 255
    step = mapping.threshold * 2 * share / 254  # half a level, through the square root's slope
    assert (np.abs(undone - amplitude)[unsaturated] <= step[unsaturated] + 1e-3).all()


def test_eight_bit_scenes_pass_unmapped() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (to_levels(levels, IDENTITY, None) == levels).all()
