"""From backscatter to a sensor's image: speckle, impulse response, noise floor, 16-bit amplitude.

Speckle is simulated as it arises: each look is a circular complex Gaussian field, scaled by the root of the
backscatter and convolved with the complex impulse response; point scatterers are added to that field as
shifted impulse responses, so they interfere with the clutter and show the crosses of their side lobes. The
intensity is the weighted mean of the looks, with weights that give the platform's equivalent number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fusar_klip.geo.platforms import Platform
from fusar_klip.simulate.noise import Float32, Float64, Window, white

DN_AT_0_DB = 1000.0
"""Amplitude of a pixel whose sigma0 is 0 dB: 16 bits then span -60 to +36 dB."""

CLUTTER_REACH_PX = 8
POINT_REACH_PX = 32
_SUBPIXELS = 16
_STRONG = 3.0  # amplitude from which side lobes beyond `CLUTTER_REACH_PX` rise over the noise

# Resolution (3 dB width of the response) in pixels, and noise-equivalent sigma0 in dB.
_RESOLUTION_PX: Mapping[str, float] = {"Qilu-1": 1.4, "Gaofen-3": 1.6, "Hongtu-1": 1.5, "Sentinel-1": 2.2}
_NOISE_DB: Mapping[str, float] = {"Qilu-1": -23.0, "Gaofen-3": -25.0, "Hongtu-1": -24.0, "Sentinel-1": -27.0}
_PEDESTAL = 0.68  # of the spectral weighting: side lobes between -20 and -25 dB, as products leave them


@dataclass(frozen=True)
class PointScatterers:
    """Points in pixel coordinates (a pixel's centre is at +0.5) with complex amplitudes (root of sigma0)."""

    row: Float64
    col: Float64
    amplitude: NDArray[np.complex128]


@dataclass(frozen=True)
class Sensor:
    """The imaging chain of a platform.

    Attributes:
        platform: Whose chain it is.
        seed: Entropy of the scene's speckle.
    """

    platform: Platform
    seed: tuple[int, ...]

    @cached_property
    def look_weights(self) -> tuple[float, ...]:
        """Weights of the looks, summing to 1: whole looks and one partial, (sum w)^2 / sum w^2 = looks."""
        looks = self.platform.looks
        whole = int(looks)
        if looks == whole:
            return (1 / whole,) * whole
        # (n + w)^2 = L (n + w^2), its smaller root
        a, b, c = 1 - looks, 2.0 * whole, whole**2 - looks * whole
        partial = (-b + (b * b - 4 * a * c) ** 0.5) / (2 * a)
        return (*(1 / (whole + partial),) * whole, partial / (whole + partial))

    def response(self, offset_px: Float64) -> Float64:
        """Impulse response along one axis at offsets from its centre: a weighted sinc of unit energy."""
        spread = np.arange(-64, 65.0)
        energy = float((self._lobes(spread) ** 2).sum())
        return np.asarray(self._lobes(offset_px) / math.sqrt(energy))

    def _lobes(self, offset_px: Float64) -> Float64:
        # 0.886 is the 3 dB width of a sinc; the weighting widens it by about a tenth.
        t = offset_px * (0.886 * 1.12 / _RESOLUTION_PX.get(self.platform.name, 1.3))
        side = (1 - _PEDESTAL) / 2
        return np.asarray(_PEDESTAL * np.sinc(t) + side * (np.sinc(t - 1) + np.sinc(t + 1)))

    @cached_property
    def _shifted(self) -> Float32:
        """Responses at whole pixels for points at `_SUBPIXELS` places in a pixel, (places, taps)."""
        taps = np.arange(-POINT_REACH_PX, POINT_REACH_PX + 1.0)
        places = (np.arange(_SUBPIXELS) + 0.5) / _SUBPIXELS - 0.5
        return self.response(taps[None, :] - places[:, None]).astype(np.float32)

    def image(self, sigma: Float32, points: PointScatterers, window: Window) -> NDArray[np.uint16]:
        """Return the amplitude image of `window`, (H, W) uint16, at least 1 (0 is kept for no data).

        Args:
            sigma: Linear sigma0 of the window grown by `CLUTTER_REACH_PX`.
            points: Scatterers in the scene's pixel coordinates, at least those in reach.
            window: The pixels wanted.
        """
        noise_sigma = np.float32(10 ** (_NOISE_DB.get(self.platform.name, -25.0) / 10))
        scale = np.sqrt((sigma + noise_sigma) / 2)
        kernel = self.response(np.arange(-CLUTTER_REACH_PX, CLUTTER_REACH_PX + 1.0))
        kernel /= np.sqrt((kernel**2).sum())
        coherent = self._points(points, window)
        grown = window.grown(CLUTTER_REACH_PX)
        inner = (slice(CLUTTER_REACH_PX, -CLUTTER_REACH_PX),) * 2
        intensity = np.zeros((window.height, window.width), dtype=np.float32)
        for look, weight in enumerate(self.look_weights):
            for part, direct in enumerate((coherent.real, coherent.imag)):
                field = white((*self.seed, look, part), grown) * scale
                for axis in (0, 1):
                    field = ndimage.correlate1d(field, kernel, axis=axis, mode="constant")
                intensity += np.float32(weight) * (field[inner] + direct) ** 2
        return np.clip(np.sqrt(intensity) * np.float32(DN_AT_0_DB), 1, 65535).astype(np.uint16)

    def _points(self, points: PointScatterers, window: Window) -> NDArray[np.complex64]:
        """The coherent sum of the scatterers' responses, (H, W)."""
        reach = POINT_REACH_PX
        row, col = points.row - window.row, points.col - window.col
        near = (row > -reach) & (row < window.height + reach) & (col > -reach) & (col < window.width + reach)
        row, col, amplitude = row[near], col[near], points.amplitude[near].astype(np.complex64)
        # The field is wider than the window, so that no response needs cutting.
        field = np.zeros((window.height + 4 * reach, window.width + 4 * reach), dtype=np.complex64)
        place_row, place_col = ((v % 1 * _SUBPIXELS).astype(np.int64) for v in (row, col))
        top, left = (np.floor(v).astype(np.int64) + reach for v in (row, col))
        reaches = np.where(np.abs(amplitude) > _STRONG, reach, CLUTTER_REACH_PX)
        for k in range(amplitude.size):
            cut = reach - reaches[k]
            taps = slice(cut, 2 * reach + 1 - cut)
            down = self._shifted[place_row[k], taps] * amplitude[k]
            r, c = top[k] + cut, left[k] + cut
            side = down.size
            field[r : r + side, c : c + side] += down[:, None] * self._shifted[place_col[k], taps]
        return field[2 * reach : -2 * reach, 2 * reach : -2 * reach]
