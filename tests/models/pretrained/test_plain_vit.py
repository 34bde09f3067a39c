"""The plain ViT as a backbone: other sizes, windows, patches, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fusar_klip.models as models
from fusar_klip.errors import CheckpointError
from fusar_klip.finetune.training_loop import parameter_groups
from fusar_klip.models import ModelRef
from fusar_klip.models.pretrained.hivit import HiViT
from fusar_klip.models.pretrained.irpe import IrpeTower
from fusar_klip.models.pretrained.plain_vit import PlainViT, patch_of
from fusar_klip.models.pretrained.registry import PRETRAINED, RESAMPLED_LAYOUTS
from published_checkpoints import MAKERS

Tower = Any


@pytest.fixture
def model(run: str) -> models.Klip:
    return models.load(run)


def noise(side: int) -> torch.Tensor:
    return torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_at_its_own_size_it_is_the_tower(model: models.Klip) -> None:
    tower: Tower = model.network.image_tower
    images = noise(32)
    backbone = PlainViT(model, 32).eval()
    assert torch.equal(backbone.tokens(images), tower.tokens(images))
    grid = backbone(images)
    assert grid.shape == (2, 32, 4, 4)
    assert torch.equal(grid[:, :, 1, 2], tower.tokens(images)[:, 1 + 1 * 4 + 2])


@torch.no_grad()
def test_one_window_over_all_is_full_attention(model: models.Klip) -> None:
    images = noise(40)
    full = PlainViT(model, 40, prefix=False).eval()(images)
    for window in (5, 9):
        windowed = PlainViT(model, 40, window=window, prefix=False).eval()
        torch.testing.assert_close(windowed(images), full, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("window", [2, 3, 4])
def test_windows_are_full_attention_under_a_mask(model: models.Klip, window: int) -> None:
    images = noise(40)
    backbone = PlainViT(model, 40, window=window, prefix=False).eval()
    tokens = backbone.embedded(images)
    place = torch.cartesian_prod(torch.arange(5), torch.arange(5)) // window
    together = (place[:, None] == place[None]).all(2)
    for block in backbone.tower.blocks:
        tokens = block(tokens, attn_mask=together)
    torch.testing.assert_close(backbone.tokens(images), tokens, atol=1e-5, rtol=1e-5)


def test_blocks_that_see_all_are_evenly_spread_and_the_last_is_one(model: models.Klip) -> None:
    assert PlainViT(model, 32, window=2, global_blocks=1, prefix=False).windows == [2, 0]
    assert PlainViT(model, 32, window=2, global_blocks=4, prefix=False).windows == [0, 0]
    tower: Tower = model.network.image_tower
    tower.blocks = torch.nn.Sequential(*[tower.blocks[0]] * 12)
    twelve = PlainViT(model, 32, window=2, global_blocks=4, prefix=False).windows
    assert [number for number, window in enumerate(twelve) if not window] == [2, 5, 8, 11]


@torch.no_grad()
def test_patches_of_14_become_16(model: models.Klip) -> None:
    tower: Tower = model.network.image_tower
    tower.patch_embed.proj = torch.nn.Conv2d(1, 32, 14, 14)
    assert patch_of(model) == 16
    backbone = PlainViT(model, 64)
    assert backbone.tower.patch_embed.proj.kernel_size == (16, 16)
    # An even image looks the same through either kernel: the resize keeps what patches of that kind give.
    even = torch.ones(1, 1, 64, 64)
    expected = tower.patch_embed.proj(even[..., :14, :14]).flatten()
    torch.testing.assert_close(
        backbone.tower.patch_embed.proj(even)[0, :, 0, 0], expected, atol=2e-3, rtol=1e-2
    )


def test_the_spacing_counts_as_not_known(make_run: Callable[..., str]) -> None:
    model = models.load(make_run())
    settings = model.network.settings.model_copy(update={"gsd_embedding": True})
    told = models.KlipNetwork(settings, model.tokenizer).image_tower
    torch.nn.init.normal_(told.gsd_embedding.unknown)  # type: ignore[union-attr]
    model.network.image_tower = told
    images = noise(32)
    with torch.no_grad():
        assert torch.equal(PlainViT(model, 32).eval().tokens(images), told.eval().tokens(images))


def test_the_model_stays_as_it_is(model: models.Klip) -> None:
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    backbone = PlainViT(model, 64)
    torch.nn.init.zeros_(backbone.tower.pos_embed)
    after = model.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_lower_layers_learn_slower(model: models.Klip) -> None:
    backbone, head = PlainViT(model, 64), torch.nn.Linear(4, 2)
    groups = parameter_groups(backbone.tower, [head], 0.1, 0.5)
    scale = {id(p): (g.get("lr_scale", 1.0), g["weight_decay"]) for g in groups for p in g["params"]}
    tower = backbone.tower
    assert scale[id(head.weight)] == (1.0, 0.1)
    assert scale[id(head.bias)] == (1.0, 0.0)
    assert scale[id(tower.blocks[1].attn.qkv.weight)] == (0.5, 0.1)
    assert scale[id(tower.blocks[0].attn.qkv.weight)] == (0.25, 0.1)
    assert scale[id(tower.pos_embed)] == (0.125, 0.0)
    assert len(scale) == len([*tower.parameters(), *head.parameters()])


def test_other_towers_are_refused_in_one_sentence(model: models.Klip) -> None:
    tower: Tower = HiViT(grid=2, side=4, width=32, stem_depth=1, depth=1, heads=2, relative=False)
    model.network.image_tower = tower
    with pytest.raises(CheckpointError, match="HiViT as its image tower") as caught:
        PlainViT(model, 32)
    assert "\n" not in str(caught.value)
    ModelRef.parse("clip:a.pt").require("patch_grid", "detection")
    with pytest.raises(CheckpointError, match=r"SARATR-X cannot run detection, .* leave saratr-x:a\.pth out"):
        ModelRef.parse("saratr-x:a.pth").require("patch_grid", "detection")


@torch.no_grad()
def test_relative_positions_fit_grid_and_windows(model: models.Klip) -> None:
    tower: Tower = IrpeTower(size=32, patch=8, width=32, depth=2, heads=2)
    for block in tower.blocks:
        torch.nn.init.normal_(block.attn.rpe_k.lookup_table_weight)
    model.network.image_tower = tower.eval()
    images = noise(32)
    assert torch.equal(PlainViT(model, 32).eval().tokens(images), tower.forward_features(images))
    larger = noise(56)
    full = PlainViT(model, 56, prefix=False).eval()
    torch.testing.assert_close(PlainViT(model, 56, window=7, prefix=False).eval()(larger), full(larger))
    # Within a window, offsets are the same as in the grid: full attention under a mask is the reference.
    windowed = PlainViT(model, 56, window=3, prefix=False).eval()
    place = torch.cartesian_prod(torch.arange(7), torch.arange(7)) // 3
    together = (place[:, None] == place[None]).all(2)
    tokens = full.embedded(larger)
    for block in full.tower.blocks:
        tokens = tokens + block.attn(block.norm1(tokens), attn_mask=together)
        tokens = tokens + block.mlp(block.norm2(tokens))
    torch.testing.assert_close(windowed.tokens(larger), tokens, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", PRETRAINED)
def test_every_published_tower_is_a_backbone_or_refused(name: str, tmp_path: Path) -> None:
    source, _ = MAKERS[name](name, tmp_path)
    encoder = ModelRef.parse(f"{name}:{source}").load()
    if PRETRAINED[name].layout not in RESAMPLED_LAYOUTS:
        with pytest.raises(CheckpointError, match="as its image tower"):
            PlainViT(encoder, 64)
        return
    side = encoder.preprocess.size
    tower: Tower = encoder.network.image_tower
    images = torch.randn(1, 1, side, side)
    if patch_of(encoder) == tower.patch_embed.proj.kernel_size[0]:
        tokens = PlainViT(encoder, side).eval().tokens(images)
        torch.testing.assert_close(tokens, tower.forward_features(images), atol=1e-5, rtol=1e-5)
    other = PlainViT(encoder, 96, window=2, global_blocks=1, prefix=False)
    assert other(torch.randn(1, 1, 96, 96)).shape == (1, tower.embed_dim, *(2 * [96 // patch_of(encoder)]))
