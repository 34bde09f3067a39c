import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.tiles.radiometry import IDENTITY, amplitude_statistics, fit_mapping
from fusar_klip.tiles.settings import MappingMethod, MappingSettings


def gamma_amplitude(seed: int, scale: float) -> np.ndarray:
    return (np.random.default_rng(seed).gamma(2.0, scale, (4, 50, 60))).astype(np.float32)


def test_streamed_statistics_equal_those_of_the_whole() -> None:
    blocks = gamma_amplitude(0, 100)
    blocks[1, :10] = 0
    statistics = amplitude_statistics(blocks)
    valid = blocks[blocks > 0]
    assert statistics.count == valid.size
    assert statistics.mean == pytest.approx(valid.mean(), rel=1e-6)
    assert statistics.percentile(99) == pytest.approx(np.percentile(valid, 99), rel=0.011)


@pytest.mark.parametrize("method", ["mean_multiple", "percentile", "db"])
@given(scale=st.floats(1e-4, 1e5), seed=st.integers(0, 50))
def test_mapping_keeps_order_and_no_data(method: MappingMethod, scale: float, seed: int) -> None:
    amplitude = gamma_amplitude(seed, scale)
    amplitude[0, 0] = 0
    mapping = fit_mapping(amplitude_statistics(amplitude), MappingSettings(method=method))
    levels = mapping.apply(amplitude)
    assert levels.dtype == np.uint8
    assert ((levels == 0) == (amplitude == 0)).all()
    order = np.argsort(amplitude, axis=None)
    assert (np.diff(levels.ravel()[order].astype(int)) >= 0).all()


def test_the_threshold_is_a_multiple_of_the_mean() -> None:
    amplitude = gamma_amplitude(1, 10)
    mapping = fit_mapping(amplitude_statistics(amplitude), MappingSettings(multiple=2.5))
    assert mapping.threshold == pytest.approx(2.5 * amplitude.mean(), rel=1e-6)
    at = np.float32([[mapping.threshold, 2 * mapping.threshold, mapping.threshold / 2]])
    assert mapping.apply(at).tolist() == [[255, 255, 128]]


def test_tags_undo_the_mapping() -> None:
    amplitude = gamma_amplitude(2, 10)
    mapping = fit_mapping(amplitude_statistics(amplitude), MappingSettings(gamma=0.5))
    tags = mapping.tags()
    levels = mapping.apply(amplitude).astype(float)
    share = (levels - 1) / 254
    undone = float(tags["MAPPING_THRESHOLD"]) * share ** (1 / float(tags["MAPPING_GAMMA"]))
    unsaturated = levels < 255
    step = mapping.threshold * 2 * share / 254  # half a level, through the square root's slope
    assert (np.abs(undone - amplitude)[unsaturated] <= step[unsaturated] + 1e-3).all()


def test_eight_bit_scenes_pass_unmapped() -> None:
    levels = np.arange(256, dtype=np.float32).reshape(16, 16)
    assert (IDENTITY.apply(levels) == levels).all()
