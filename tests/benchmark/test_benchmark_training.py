"""The loop's schedules, seeds and prefetched batches, and models under bfloat16."""

import threading

import pytest
import torch

import fusar_klip.models as models
from fusar_klip.finetune.detection.detector import Detector
from fusar_klip.finetune.detection.settings import DetectionSettings
from fusar_klip.finetune.segmentation.segmenter import Segmenter
from fusar_klip.finetune.segmentation.settings import SegmentationSettings
from fusar_klip.finetune.training_loop import prefetch, rate_share, seeded


def test_the_multistep_rate_falls_at_epochs_27_and_33_of_36() -> None:
    shares = [rate_share(step, 360, 10, "multistep") for step in range(360)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(shares[10:270]) == {1.0}
    assert shares[270:330] == pytest.approx([0.1] * 60)
    assert shares[330:] == pytest.approx([0.01] * 30)


def test_the_poly_rate_is_segmenters() -> None:
    assert rate_share(0, 100, 0, "poly") == 1
    assert rate_share(50, 100, 0, "poly") == pytest.approx(0.5**0.9)
    assert 0 < rate_share(99, 100, 0, "poly") < 0.02


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


@pytest.mark.parametrize("head", ["faster", "cascade"])
def test_detectors_learn_under_bfloat16(run: str, head: str) -> None:
    settings = DetectionSettings.model_validate(
        {"input_size": 64, "channels": 16, "regions": 16, "head": head, "warmup_epochs": 0}
    )
    torch.manual_seed(0)
    detector = Detector(models.load(run), 2, settings).train()
    target = {
        "boxes": torch.tensor([[4.0, 4, 30, 20]]),
        "labels": torch.tensor([2]),
        "ignored": torch.zeros(0, 4),
    }
    with torch.autocast("cpu", torch.bfloat16):
        loss = detector(torch.randn(1, 1, 64, 64), [(64, 64)], [target])
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())
    assert detector.backbone.tower.pos_embed.grad.abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = detector.eval().detect(torch.randn(1, 1, 64, 64), [(64, 64)])
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32


def test_segmenters_learn_under_bfloat16(run: str) -> None:
    settings = SegmentationSettings.model_validate({"input_size": 32, "before": True, "warmup_epochs": 0})
    segmenter = Segmenter(models.load(run), 2, settings).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = segmenter(torch.randn(2, 2, 32, 32))
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in segmenter.parameters())
