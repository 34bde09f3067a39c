import time

import pytest
import torch
from torch import nn

from fusar_klip.pretrain.metrics import Throughput, count_flops, peak_matmul_flops

CPU = torch.device("cpu")


def test_the_flops_of_a_layer_and_its_backward_pass() -> None:
    layer = nn.Linear(30, 20, bias=False)
    rows = torch.randn(7, 30)
    assert count_flops(lambda: layer(rows)) == 2 * 7 * 30 * 20
    # The weights' gradient is as much again; the input needs none.
    assert count_flops(lambda: layer(rows).sum().backward()) == 2 * 2 * 7 * 30 * 20


def test_peak_matmul_throughput_is_measured_within_seconds() -> None:
    start = time.perf_counter()
    rate = peak_matmul_flops(CPU)
    assert time.perf_counter() - start < 2  # also on a busy machine
    assert 1e8 < rate < 1e14


def test_time_between_steps_is_not_counted() -> None:
    throughput = Throughput(samples=10, flops=1000, peak_flops=1e6)
    assert str(throughput) == ""
    for _ in range(3):
        with throughput:
            time.sleep(0.02)
        time.sleep(0.05)
    reading = throughput.read()
    assert 10 / 0.04 < reading["samples_per_s"] <= 10 / 0.02
    assert reading["utilisation"] == pytest.approx(reading["samples_per_s"] / 10 * 1000 / 1e6, rel=0.01)
    assert "tiles/s" in str(throughput)
    with throughput:
        pass
    assert throughput.read()["samples_per_s"] > 1000, "each reading starts again"
