"""Self-made SAR-like tiles: speckled sea and land, and rotated bright rods on them."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GSD_M = 3.0
Rod = tuple[float, float, float, float, float]  # row, column, length in m, width in m, bearing in the image


def speckled(level: NDArray[np.float64], seed: int, looks: float = 4.0) -> NDArray[np.uint8]:
    """Multiply amplitude levels by gamma speckle and map them to 1..255."""
    intensity = np.random.default_rng(seed).gamma(looks, 1 / looks, level.shape)
    return np.clip(level * np.sqrt(intensity), 1, 255).astype(np.uint8)


def sea_with_ships(
    ships: Sequence[Rod], size: int = 400, sea: float = 20.0, seed: int = 0, gsd_m: float = GSD_M
) -> NDArray[np.uint8]:
    """Return a (size, size) uint8 sea with bright rods."""
    rows, cols = np.indices((size, size), dtype=np.float64)
    level = np.full((size, size), sea)
    for row, col, length_m, width_m, bearing in ships:
        angle = math.radians(bearing)
        along = (cols - col) * math.sin(angle) - (rows - row) * math.cos(angle)
        across = (cols - col) * math.cos(angle) + (rows - row) * math.sin(angle)
        level[(abs(along) <= length_m / 2 / gsd_m) & (abs(across) <= width_m / 2 / gsd_m)] = 220.0
    return speckled(level, seed)


def city(size: int = 400, seed: int = 1) -> NDArray[np.uint8]:
    """Return a (size, size) uint8 grid of blocks of different brightness and darker streets."""
    rows, cols = np.indices((size, size))
    level = np.where((rows % 24 < 6) | (cols % 24 < 6), 60.0, 120.0)
    level[(rows % 12 < 5) & (cols % 8 < 3)] = 255.0
    blocks = np.random.default_rng(seed).uniform(0.6, 1.5, (size // 24 + 1, size // 24 + 1))
    level *= blocks[rows // 24, cols // 24]
    return speckled(level, seed)
