"""Tile sizes in pixels, and the nested grid of large, medium and small tiles over a scene.

Pure arithmetic on the scene's shape: no pixels are read here. A small tile is s pixels wide, and the next one
starts t pixels further on: t = s, or less where tiles overlap. Medium tiles are 2 s wide and start every 2 t,
large ones 4 s and 4 t. So the tile of a scale at (row, col) holds the tiles of the next smaller scale at
(2 row + 0..1, 2 col + 0..1), with overlap or without.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fusar_klip.catalog import SCALES, Scale
from fusar_klip.errors import SceneError
from fusar_klip.tiles.settings import TilingSettings

SMALL_PER_SIDE: Final[dict[Scale, int]] = {"large": 4, "medium": 2, "small": 1}
"""Small tiles along one side of a tile where tiles do not overlap: the scales nest exactly."""
_MOST_PIXELS = 1 << 15
"""Side of a large tile, which a worker holds whole: 1 GiB of its levels, 2 GiB of uint16 amplitude."""


@dataclass(frozen=True, order=True)
class GridTile:
    """A tile's place in the grid of its scale."""

    scale: Scale
    row: int
    col: int

    def parent(self) -> "GridTile | None":
        """Return the tile of the next larger scale that holds this one; None for a large tile."""
        if self.scale == "large":
            return None
        return GridTile("large" if self.scale == "medium" else "medium", self.row // 2, self.col // 2)

    def tile_id(self, scene_id: str) -> str:
        """Return the tile's id, which follows from scene, scale and grid position alone."""
        return f"{scene_id}_{self.scale[0].upper()}_{self.row:04d}_{self.col:04d}"


def tile_sizes(gsd_m: float, settings: TilingSettings) -> dict[Scale, int]:
    """Return the side of a tile of each scale in pixels (paper 3.1 SRC; decisions.md "SRC tiles").

    With f the smallest power of two for which s = round(256 f / gsd) >= 224 px: small = s, medium = 2 s,
    large = 4 s. At 1 m: 256, 512, 1024.

    Raises:
        SceneError: A large tile would not fit into memory.
    """
    extent_m = settings.small_extent_m
    while (side := round(extent_m / gsd_m)) < settings.min_pixels:
        extent_m *= 2
    if (large := side * SMALL_PER_SIDE["large"]) > _MOST_PIXELS:
        raise SceneError(
            f"large tiles of pixels of {gsd_m:.3g} m would be {large} px a side, and {_MOST_PIXELS} are "
            "the most: set tiling.small_extent_m or tiling.min_pixels lower"
        )
    return {scale: side * SMALL_PER_SIDE[scale] for scale in SCALES}


@dataclass(frozen=True)
class Grid:
    """The tiles of one scene.

    Attributes:
        height: Rows of the scene.
        width: Columns of the scene.
        small_px: Side of a small tile, s.
        step_px: From one small tile's start to the next one's, t; 1 <= t <= s.
    """

    height: int
    width: int
    small_px: int
    step_px: int

    @classmethod
    def over(cls, height: int, width: int, gsd_m: float, settings: TilingSettings) -> "Grid":
        """Lay the grid of `settings` over a scene of `height` x `width` pixels of `gsd_m` metres."""
        small_px = tile_sizes(gsd_m, settings)["small"]
        return cls(height, width, small_px, max(1, round(small_px * (1 - settings.overlap))))

    def side(self, scale: Scale) -> int:
        """Return the side of a tile in pixels."""
        return self.small_px * SMALL_PER_SIDE[scale]

    def step(self, scale: Scale) -> int:
        """Return the distance in pixels from one tile's start to the next one's."""
        return self.step_px * SMALL_PER_SIDE[scale]

    def corner(self, tile: GridTile) -> tuple[int, int]:
        """Return the row and column of the tile's upper left pixel."""
        step = self.step(tile.scale)
        return tile.row * step, tile.col * step

    def large_tiles(self) -> list[GridTile]:
        """Return the large tiles that cover the scene, row by row; those at the border may overhang.

        They are as many as it takes for the tiles of every scale to cover it: the small tiles inside of a
        large one end s - t short of its end.
        """
        rows, cols = (
            max(1, -(-(length - self.small_px + self.step_px) // self.step("large")))
            for length in (self.height, self.width)
        )
        return [GridTile("large", row, col) for row in range(rows) for col in range(cols)]

    def family(self, large: GridTile) -> list[GridTile]:
        """Return a large tile and the 4 medium and 16 small ones inside it, each scale row by row."""
        return [
            GridTile(scale, large.row * count + i, large.col * count + j)
            for scale in SCALES
            for count in (4 // SMALL_PER_SIDE[scale],)
            for i in range(count)
            for j in range(count)
        ]

    def window(self, tile: GridTile, large: GridTile) -> tuple[int, int, int]:
        """Return (top, left, side) of a tile within its large tile, in pixels."""
        (row, col), (first_row, first_col) = self.corner(tile), self.corner(large)
        return row - first_row, col - first_col, self.side(tile.scale)


def valid_fractions(valid: NDArray[np.bool_], grid: Grid, large: GridTile) -> dict[GridTile, float]:
    """Return the share of valid pixels of a large tile and of each tile inside it.

    Args:
        valid: (4 s, 4 s) bool, the valid pixels of the large tile.
        grid: The scene's grid.
        large: The large tile.
    """
    return {
        tile: int(np.count_nonzero(valid[top : top + side, left : left + side])) / side**2
        for tile in grid.family(large)
        for top, left, side in (grid.window(tile, large),)
    }


def kept_tiles(fractions: Mapping[GridTile, float], least: float) -> list[GridTile]:
    """Return the tiles of `fractions` that have enough valid pixels, in the same order.

    A tile is kept if at least `least` of it is valid, or if a tile inside it is kept, so that a parent exists
    whenever a child does (decisions.md "Borders").
    """
    return with_ancestors(fractions, {tile for tile, fraction in fractions.items() if fraction >= least})


def with_ancestors(family: Mapping[GridTile, object], chosen: set[GridTile]) -> list[GridTile]:
    """Return the chosen tiles and all that hold them, in the order of `family`."""
    held = set(chosen)
    for tile in chosen:
        while (ancestor := tile.parent()) is not None:
            held.add(ancestor)
            tile = ancestor
    return [tile for tile in family if tile in held]
