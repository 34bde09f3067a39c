"""From a height map on the ground to the radar's view of it: layover, shadow and double bounce.

The flight direction lies along the columns, so range runs along the rows; arrays here have range growing
with the column, whatever the look direction (the caller flips). The wave front is taken as plane, with one
incidence angle for the scene.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusar_klip.simulate.noise import Float32, Int64, uniform

MAX_HEIGHT_M = 60.0
"""No surface is higher: it bounds how far layover and shadow reach, and so the halo of a block."""

_WALL_STEP_M = 1.0
_FLOOR_M = 3.2
_WALL_SIGMA = 0.12  # mean backscatter of a facade per ground pixel, linear
_DOUBLE_BOUNCE_M = 3.0  # backscatter of a dihedral of 1 m height per metre of its length, linear


@dataclass(frozen=True)
class Geometry:
    """The radar's view: incidence angle, ground spacing, and whether range grows towards the east."""

    incidence_deg: float
    gsd_m: float
    looks_east: bool

    @property
    def layover_px_per_m(self) -> float:
        """How far towards the radar a point of 1 m height moves, in pixels."""
        return float(1 / np.tan(np.radians(self.incidence_deg)) / self.gsd_m)

    @property
    def ray_drop_m_per_px(self) -> float:
        """How much a ray of the wave front falls from one pixel in range to the next."""
        return float(self.gsd_m / np.tan(np.radians(self.incidence_deg)))

    @property
    def layover_reach_px(self) -> int:
        """Farthest layover."""
        return int(np.ceil(MAX_HEIGHT_M * self.layover_px_per_m)) + 2

    @property
    def shadow_reach_px(self) -> int:
        """Longest shadow."""
        return int(np.ceil(MAX_HEIGHT_M * np.tan(np.radians(self.incidence_deg)) / self.gsd_m)) + 2


def project(
    sigma: Float32,
    height_m: Float32,
    facing: Float32,
    strength: Float32,
    grid: tuple[Int64, Int64],
    geometry: Geometry,
) -> Float32:
    """Return the backscatter that the radar sees, (H, W) linear sigma0, range growing with the column.

    Args:
        sigma: Backscatter of the surfaces seen from above, (H, W), linear.
        height_m: Their height over the ground, (H, W), up to `MAX_HEIGHT_M`.
        facing: How squarely walls that rise to a pixel face the radar, (H, W), 0 to 1.
        strength: How strongly those walls answer, (H, W), linear, around 1.
        grid: Numbers of the rows, (H,), and of the columns, (W,), in the scene: they seed random values.
        geometry: The radar's view.
    """
    if not height_m.any():
        return sigma
    rows, cols = sigma.shape
    per_m = geometry.layover_px_per_m
    # A point below an earlier ray lies in shadow.
    ray = height_m + np.arange(cols) * geometry.ray_drop_m_per_px
    visible = ray >= np.maximum.accumulate(ray, axis=1)
    raised = height_m > 0
    seen = np.where(visible & ~raised, sigma, np.float32(0))

    row, col = np.nonzero(raised & visible)
    target = col - np.rint(height_m[row, col] * per_m).astype(np.int64)
    seen += _deposit(row, target, sigma[row, col], rows, cols)
    seen += _walls(height_m, facing, strength, visible, grid, geometry)
    return seen


def _walls(
    height_m: Float32,
    facing: Float32,
    strength: Float32,
    visible: NDArray[np.bool_],
    grid: tuple[Int64, Int64],
    geometry: Geometry,
) -> Float32:
    """Backscatter of the walls that face the radar: facade in layover, and the dihedral at its foot."""
    rows, cols = height_m.shape
    per_m = geometry.layover_px_per_m
    rise = np.diff(height_m, axis=1)
    row, col = np.nonzero((rise > _WALL_STEP_M) & visible[:, 1:])
    foot_m, rise_m = height_m[row, col], rise[row, col]
    wall_facing, wall_strength = facing[row, col + 1], strength[row, col + 1]

    bounce = _DOUBLE_BOUNCE_M / geometry.gsd_m * rise_m * wall_facing * wall_strength
    at_foot = col - np.rint(foot_m * per_m).astype(np.int64)
    walls = _deposit(row, at_foot, bounce, rows, cols)

    samples = np.ceil(rise_m * per_m).astype(np.int64)
    wall = np.repeat(np.arange(row.size), samples)
    step = np.arange(wall.size) - np.repeat(np.cumsum(samples) - samples, samples)
    above_foot_m = (step + 0.5) / per_m
    # Slabs and window lines repeat from floor to floor and show as bright lines in the layover.
    floors = 0.4 + 1.2 * (above_foot_m % _FLOOR_M < 0.45 * _FLOOR_M)
    glint = (
        3.0 * uniform(grid[0][row[wall]], step, grid[1][col[wall]]) ** 2
    )  # balconies and frames: few, and strong
    facade = _WALL_SIGMA * floors * glint * (0.3 + 2 * wall_facing[wall]) * wall_strength[wall]
    return walls + _deposit(row[wall], at_foot[wall] - step, facade, rows, cols)


def _deposit(row: Int64, col: Int64, value: Float32, rows: int, cols: int) -> Float32:
    """Add up values by pixel; what falls off the left edge belongs to another block."""
    inside = col >= 0
    index = row[inside] * cols + col[inside]
    total = np.bincount(index, weights=value[inside], minlength=rows * cols)
    return total.reshape(rows, cols).astype(np.float32)
