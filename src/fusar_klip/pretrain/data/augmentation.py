"""Augmentation of single-channel SAR tiles: random views. 0 is no data before and after."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from fusar_klip.pretrain.tasks.settings import Flips, ViewSettings

# Least share of valid pixels in a crop, as in a tile (decisions.md, "Borders"); after this many failed draws
# the whole tile is used.
_MIN_VALID_FRACTION, _MAX_DRAWS = 0.25, 10


class View(NamedTuple):
    """One view.

    Attributes:
        pixels: (S, S) uint8, 0 = no data.
        valid: (S, S) bool, where there is data.
        zoom: Ground spacing of the view's pixels, as a share of the tile's.
    """

    pixels: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.bool_]
    zoom: float


def identity_view(tile: npt.NDArray[np.uint8]) -> View:
    """Return a tile (S, S) uint8 as an unchanged view."""
    return View(tile, tile > 0, 1.0)


def random_view(tile: npt.NDArray[np.uint8], settings: ViewSettings, rng: np.random.Generator) -> View:
    """Return a random view of a tile (S, S) uint8."""
    view = _random_crop(tile, settings.crop_min, rng) if settings.crop_min < 1 else identity_view(tile)
    pixels, valid = _random_flip(view.pixels, view.valid, settings.flips, rng)
    if settings.gain or settings.speckle:
        factor = rng.uniform(1 - settings.gain, 1 + settings.gain)
        amplitude = pixels * np.float32(factor)
        if settings.speckle:
            looks = settings.speckle**-2
            amplitude *= rng.standard_gamma(looks, amplitude.shape, np.float32) / np.float32(looks)
        # 0 is reserved for no data.
        pixels = np.where(valid, np.clip(amplitude + 0.5, 1, 255), 0).astype(np.uint8)
    return View(np.ascontiguousarray(pixels), np.ascontiguousarray(valid), view.zoom)


def _random_crop(tile: npt.NDArray[np.uint8], least: float, rng: np.random.Generator) -> View:
    """Return a random square crop of `least` to 1 of the area, resized."""
    size = len(tile)
    known = tile > 0
    for _ in range(_MAX_DRAWS):
        side = size * float(np.sqrt(rng.uniform(least, 1)))
        left, top = (float(start) for start in rng.uniform(0, size - side, 2))
        inside = known[int(top) : int(np.ceil(top + side)), int(left) : int(np.ceil(left + side))]
        if inside.mean() >= _MIN_VALID_FRACTION:
            break
    else:
        return identity_view(tile)
    box = (left, top, left + side, top + side)
    pixels = _resized(tile, box)
    if known.all():
        return View(pixels, np.ones_like(known), side / size)
    # A pixel interpolated from no data is no data.
    valid = _resized(known.astype(np.uint8) * 255, box) == 255
    return View(np.where(valid, pixels, 0).astype(np.uint8), valid, side / size)


def _resized(square: npt.NDArray[np.uint8], box: tuple[float, float, float, float]) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.fromarray(square).resize(square.shape, Image.Resampling.BILINEAR, box=box))


def _random_flip(
    pixels: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_], flips: Flips, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    if flips == "none":
        return pixels, valid
    if flips == "all":
        quarters = int(rng.integers(4))
        pixels, valid = np.rot90(pixels, quarters), np.rot90(valid, quarters)
    return (pixels[:, ::-1], valid[:, ::-1]) if rng.random() < 0.5 else (pixels, valid)
