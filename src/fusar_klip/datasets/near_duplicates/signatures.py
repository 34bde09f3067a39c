"""Image signatures for near-duplicate detection: a small chip, filtered channels, and two spectra.

All images of a set are reduced by one common whole factor, so that crops of one image keep one pixel scale.

Letters: N images, H and W a chip's height and width, D numbers of a spectrum, O = 4 orientations of it.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fusar_klip.image_io import image_size, read_image
from fusar_klip.progress import track

Chip = NDArray[np.uint8]
Floats = NDArray[np.float32]

LONGEST = 160
"""Longest side of a chip in pixels: a longer one loses its margins, like a crop."""
_USUAL = 128
# The spectrum's side, and the 21 x 21 blocks of 5 x 5 frequencies about its centre that are kept: 0.2
# cycles a pixel at most, above which there is more noise than image.
_SPECTRUM, _BLOCKS, _BLOCK = 256, 21, 5
# Smoothing before the two spectra. The amplitude's recovers dark chips under noise: of 1,182 noisy copies of
# SAR-ACD chips (perf/near_duplicates.py, seeds 0 to 2), 25 are no candidates at 1 pixel, 11 at 2, 5 at 3, 2
# at 4; the pairs to compare are 3 % more at 3, 8 % more at 4.
_SMOOTHED, _SMOOTHED_ROOT = 3.0, 1.5
_COMPONENTS = 64
_KEPT_CHANNELS = 4096
# In 8-bit levels: a background that was clipped to black has a standard deviation of 0.
_MIN_STD = 2.0


class Signatures:
    """The chips of N images, and what is computed from them; about 15 kB per image.

    Args:
        files: The images.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.factor = _common_factor(files)
        self.chips = [_chip(file, self.factor) for file in track(files, "Reading images")]
        self.channels = lru_cache(maxsize=_KEPT_CHANNELS)(self._channels)
        self.half = lru_cache(maxsize=_KEPT_CHANNELS)(self._half)

    def __len__(self) -> int:
        return len(self.chips)

    @property
    def longest(self) -> int:
        """The longest side of any chip, in pixels of a chip."""
        return max(int(max(chip.shape)) for chip in self.chips)

    def _half(self, index: int) -> Floats:
        """Return a chip at half its size, smoothed, zero mean, unit energy (all zero where it is flat).

        The square root keeps one bright scatterer, which another crop may lack, from holding all the energy.
        """
        chip = self.chips[index]
        rows, columns = (length // 2 * 2 for length in chip.shape)
        root = np.sqrt(gaussian_filter(chip.astype(np.float32), 1.5) + 4)
        root = (root - gaussian_filter(root, 6.0))[:rows, :columns]
        halved = root.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3))
        halved -= halved.mean()
        energy = float(np.sqrt((halved**2).sum()))
        return np.asarray(halved / energy if energy > 1e-3 else np.zeros_like(halved), dtype=np.float32)

    def spectra(self) -> list[NDArray[np.float32]]:
        """Return two (O, N, D) arrays of unit vectors: each spectrum itself, flipped, rotated, and both.

        The first is of the amplitude, which is robust to noise; the second of its square root, which is
        robust to gains and bright neighbours. A magnitude spectrum is invariant to shifts and to a rotation
        by 180 degrees, so four orientations cover the eight symmetries.
        """
        maps = np.stack([_spectra(chip) for chip in track(self.chips, "Spectra")], axis=1)
        return [_oriented(of_kind) for of_kind in maps]

    def _channels(self, index: int) -> tuple[Floats, Floats, Floats]:
        """Return a chip's texture, structure and clipped structure, each (H, W) float32.

        Texture is the high-pass filtered square root of the amplitude: it contains the background's speckle,
        which differs between acquisitions. Structure is the smoothed amplitude, which is robust to noise.
        Clipped structure is the same with bright scatterers clipped to three standard deviations of the
        background, so that two ships on open sea are not similar because both are bright.
        """
        amplitude = self.chips[index].astype(np.float32)
        root = gaussian_filter(np.sqrt(amplitude + 1), 1.0)
        smooth = gaussian_filter(amplitude, 1.2)
        middle = float(np.median(smooth))
        std = max(1.4826 * float(np.median(np.abs(smooth - middle))), _MIN_STD)
        clipped = np.minimum(smooth, middle + 3 * std)
        texture = root - gaussian_filter(root, 5.0)
        return texture, smooth - gaussian_filter(amplitude, 6.0), clipped - gaussian_filter(clipped, 6.0)


def _common_factor(files: Sequence[Path]) -> int:
    """Return the factor that reduces the median of the images' longer sides to about `_USUAL` pixels."""
    sides = [max(image_size(file)) for file in files]
    return max(1, round(float(np.median(sides)) / _USUAL)) if sides else 1


def _chip(file: Path, factor: int) -> Chip:
    pixels = read_image(file)
    if factor > 1:
        rows, columns = (max(length // factor, 1) * factor for length in pixels.shape)
        pixels = np.pad(
            pixels, [(0, max(0, n - m)) for n, m in zip((rows, columns), pixels.shape, strict=True)]
        )
        blocks = pixels[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor)
        pixels = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    top, left = (max(0, length - LONGEST) // 2 for length in pixels.shape)
    return np.ascontiguousarray(pixels[top : top + LONGEST, left : left + LONGEST])


def _spectra(chip: Chip) -> Floats:
    """Return (2, 21, 21) the roots of two magnitude spectra about their centres, in units of their means."""
    smooth = [gaussian_filter(chip.astype(np.float32), sigma) for sigma in (_SMOOTHED, _SMOOTHED_ROOT)]
    window = np.outer(*(np.hanning(length + 2)[1:-1] for length in chip.shape)).astype(np.float32)
    kinds = np.stack([kind - kind.mean() for kind in (smooth[0], np.sqrt(smooth[1] + 4))]) * window
    magnitude = np.abs(fft.fft2(kinds, (_SPECTRUM, _SPECTRUM)))
    magnitude /= magnitude.mean(axis=(1, 2), keepdims=True) + 1e-9
    start, kept = _SPECTRUM // 2 - _BLOCKS * _BLOCK // 2, _BLOCKS * _BLOCK
    centre = fft.fftshift(np.sqrt(magnitude), axes=(1, 2))[:, start : start + kept, start : start + kept]
    pooled = centre.reshape(2, _BLOCKS, _BLOCK, _BLOCKS, _BLOCK).mean(axis=(2, 4))
    return np.asarray(pooled, dtype=np.float32)


def _oriented(maps: Floats) -> NDArray[np.float32]:
    """Return (O, N, D) unit vectors of (N, 21, 21) spectra: their principal components, half whitened.

    Half whitening reduces the weight of the few broad components, which all images share.
    """
    rotated = np.rot90(maps, axes=(1, 2)), np.rot90(maps[:, :, ::-1], axes=(1, 2))
    oriented = np.stack([maps, maps[:, :, ::-1], *rotated]).reshape(4, len(maps), -1).astype(np.float64)
    oriented -= oriented.mean(axis=(0, 1))
    flat = oriented.reshape(-1, oriented.shape[-1])
    # Threads are slower on matrices of this size, above all on busy cores.
    with threadpool_limits(1):
        if len(flat) < flat.shape[1]:
            _, singular, axes = np.linalg.svd(flat, full_matrices=False)
            variances, axes = singular[::-1] ** 2 / len(flat), axes[::-1].T
        else:
            variances, axes = np.linalg.eigh(flat.T @ flat / len(flat))
        kept = variances[-_COMPONENTS:]
        scale = np.maximum(kept, 1e-12 * max(float(kept[-1]), 1e-12)) ** -0.25
        reduced = oriented @ (axes[:, -_COMPONENTS:] * scale)
    norms = np.linalg.norm(reduced, axis=-1, keepdims=True)
    return np.asarray(reduced / np.maximum(norms, 1e-9), dtype=np.float32)
