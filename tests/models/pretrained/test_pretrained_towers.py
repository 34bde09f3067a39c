"""Published models give the features of their project's own forward, from files with its names and shapes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fusar_klip.models import ModelRef
from fusar_klip.models.pretrained import PRETRAINED
from published_checkpoints import MAKERS


def chip(side: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(5)
    return np.clip(rng.rayleigh(60, (side, side)), 0, 255).astype(np.uint8)


def test_every_model_has_a_checkpoint_here() -> None:
    assert MAKERS.keys() == PRETRAINED.keys()


@pytest.mark.parametrize("name", PRETRAINED)
def test_features_are_the_project_s_own(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, reference = MAKERS[name](name, tmp_path)
    model = ModelRef.parse(f"{name}:{source}").load()
    assert caplog.messages == []
    tile = chip(model.preprocess.size)
    with torch.no_grad():
        expected = reference(tile)
    assert expected.std() > 0.05
    np.testing.assert_allclose(model.features([tile, tile]), expected.expand(2, -1), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_head_can_be_trained_on_every_tower(name: str, tmp_path: Path) -> None:
    from timm.optim import param_groups_layer_decay

    source, _ = MAKERS[name](name, tmp_path)
    tower = ModelRef.parse(f"{name}:{source}").load().network.image_tower
    tower.reset_classifier(3)
    groups = param_groups_layer_decay(tower, 0.05, tuple(tower.no_weight_decay()), layer_decay=0.75)
    assert len({group["lr_scale"] for group in groups}) > 2
    side = PRETRAINED[name].size or 64
    size = ModelRef.parse(f"{name}:{source}").load().preprocess.size
    assert size in (side, 32)
    answer = tower(torch.randn(2, 1, size, size))
    assert answer.shape == (2, 3)
    answer.sum().backward()
    assert all(p.grad is not None for p in tower.patch_embed.parameters())
