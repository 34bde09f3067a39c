"""MAE against its equations, written slowly in float64; masks, no data, and what the encoder may see."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_only_tiles import write_stripes

from fusar_klip.models import MODELS, ModelSettings, Preprocess
from fusar_klip.models.network.towers import ImageTower
from fusar_klip.pretrain.data.image_batches import (
    MaskedBatch,
    MaskedBatches,
    masked_patches,
    read_image_tiles,
)
from fusar_klip.pretrain.tasks.mae import (
    MaskedAutoencoder,
    decoder_width,
    mae_loss,
    patches_of,
    standardised_patches,
)
from fusar_klip.pretrain.tasks.positions import sincos_positions, use_fixed_positions
from fusar_klip.pretrain.tasks.settings import MaeSettings

NANO = ModelSettings(
    image_size=32, patch_size=8, image_width=32, image_depth=2, image_heads=2, text_width=32, text_depth=1,
    text_heads=2, embed_dim=16, max_tokens=32,
)  # fmt: skip


def slow_loss(
    predicted: np.ndarray, pixels: np.ndarray, hidden: np.ndarray, valid: np.ndarray, normalise: bool
) -> float:
    """MAE's loss, pixel by pixel: mean over the hidden patches' valid pixels of (x_hat - x)^2."""
    squares = []
    for b, p in np.argwhere(hidden):
        known = pixels[b, p][valid[b, p]].astype(np.float64)
        mean, spread = 0.0, 1.0
        if normalise and len(known):
            mean = sum(known) / len(known)
            variance = sum((x - mean) ** 2 for x in known) / max(1, len(known) - 1)
            spread = (variance + 1e-6) ** 0.5
        squares += [
            (float(predicted[b, p, q]) - (pixels[b, p, q] - mean) / spread) ** 2
            for q in range(pixels.shape[2])
            if valid[b, p, q]
        ]
    return sum(squares) / len(squares)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("gaps", [True, False])
def test_loss_equals_the_plain_equation(normalise: bool, gaps: bool) -> None:
    rng = np.random.default_rng(0)
    predicted, pixels = rng.normal(size=(2, 3, 6, 5))
    hidden = rng.random((3, 6)) < 0.75
    valid = rng.random((3, 6, 5)) < 0.6 if gaps else np.ones((3, 6, 5), bool)
    if gaps:
        valid[0, :2] = False  # whole patches
        valid[1, 0] = [True, False, False, False, False]  # its standard deviation is 0
        hidden[0, :2] = hidden[1, 0] = True
    found = mae_loss(
        *(torch.from_numpy(array) for array in (predicted, pixels, hidden, valid)), normalise=normalise
    )
    assert found.item() == pytest.approx(slow_loss(predicted, pixels, hidden, valid, normalise), rel=1e-9)


def test_no_data_is_excluded_from_loss_and_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, pixels = (torch.randn(2, 4, 16, generator=generator) for _ in range(2))
    hidden, valid = torch.ones(2, 4, dtype=torch.bool), torch.rand(2, 4, 16, generator=generator) < 0.5
    predicted.requires_grad_()
    loss = mae_loss(predicted, pixels, hidden, valid, normalise=True)
    loss.backward()
    assert predicted.grad is not None
    assert (predicted.grad[~valid] == 0).all()
    assert (predicted.grad[valid] != 0).all()
    # Whatever stands there, the target of the valid pixels is the same.
    other = torch.where(valid, pixels, 1e3)
    assert mae_loss(predicted, other, hidden, valid, normalise=True).item() == loss.item()
    nothing = mae_loss(predicted, pixels, hidden, torch.zeros_like(valid), normalise=True)
    assert nothing.item() == 0


def test_standardised_patches_have_mean_0_and_std_1() -> None:
    pixels = 5 + 3 * torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(0))
    target = standardised_patches(pixels, torch.ones_like(pixels, dtype=torch.bool))
    assert target.mean(2).abs().max() < 1e-5
    assert target.std(2).numpy() == pytest.approx(1, abs=1e-4)


def test_patches_are_those_of_the_image() -> None:
    images = torch.arange(2 * 6 * 6).reshape(2, 1, 6, 6)
    patches = patches_of(images, 2)
    assert patches.shape == (2, 9, 4)
    assert patches[1, 5].tolist() == images[1, 0, 2:4, 4:6].flatten().tolist()


def make_batches(folder: Path, augment: bool = False) -> MaskedBatches:
    tiles = read_image_tiles(write_stripes(folder, 12), "train", 32)
    return MaskedBatches(tiles, Preprocess(32), MaeSettings(), 16, batch_size=4, seed=1, augment=augment)


def test_ground_spacing_is_hidden_in_training_only(tmp_path: Path) -> None:
    batches = make_batches(tmp_path, augment=True)
    hidden = [batch.gsd_m.isnan() for step in range(200) for batch in batches.micro_batches(step)]
    assert float(torch.cat(hidden).float().mean()) == pytest.approx(0.1, abs=0.03)
    validation = make_batches(tmp_path)
    assert all(batch.gsd_m.isfinite().all() for step in range(50) for batch in validation.micro_batches(step))


@pytest.mark.parametrize(("patches", "ratio", "hidden"), [(196, 0.75, 147), (16, 0.75, 12), (4, 0.99, 3)])
def test_mask_ratio_is_exact(patches: int, ratio: float, hidden: int) -> None:
    assert masked_patches(patches, ratio) == hidden


def test_masks_have_equal_size_and_differ_by_step(tmp_path: Path) -> None:
    batches = make_batches(tmp_path)
    counts = np.zeros(16, int)
    for step in range(50):
        (batch,) = batches.micro_batches(step)
        assert batch.visible.shape == (4, 4)
        assert len(batch.visible.unique(dim=0)) > 1
        for row in batch.visible.tolist():
            assert len(set(row)) == 4
            counts[row] += 1
    # 200 masks show 4 of 16 patches each: every patch 50 times, give or take five standard deviations.
    assert np.abs(counts - 50).max() < 5 * np.sqrt(200 * 0.25 * 0.75)
    again = make_batches(tmp_path / "again").micro_batches(49)[0]
    assert torch.equal(again.visible, batch.visible)
    assert torch.equal(again.images, batch.images)


def test_a_half_tile_without_data_is_marked(tmp_path: Path) -> None:
    (batch,) = make_batches(tmp_path / "a").micro_batches(0)
    tiles = read_image_tiles(tmp_path / "a", "train", 32)
    first = make_batches(tmp_path / "b").collate(np.array([0, 1]), 0)
    assert not first.valid[0, 0, :16].any()
    assert first.valid[0, 0, 16:].all()
    assert first.valid[1].all()
    assert batch.valid.dtype == torch.bool
    assert len(tiles) == 10


def make_model(**changes: int) -> MaskedAutoencoder:
    torch.manual_seed(0)
    tower = ImageTower(NANO)
    use_fixed_positions(tower, NANO)
    return MaskedAutoencoder(tower, NANO, MaeSettings(decoder_depth=2, **changes))


def random_batch(shown: list[int]) -> MaskedBatch:
    return MaskedBatch(
        torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(3)),
        torch.ones(1, 1, 32, 32, dtype=torch.bool),
        torch.tensor([shown]),
        torch.tensor([0]),
        torch.tensor([torch.nan]),
    )


def test_prediction_does_not_depend_on_masked_patches() -> None:
    model, batch = make_model().eval(), random_batch([0, 5, 9])
    with torch.no_grad():
        before = model.predict_patches(batch)
        batch.images[:, :, 8:16, :8] += 1.0  # patch 4
        assert torch.equal(model.predict_patches(batch), before)
        batch.images[:, :, 8:16, 8:16] += 1.0  # patch 5
        assert not torch.allclose(model.predict_patches(batch), before)
    assert before.shape == (1, 16, 64)


def test_model_loss_is_that_of_the_masked_patches() -> None:
    model, batch = make_model().eval(), random_batch([0, 5, 9])
    batch.valid[:, :, :3] = False
    with torch.no_grad():
        found = model(batch).item()
        predicted = model.predict_patches(batch).numpy()
    hidden = np.array([[patch not in (0, 5, 9) for patch in range(16)]])
    pixels, valid = (patches_of(images, 8).numpy() for images in (batch.images, batch.valid))
    assert found == pytest.approx(slow_loss(predicted, pixels, hidden, valid, True), rel=1e-5)


def test_patches_keep_their_positions() -> None:
    """With one patch hidden, and a decoder without blocks, each token decodes to its own place."""
    model = make_model(decoder_width=32).eval()
    batch = random_batch([patch for patch in range(16) if patch != 6])
    with torch.no_grad():
        model.decoder_positions.zero_()
        model.blocks = torch.nn.ModuleList()
        predicted = model.predict_patches(batch)[0]
        tokens = model.image_tower.embedded(batch.images)
        kept = torch.cat([tokens[:, :7], tokens[:, 8:]], 1)
        own = model.predict(model.norm(model.embed(model.image_tower.encoded(kept))))[0, 1:]
        gap = model.predict(model.norm(model.mask_token))[0, 0]
    assert torch.allclose(torch.cat([predicted[:6], predicted[7:]]), own, atol=1e-6)
    assert torch.allclose(predicted[6], gap, atol=1e-6)


def test_trained_and_frozen_weights() -> None:
    model = make_model()
    model(random_batch([1, 2, 3, 4])).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {"image_tower.pos_embed"}
    assert torch.equal(model.image_tower.pos_embed, sincos_positions(NANO, 32))
    assert (sincos_positions(NANO, 32)[0, 0] == 0).all()
    assert len(sincos_positions(NANO, 32)[0].unique(dim=0)) == 17


def test_the_decoder_is_narrow_by_preset() -> None:
    widths = {name: decoder_width(model.image_width) for name, model in MODELS.items()}
    assert widths == {"tiny": 64, "small": 256, "vit_b": 512, "vit_l": 512}
    assert MaeSettings().decoder_depth == 8
    assert MaeSettings().mask_ratio == 0.75


def test_checkpointed_activations_change_nothing() -> None:
    batch, losses = random_batch([1, 2, 3, 4]), []
    for checkpointed in (False, True):
        model = make_model().train()
        if checkpointed:
            model.checkpoint_activations()
        loss = model(batch)
        loss.backward()
        losses.append((loss.item(), model.embed.weight.grad))
    assert losses[0][0] == losses[1][0]
    assert torch.equal(losses[0][1], losses[1][1])  # type: ignore[arg-type]


def test_half_precision_gives_nearly_the_same() -> None:
    """On a GPU a step runs under bfloat16 autocast, which the CPU has, too."""
    batch, losses = random_batch([1, 2, 3, 4]), []
    for enabled in (False, True):
        model = make_model().train()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(batch)
        loss.backward()
        losses.append(loss.item())
        assert loss.dtype == torch.float32
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
