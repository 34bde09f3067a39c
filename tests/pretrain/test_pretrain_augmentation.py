"""What augmentation does to a tile, and what it leaves alone."""

import numpy as np
import pytest

from fusar_klip.pretrain.data.augmentation import identity_view, random_view
from fusar_klip.pretrain.tasks.settings import MaeSettings, MocoV3Settings, ViewSettings


def speckled(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.rayleigh(60, (64, 64)).clip(1, 255).astype(np.uint8)


def test_identity_view_is_the_tile() -> None:
    tile = speckled()
    for view in (identity_view(tile), random_view(tile, ViewSettings(), np.random.default_rng(0))):
        assert np.array_equal(view.pixels, tile)
        assert view.valid.all()
        assert view.zoom == 1


def test_crop_is_a_square_with_its_own_spacing() -> None:
    _, x = np.mgrid[:64, :64]
    ramp = (1 + 3 * x).astype(np.uint8)
    rng, zooms = np.random.default_rng(0), []
    for _ in range(200):
        view = random_view(ramp, ViewSettings(crop_min=0.25), rng)
        zooms.append(view.zoom)
        steps = np.diff(view.pixels.astype(int), axis=1)[:, 4:-4]
        # A ramp of 3 grey values a pixel, seen through a magnifying glass, and no mirror image.
        assert steps.mean() == pytest.approx(3 * view.zoom, abs=0.15)
        assert np.abs(np.diff(view.pixels.astype(int), axis=0)).max() == 0
    assert 0.5 <= min(zooms) < 0.55
    assert 0.95 < max(zooms) <= 1
    assert np.mean(np.square(zooms)) == pytest.approx(0.625, abs=0.05)


def test_gain_and_speckle_statistics() -> None:
    flat = np.full((64, 64), 100, np.uint8)
    rng = np.random.default_rng(0)
    gains = [random_view(flat, ViewSettings(gain=0.3), rng).pixels.mean() / 100 for _ in range(300)]
    assert 0.69 < min(gains) < 0.75
    assert 1.25 < max(gains) < 1.31
    noisy = random_view(flat, ViewSettings(speckle=0.2), rng).pixels / 100
    assert noisy.mean() == pytest.approx(1, abs=0.02)
    assert noisy.std() == pytest.approx(0.2, abs=0.02)


def test_no_data_mask_is_preserved() -> None:
    tile = speckled()
    tile[:, :20] = 0
    settings = MocoV3Settings(crop_min=0.2, gain=0.9, speckle=1.0)
    for seed in range(100):
        view = random_view(tile, settings, np.random.default_rng(seed))
        assert np.array_equal(view.pixels > 0, view.valid)
        assert view.valid.mean() >= 0.2
    assert not identity_view(tile).valid[:, :20].any()
    # Where hardly anything is known, the whole tile is shown.
    speck = np.zeros((64, 64), np.uint8)
    speck[30:34, 30:34] = 9
    assert random_view(speck, ViewSettings(crop_min=0.5), np.random.default_rng(0)).zoom == 1


def test_crop_does_not_mix_no_data_into_valid_pixels() -> None:
    flat = np.full((64, 64), 200, np.uint8)
    flat[20:30, 10:40] = 0
    seen = 0
    for seed in range(30):
        view = random_view(flat, ViewSettings(crop_min=0.3), np.random.default_rng(seed))
        assert (view.pixels[view.valid] == 200).all()
        assert (view.pixels[~view.valid] == 0).all()
        seen += (~view.valid).any()
    assert seen > 20


def test_flips_are_off_by_default() -> None:
    tile = speckled()
    tile[:5] = 0
    assert MaeSettings().flips == MocoV3Settings().flips == "none"
    rng = np.random.default_rng(0)
    mirrored = {random_view(tile, ViewSettings(flips="horizontal"), rng).pixels.tobytes() for _ in range(30)}
    assert mirrored == {tile.tobytes(), tile[:, ::-1].tobytes()}
    turned = [random_view(tile, ViewSettings(flips="all"), rng) for _ in range(80)]
    assert len({view.pixels.tobytes() for view in turned}) == 8
    for view in turned:
        assert np.array_equal(view.pixels > 0, view.valid)


def test_views_depend_on_the_generator_only() -> None:
    tile, settings = speckled(), MocoV3Settings()
    one, two, other = (random_view(tile, settings, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert np.array_equal(one.pixels, two.pixels)
    assert not np.array_equal(one.pixels, other.pixels)
