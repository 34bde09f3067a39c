"""ViTDet: its parts, its inputs for training, ignored boxes, and bfloat16."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fusar_klip.models as models
from fusar_klip.datasets.labelled_data import Box, ImageWithBoxes
from fusar_klip.finetune.detection.detector import Detector
from fusar_klip.finetune.detection.heads import Proposals
from fusar_klip.finetune.detection.inputs import letterboxed, training_input
from fusar_klip.finetune.detection.pyramid import SimpleFeaturePyramid
from fusar_klip.finetune.detection.settings import DetectionSettings

SMALL = {"input_size": 64, "window": 4, "global_blocks": 1, "channels": 16, "regions": 32, "anchor_size": 8}


def boat(
    path: Path, boxes: list[tuple[int, int, int, int]], seed: int, size: tuple[int, int] = (64, 64)
) -> None:
    """Speckle with a bright box (x, y, width, height) for each boat."""
    pixels = np.random.default_rng(seed).rayleigh(15, size[::-1])
    for x, y, width, height in boxes:
        pixels[y : y + height, x : x + width] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


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


@pytest.mark.parametrize("patch", [8, 16, 32])
def test_the_pyramid_has_strides_of_4_to_64(patch: int) -> None:
    grid = 128 // patch
    maps = SimpleFeaturePyramid(32, patch, 24)(torch.randn(2, 32, grid, grid))
    assert {name: tuple(level.shape) for name, level in maps.items()} == {
        str(stride): (2, 24, 128 // stride, 128 // stride) for stride in (4, 8, 16, 32, 64)
    }


def test_nothing_is_learnt_in_ignored_boxes(run: str) -> None:
    detector = Detector(models.load(run), 1, DetectionSettings.model_validate(SMALL))
    assert isinstance(detector.proposals, Proposals)
    target = {
        "boxes": torch.tensor([[0.0, 0, 10, 10]]),
        "labels": torch.tensor([1]),
        "ignored": torch.tensor([[30.0, 30, 60, 60]]),
    }
    # An object, background, within the ignored box, a third within it.
    boxes = torch.tensor([[0.0, 0, 10, 10], [15, 15, 25, 25], [35, 35, 45, 45], [20, 40, 35, 50]])
    (labels,), _ = detector.proposals.assign_targets_to_anchors([boxes], [target])
    assert labels.tolist() == [1, 0, -1, 0]
    detector.heads._ignored = [target["ignored"]]
    _, (labels,) = detector.heads.assign_targets_to_proposals([boxes], [target["boxes"]], [target["labels"]])
    assert labels.tolist() == [1, 0, -1, 0]


@pytest.mark.parametrize("flips", ["none", "horizontal", "all"])
def test_boxes_move_with_their_image(tmp_path: Path, flips: Any) -> None:
    boat(tmp_path / "a.png", [(60, 10, 24, 8)], 0, size=(96, 48))
    image = ImageWithBoxes(tmp_path / "a.png", "a.png", (Box("boat", 60, 10, 24, 8),), 96, 48, "train")
    turns = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        view = training_input(image, ("boat",), 64, scales=(0.5, 1.0), gain=0.0, flips=flips, rng=rng)
        rows, columns = np.nonzero(view.square > 120)
        bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert view.boxes[0] == pytest.approx(bright, abs=1.1)
        assert view.labels.tolist() == [1]
        turns.add((view.size[0] > view.size[1], bool(view.boxes[0, 0] < view.size[1] / 3)))
    # Wide or tall, and the boat in the left third or not.
    assert len(turns) == {"none": 1, "horizontal": 2, "all": 4}[flips]


def test_a_crop_ignores_what_it_cuts_away(tmp_path: Path) -> None:
    boat(tmp_path / "a.png", [], 0)
    boxes = (
        Box("boat", 0, 0, 8, 8),
        Box("boat", 40, 40, 20, 20),
        Box("boat", 2, 2, 0.3, 8),
        Box("boat", 10, 10, 9, 9, difficult=True),
    )
    image = ImageWithBoxes(tmp_path / "a.png", "a.png", boxes, 64, 64, "train")
    rng = np.random.default_rng(0)
    view, scale = letterboxed(image, ("boat",), 128)
    assert scale == 2
    assert view.boxes.tolist() == [[0, 0, 16, 16], [80, 80, 120, 120]]
    assert view.ignored.tolist() == [[4, 4, 4.6, 20], [20, 20, 38, 38]]
    shown = [
        training_input(image, ("boat",), 32, scales=(2.0, 2.0), gain=0, flips="none", rng=rng)
        for _ in range(40)
    ]
    for view in shown:
        for left, top, right, bottom in (*view.boxes, *view.ignored):
            assert 0 <= left < right <= 32
            assert 0 <= top < bottom <= 32
    # A box is learnt whole or for the most part, and otherwise ignored.
    assert {len(view.boxes) for view in shown} >= {0, 1}
    cut = [b for view in shown for b in view.ignored if b[2] - b[0] < 6 or b[3] - b[1] < 6]
    assert cut


def test_tall_and_wide_images_keep_their_aspect(tmp_path: Path) -> None:
    boat(tmp_path / "a.png", [(10, 20, 4, 8)], 0, size=(40, 80))
    image = ImageWithBoxes(tmp_path / "a.png", "a.png", (Box("boat", 10, 20, 4, 8),), 40, 80, "test")
    view, scale = letterboxed(image, ("boat",), 64)
    assert (view.size, scale) == ((64, 32), 0.8)
    assert not view.square[:, 32:].any()
    assert view.boxes[0].tolist() == pytest.approx([8, 16, 11.2, 22.4])
