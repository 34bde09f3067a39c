import math

import numpy as np
import pytest

from fusar_klip.errors import SettingsError
from fusar_klip.pretrain.optim import LossSpikeDetector
from fusar_klip.pretrain.settings import LossSpikeSettings


def accepted(detector: LossSpikeDetector, losses: np.ndarray) -> list[bool]:
    return [detector.accepts(step, float(loss), 1.0) for step, loss in enumerate(losses)]


def test_a_falling_noisy_loss_is_accepted_and_a_spike_is_not() -> None:
    rng = np.random.default_rng(0)
    losses = 3 + 7 * np.exp(-np.arange(2000) / 300) + rng.normal(0, 0.2, 2000)
    spikes = [500, 1200, 1999]
    losses[spikes] += 3
    detector = LossSpikeDetector(LossSpikeSettings())
    assert [step for step, is_accepted in enumerate(accepted(detector, losses)) if not is_accepted] == spikes
    assert detector.skipped == 3


def test_there_are_no_spikes_before_the_window_is_full() -> None:
    settings = LossSpikeSettings(window=20)
    assert all(accepted(LossSpikeDetector(settings), np.array([*[1.0] * 19, 50.0])))
    assert accepted(LossSpikeDetector(settings), np.array([*[1.0] * 20, 50.0]))[-1] is False
    assert all(
        accepted(LossSpikeDetector(settings), np.array([*[1.0] * 20, 1.05]))
    )  # the standard deviation of a flat loss is 0
    detector = LossSpikeDetector(settings)
    accepted(detector, np.ones(20))
    detector.reset_window()
    assert detector.accepts(20, 50.0, 1.0)


def test_spike_0_disables_the_test() -> None:
    assert all(
        accepted(LossSpikeDetector(LossSpikeSettings(spike=0, window=10)), np.array([*[1.0] * 50, 1e9]))
    )


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)]
)
def test_a_loss_or_norm_that_is_not_finite_ends_the_run(loss: float, norm: float) -> None:
    detector = LossSpikeDetector(LossSpikeSettings(patience=3))
    for start in (0, 10):
        assert not detector.accepts(start, loss, norm)
        assert not detector.accepts(start + 1, loss, norm)
        assert detector.accepts(start + 2, 1.0, 1.0)
    assert not detector.accepts(20, loss, norm)
    assert not detector.accepts(21, loss, norm)
    # More patience with spikes would not help.
    with pytest.raises(SettingsError, match=r"3 steps in a row.*lower optimizer\.lr$"):
        detector.accepts(22, loss, norm)
    assert detector.skipped == 7


def test_state_round_trip() -> None:
    losses = np.random.default_rng(1).normal(3, 0.1, 80)
    losses[[30, 60, 61]] = 9
    whole = LossSpikeDetector(LossSpikeSettings(window=25, patience=5))
    is_accepted = accepted(whole, losses)
    for cut in (0, 10, 31, 61):
        first, second = (LossSpikeDetector(LossSpikeSettings(window=25, patience=5)) for _ in range(2))
        before = accepted(first, losses[:cut])
        second.load_state(first.state())
        assert before + accepted(second, losses[cut:]) == is_accepted
        assert second.state() == whole.state()
