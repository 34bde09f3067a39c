"""Heat maps: the attention is the one that the blocks use, and a sheet is drawn of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import fusar_klip.models as models
from fusar_klip.benchmark.report.attention_maps import attention_maps, draw_attention_maps
from fusar_klip.models.pretrained.irpe import IrpeTower
from fusar_klip.models.pretrained.plain_vit import PlainViT


@torch.no_grad()
def test_the_last_block_looks_where_the_map_says(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = PlainViT(models.load(run), 32).eval()
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    used: list[torch.Tensor] = []
    plain = F.scaled_dot_product_attention

    def watched(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **others: object
    ) -> torch.Tensor:
        # What is looked at of the identity is the attention itself.
        same = torch.eye(key.shape[2]).expand(*key.shape[:2], -1, -1)
        used.append(plain(query, key, same))
        return plain(query, key, value, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    last, rolled, norms = attention_maps(backbone, images)
    assert last.shape == rolled.shape == norms.shape == (2, 4, 4)
    first, second = (weights.mean(1) for weights in used)
    np.testing.assert_allclose(last, second[:, 0, 1:].reshape(2, 4, 4), atol=1e-6)
    halves = [0.5 * weights + 0.5 * torch.eye(17) for weights in (first, second)]
    np.testing.assert_allclose(rolled, (halves[1] @ halves[0])[:, 0, 1:].reshape(2, 4, 4), atol=1e-6)
    tokens = backbone.embedded(images)
    for block in backbone.tower.blocks:
        tokens = block(tokens)
    np.testing.assert_allclose(norms, tokens[:, 1:].norm(dim=2).reshape(2, 4, 4), rtol=1e-5)


def test_other_attention_is_not_drawn(run: str) -> None:
    model = models.load(run)
    tower: Any = IrpeTower(size=32, patch=8, width=32, depth=2, heads=2)
    model.network.image_tower = tower
    assert draw_attention_maps(model, [], 0) == []
    model.network.image_tower = torch.nn.Identity()  # type: ignore[assignment]
    assert draw_attention_maps(model, [], 0) == []


def test_a_sheet_is_drawn_the_same_twice(run: str, tmp_path: Path) -> None:
    files = []
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (30, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    model = models.load(run)
    (drawing,) = draw_attention_maps(model, files, 0)
    assert draw_attention_maps(model, files, 0) == [drawing]
    assert draw_attention_maps(model, files, 1) != [drawing]
