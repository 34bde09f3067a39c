import math

import numpy as np
import pytest

from fusar_klip.errors import SettingsError
from fusar_klip.pretrain.optim import LossSpikeDetector
from fusar_klip.pretrain.settings import LossSpikeSettings


def seen(guard: LossSpikeDetector, losses: np.ndarray) -> list[bool]:
    return [guard.accepts(step, float(loss), 1.0) for step, loss in enumerate(losses)]


def test_a_falling_and_noisy_loss_passes_and_a_spike_does_not() -> None:
    rng = np.random.default_rng(0)
    losses = 3 + 7 * np.exp(-np.arange(2000) / 300) + rng.normal(0, 0.2, 2000)
    spikes = [500, 1200, 1999]
    losses[spikes] += 3
    guard = LossSpikeDetector(LossSpikeSettings())
    assert [step for step, passed in enumerate(seen(guard, losses)) if not passed] == spikes
    assert guard.skipped == 3


def test_a_spike_needs_a_full_window_to_be_one() -> None:
    settings = LossSpikeSettings(window=20)
    assert all(seen(LossSpikeDetector(settings), np.array([*[1.0] * 19, 50.0])))
    assert seen(LossSpikeDetector(settings), np.array([*[1.0] * 20, 50.0]))[-1] is False
    assert all(seen(LossSpikeDetector(settings), np.array([*[1.0] * 20, 1.05])))  # a flat loss has no spread
    guard = LossSpikeDetector(settings)
    seen(guard, np.ones(20))
    guard.reset_window()
    assert guard.accepts(20, 50.0, 1.0)


def test_no_spikes_are_looked_for_with_0() -> None:
    assert all(seen(LossSpikeDetector(LossSpikeSettings(spike=0, window=10)), np.array([*[1.0] * 50, 1e9])))


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)]
)
def test_what_is_not_finite_never_passes_and_ends_the_run(loss: float, norm: float) -> None:
    guard = LossSpikeDetector(LossSpikeSettings(patience=3))
    for start in (0, 10):
        assert not guard.accepts(start, loss, norm)
        assert not guard.accepts(start + 1, loss, norm)
        assert guard.accepts(start + 2, 1.0, 1.0)
    assert not guard.accepts(20, loss, norm)
    assert not guard.accepts(21, loss, norm)
    # More patience with spikes would not help.
    with pytest.raises(SettingsError, match=r"3 steps in a row.*lower optimizer\.lr$"):
        guard.accepts(22, loss, norm)
    assert guard.skipped == 7


def test_it_goes_on_where_it_stood() -> None:
    losses = np.random.default_rng(1).normal(3, 0.1, 80)
    losses[[30, 60, 61]] = 9
    whole = LossSpikeDetector(LossSpikeSettings(window=25, patience=5))
    passed = seen(whole, losses)
    for cut in (0, 10, 31, 61):
        first, second = (LossSpikeDetector(LossSpikeSettings(window=25, patience=5)) for _ in range(2))
        before = seen(first, losses[:cut])
        second.load_state(first.state())
        assert before + seen(second, losses[cut:]) == passed
        assert second.state() == whole.state()
