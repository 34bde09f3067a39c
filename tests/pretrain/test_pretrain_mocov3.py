"""MoCo v3 against its algorithm, written slowly in float64; batch normalisation and momentum."""

import math

import numpy as np
import pytest
import torch

from fusar_klip.models import ModelSettings
from fusar_klip.models.network.towers import ImageTower
from fusar_klip.pretrain.data.image_batches import ViewsBatch
from fusar_klip.pretrain.optim import momentum_schedule
from fusar_klip.pretrain.tasks.batch_norm import CrossRankBatchNorm
from fusar_klip.pretrain.tasks.mocov3 import MocoV3, MomentumEncoder, info_nce
from fusar_klip.pretrain.tasks.settings import MocoV3Settings

NANO = ModelSettings(
    image_size=16, patch_size=8, image_width=16, image_depth=2, image_heads=2, text_width=16, text_depth=1,
    text_heads=2, embed_dim=8, max_tokens=32,
)  # fmt: skip
SETTINGS = MocoV3Settings(hidden_width=24, feature_width=8)


def slow_ctr(q: np.ndarray, k: np.ndarray, tau: float) -> float:
    """ctr(q, k) of Algorithm 1, row by row."""
    total = 0.0
    for i in range(len(q)):
        row = q[i] / np.linalg.norm(q[i])
        logits = [float(row @ (other / np.linalg.norm(other))) / tau for other in k]
        total += math.log(sum(math.exp(x) for x in logits)) - logits[i]
    return 2 * tau * total / len(q)


def test_info_nce_is_algorithm_1() -> None:
    rng = np.random.default_rng(0)
    query, keys = rng.normal(size=(2, 7, 5))
    normalised = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    loss, match = info_nce(torch.from_numpy(query), torch.from_numpy(normalised).float(), 0.2)
    assert loss.item() == pytest.approx(slow_ctr(query, keys, 0.2), rel=1e-6)
    unit = query / np.linalg.norm(query, axis=1, keepdims=True)
    assert match.item() == pytest.approx(np.mean((unit @ normalised.T).argmax(1) == np.arange(7)))
    perfect, all_found = info_nce(torch.eye(6), torch.eye(6), 0.2)
    assert all_found == 1
    assert perfect.item() == pytest.approx(0.4 * math.log(1 + 5 * math.exp(-5)), rel=1e-5)


def make_model() -> MocoV3:
    torch.manual_seed(0)
    return MocoV3(ImageTower(NANO), NANO, SETTINGS)


def make_batch() -> ViewsBatch:
    images = torch.randn(5, 2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return ViewsBatch(images, torch.arange(5), torch.full((5, 2), torch.nan))


def test_loss_is_symmetric_and_each_view_predicts_the_other() -> None:
    model, batch = make_model(), make_batch()
    momentum = MomentumEncoder(model)
    with torch.no_grad():
        for parameter in momentum.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        keys = momentum.features(batch)
        loss, _ = model(batch, keys)
        projected = [
            model.projector(model.image_tower.class_tokens(batch.images[:, view])) for view in (0, 1)
        ]
        queries = [model.predictor(rows).double().numpy() for rows in projected]
    one, two = keys.double().numpy()
    expected = slow_ctr(queries[0], two, 0.2) + slow_ctr(queries[1], one, 0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    swapped = ViewsBatch(batch.images.flip(1), batch.tile_ids, batch.gsd_m)
    with torch.no_grad():
        assert model(swapped, momentum.features(swapped))[0].item() == pytest.approx(loss.item(), rel=1e-5)


def test_batch_normalisation_equals_torch() -> None:
    torch.manual_seed(0)
    rows = (3 + 2 * torch.randn(9, 4)).requires_grad_()
    theirs, ours = torch.nn.BatchNorm1d(4), CrossRankBatchNorm(4)
    with torch.no_grad():
        for module in (theirs, ours):
            module.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))  # type: ignore[union-attr]
            module.bias.copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]))  # type: ignore[union-attr]
    weights = torch.randn(9, 4)
    found = []
    for module in (theirs, ours):
        output = module(rows)
        (gradient,) = torch.autograd.grad((output * weights).sum(), rows)
        found.append((output, gradient))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)
    assert not list(CrossRankBatchNorm(4, affine=False).parameters())


def test_projector_and_predictor_have_the_layers_of_the_paper() -> None:
    model = MocoV3(ImageTower(NANO), NANO, MocoV3Settings())
    widths = [
        [tuple(layer.weight.shape) for layer in head if isinstance(layer, torch.nn.Linear)]
        for head in (model.projector, model.predictor)
    ]
    assert widths == [[(4096, 16), (4096, 4096), (256, 4096)], [(4096, 256), (256, 4096)]]
    for head in (model.projector, model.predictor):
        assert isinstance(head[-1], CrossRankBatchNorm)
        assert head[-1].weight is None


def test_trained_and_frozen_weights() -> None:
    model, batch = make_model(), make_batch()
    momentum = MomentumEncoder(model)
    model(batch, momentum.features(batch))[0].backward()
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {"image_tower.patch_embed.proj.weight", "image_tower.patch_embed.proj.bias"}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not any(p.requires_grad for p in momentum.parameters())
    free = MocoV3(ImageTower(NANO), NANO, SETTINGS.model_copy(update={"fixed_patches": False}))
    assert all(p.requires_grad for p in free.parameters())


def test_momentum_encoder_is_the_moving_average() -> None:
    model = make_model()
    momentum = MomentumEncoder(model)
    before = {name: p.clone() for name, p in momentum.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    momentum.update(model, 0.9)
    for name, parameter in momentum.named_parameters():
        assert torch.allclose(parameter, before[name] + 0.1, atol=1e-5), name
    assert not any("predictor" in name for name in before)


def test_the_momentum_rises_along_half_a_cosine() -> None:
    found = [momentum_schedule(step, 100, 0.99) for step in (0, 25, 50, 75, 100)]
    expected = [1 - 0.01 * (math.cos(math.pi * share) + 1) / 2 for share in (0, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[0] == pytest.approx(0.99)
    assert found[-1] == 1


def test_half_precision_gives_nearly_the_same() -> None:
    """On a GPU a step runs under bfloat16 autocast; likenesses and batch normalisation stay in float32."""
    generator = torch.Generator().manual_seed(0)
    query, keys = torch.randn(2, 7, 5, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        half = info_nce(query, keys, 0.2)[0].item()
        assert CrossRankBatchNorm(5)(query.bfloat16()).dtype == torch.float32
        loss, _ = make_model()(make_batch(), MomentumEncoder(make_model()).features(make_batch()))
    assert half == info_nce(query, keys, 0.2)[0].item()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
