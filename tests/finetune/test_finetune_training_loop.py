"""The training loop: learning-rate schedules, seeds, prefetched batches, learning rates by group."""

import itertools
import threading

import numpy as np
import pytest
import torch

from fusar_klip.finetune.settings import ClassificationSettings
from fusar_klip.finetune.training_loop import FinetuneJob, lr_factor, prefetch, run_training, seeded


def test_the_multistep_rate_falls_at_epochs_27_and_33_of_36() -> None:
    shares = [lr_factor(step, 360, 10, "multistep") for step in range(360)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(shares[10:270]) == {1.0}
    assert shares[270:330] == pytest.approx([0.1] * 60)
    assert shares[330:] == pytest.approx([0.01] * 30)


def test_the_poly_rate_is_segmenters() -> None:
    assert lr_factor(0, 100, 0, "poly") == 1
    assert lr_factor(50, 100, 0, "poly") == pytest.approx(0.5**0.9)
    assert 0 < lr_factor(99, 100, 0, "poly") < 0.02


def test_draws_within_a_seed_leave_nothing_behind() -> None:
    state = torch.random.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(5, torch.device("cpu")):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.equal(state, torch.random.get_rng_state())


def test_batches_come_in_order_while_the_next_is_made() -> None:
    begun = [threading.Event() for _ in range(4)]

    def make(key: int) -> int:
        begun[key].set()
        return key

    for key in prefetch(make, range(4)):
        if key < 3:
            assert begun[key + 1].wait(5)
    assert list(prefetch(make, [])) == []
    with pytest.raises(IndexError):
        list(prefetch(make, [0, 9]))


def test_the_rate_warms_up_and_decays() -> None:
    shares = [lr_factor(step, 100, 10) for step in range(100)]
    assert shares[9] == shares[10] == 1.0
    assert shares[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert all(later <= earlier for earlier, later in itertools.pairwise(shares[10:]))
    assert shares[-1] < 0.001


def test_the_loop_scales_the_rate_of_each_group() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    frozen = torch.nn.Linear(1, 1, bias=False)
    module = torch.nn.Sequential(layer, frozen)
    start = frozen.weight.item()
    groups = [
        {"params": [layer.weight], "lr_scale": 1.0, "weight_decay": 0.0},
        {"params": [frozen.weight], "lr_scale": 0.0, "weight_decay": 0.0},
    ]
    job = FinetuneJob(
        module, groups, lambda epoch: [torch.ones(4, 1)] * 5, 5, lambda x: (module(x) - 1).pow(2).mean()
    )
    settings = ClassificationSettings.model_validate({"epochs": 8, "learning_rate": 0.05})
    losses = run_training(job, settings, "test")
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert frozen.weight.item() == start
