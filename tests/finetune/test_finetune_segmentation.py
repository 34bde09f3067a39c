"""Segmenter: windows for training and evaluation, images before an event, and bfloat16."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fusar_klip.models as models
from fusar_klip.datasets.labelled_data import IGNORED
from fusar_klip.finetune.segmentation.segmenter import Segmenter
from fusar_klip.finetune.segmentation.settings import SegmentationSettings
from fusar_klip.finetune.segmentation.windows import sliding_window_logits, training_window, window_starts


def test_segmenters_learn_under_bfloat16(run: str) -> None:
    settings = SegmentationSettings.model_validate({"input_size": 32, "before": True, "warmup_epochs": 0})
    segmenter = Segmenter(models.load(run), 2, settings).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = segmenter(torch.randn(2, 2, 32, 32))
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in segmenter.parameters())


@torch.no_grad()
def test_the_decoder_reads_the_difference(run: str) -> None:
    model = models.load(run)
    torch.manual_seed(0)
    segmenter = Segmenter(
        model, 3, SegmentationSettings.model_validate({"input_size": 32, "before": True})
    ).eval()
    images = torch.randn(2, 2, 32, 32)
    assert segmenter(images).shape == (2, 3, 32, 32)
    read: list[torch.Tensor] = []
    segmenter.decoder.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    segmenter(images)
    after, before = (segmenter.backbone(images[:, n : n + 1]) for n in (0, 1))
    torch.testing.assert_close(read[0], torch.cat([after, after - before], dim=1))


@pytest.mark.parametrize(
    ("length", "expected"), [(32, [0]), (20, [0]), (48, [0, 16]), (50, [0, 9, 18]), (64, [0, 16, 32])]
)
def test_windows_cover_and_end_with_the_image(length: int, expected: list[int]) -> None:
    assert window_starts(length, 32, 0.5) == expected


@pytest.mark.parametrize("zoom", [0.5, 1.0, 2.0])
def test_windows_are_put_back_where_they_were(zoom: float) -> None:
    image = np.random.default_rng(0).integers(0, 255, (1, 50, 70), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(image[0]).resize((7, 5)).resize((70, 50)))[None]

    def logits(windows: np.ndarray) -> torch.Tensor:
        shown = torch.from_numpy(windows[:, 0].astype(np.float32))
        return torch.stack([shown, -shown], dim=1)

    whole = sliding_window_logits(smooth, 32, zoom, 0.5, logits)
    assert whole.shape == (2, 50, 70)
    assert (whole[0].numpy() - smooth[0]).std() < (1e-4 if zoom == 1 else 4)
    torch.testing.assert_close(whole[1], -whole[0])


@pytest.mark.parametrize("flips", ["none", "horizontal", "all"])
def test_mask_and_images_move_together(flips: Any) -> None:
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 2, (3, 5)), np.ones((8, 8), dtype=int)).astype(np.uint8)
    images = np.stack([200 * mask, 200 - 200 * mask]).astype(np.uint8)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        windows, window = training_window(
            images, mask, 32, zoom=2.0, scales=(0.5, 1.0), gain=0.0, flips=flips, rng=rng
        )
        assert windows.shape == (2, 32, 32)
        known = window != IGNORED
        # Bilinear edges apart.
        assert ((windows[0] > 100) == (window == 1))[known].mean() > 0.95
        assert ((windows[1] < 100) == (window == 1))[known].mean() > 0.95
        assert not windows[:, ~known].any()
