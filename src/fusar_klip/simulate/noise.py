"""Random fields that do not depend on the division of a scene into blocks.

Two kinds: lattices hashed from integer coordinates (parcels, buildings, smooth textures), and white
Gaussian noise drawn in fixed cells of the scene's pixel grid (speckle). Neither knows of blocks, so blocks
join without a seam, and a scene's bytes follow from its seed alone.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]
Int64: TypeAlias = NDArray[np.int64]
UInt32: TypeAlias = NDArray[np.uint32]

_CELL_PX = 128
_NODE_SIGMA = 0.479  # of a cubic B-spline surface over unit-variance nodes, averaged over positions


@dataclass(frozen=True)
class Window:
    """A rectangle of a scene's pixel grid; rows and columns may lie outside the scene (a halo)."""

    row: int
    col: int
    height: int
    width: int

    def grown(self, px: int) -> "Window":
        """Return the window with a margin of `px` on all sides."""
        return Window(self.row - px, self.col - px, self.height + 2 * px, self.width + 2 * px)


def hashed(i: ArrayLike, j: ArrayLike, seed: ArrayLike) -> UInt32:
    """Mix two lattice coordinates and a seed into 32 well-spread bits, elementwise and broadcast."""
    mixed = _bits(i) * np.uint32(0x9E3779B1) ^ _bits(j) * np.uint32(0x85EBCA77)
    mixed = (mixed ^ mixed >> np.uint32(13)) + _bits(seed) * np.uint32(0xC2B2AE3D)
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x7FEB352D)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x846CA68B)
    mixed ^= mixed >> np.uint32(16)
    return np.asarray(mixed, np.uint32)


def uniform(i: ArrayLike, j: ArrayLike, seed: ArrayLike) -> Float32:
    """Return one number in [0, 1) per lattice point."""
    unit: Float32 = (hashed(i, j, seed) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    return unit


def smooth(x_m: Float64, y_m: Float64, wavelength_m: float, seed: int) -> Float32:
    """Return a smooth field of about zero mean and unit variance on the grid `y_m` by `x_m`, (H, W).

    A cubic B-spline over hashed nodes that lie `wavelength_m` apart.
    """
    first_col, weights_x = _spline(x_m / wavelength_m)
    first_row, weights_y = _spline(y_m / wavelength_m)
    rows = first_row + np.arange(weights_y.shape[1])
    cols = first_col + np.arange(weights_x.shape[1])
    # The sum of four uniform numbers is near enough to a Gaussian, and has no tails that jump out.
    nodes = sum(uniform(rows[:, None], cols[None, :], seed + k).astype(np.float64) for k in range(4))
    nodes = (np.asarray(nodes) - 2.0) * np.sqrt(3.0)
    return np.asarray((weights_y @ nodes @ weights_x.T) / _NODE_SIGMA, dtype=np.float32)


def white(entropy: tuple[int, ...], window: Window) -> Float32:
    """Return standard Gaussian noise of a window of the pixel grid, (H, W)."""
    field = np.empty((window.height, window.width), dtype=np.float32)
    row_end, col_end = window.row + window.height, window.col + window.width
    for cell_row in range(window.row // _CELL_PX, -(-row_end // _CELL_PX)):
        for cell_col in range(window.col // _CELL_PX, -(-col_end // _CELL_PX)):
            # SeedSequence takes no negative words; halos reach left of and above the scene.
            sequence = np.random.SeedSequence([*entropy, cell_row + 2**20, cell_col + 2**20])
            cell = np.random.Generator(np.random.PCG64(sequence)).standard_normal(
                (_CELL_PX, _CELL_PX), dtype=np.float32
            )
            top, left = cell_row * _CELL_PX, cell_col * _CELL_PX
            r0, r1 = max(top, window.row), min(top + _CELL_PX, row_end)
            c0, c1 = max(left, window.col), min(left + _CELL_PX, col_end)
            field[r0 - window.row : r1 - window.row, c0 - window.col : c1 - window.col] = cell[
                r0 - top : r1 - top, c0 - left : c1 - left
            ]
    return field


def _bits(value: ArrayLike) -> UInt32:
    return np.atleast_1d(np.asarray(value)).astype(np.int64).astype(np.uint32)


def _spline(t: Float64) -> tuple[int, Float64]:
    """Cubic B-spline weights of points `t` over unit nodes: the first node, and an (N, nodes) matrix."""
    base = np.floor(t).astype(np.int64)
    f = t - base
    first = int(base.min()) - 1
    weights = np.zeros((t.size, int(base.max()) + 3 - first))
    points = np.arange(t.size)
    taps = ((1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3)
    for k, tap in enumerate(taps):
        weights[points, base - 1 - first + k] = tap / 6
    return first, weights
