"""Tile sizes in pixels, and the nested grid of large, medium and small tiles over a scene.

Pure arithmetic on the scene's shape: no pixels are read here. Rows and columns count from the scene's
upper left corner; the tile of scale s at (row, col) covers the pixels [row * size, (row + 1) * size).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fusar_klip.catalog import SCALES, Scale
from fusar_klip.tiles.settings import TilingSettings

SMALL_PER_SIDE: Final[dict[Scale, int]] = {"large": 4, "medium": 2, "small": 1}
"""Small tiles along one side of a tile: the scales nest exactly."""


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
    """
    extent_m = settings.small_extent_m
    while (side := round(extent_m / gsd_m)) < settings.min_pixels:
        extent_m *= 2
    return {scale: side * SMALL_PER_SIDE[scale] for scale in SCALES}


def large_tiles(height: int, width: int, large_px: int) -> Iterator[tuple[int, int]]:
    """Yield (row, col) of the large tiles that cover a scene, row by row; those at the border overhang."""
    for row in range(-(-height // large_px)):
        for col in range(-(-width // large_px)):
            yield row, col


def small_valid_fractions(valid: NDArray[np.bool_], small_px: int) -> NDArray[np.float64]:
    """Return the (4, 4) valid shares of the small tiles in a (4 s, 4 s) large tile, s = small_px."""
    shares: NDArray[np.float64] = valid.reshape(4, small_px, 4, small_px).mean(axis=(1, 3))
    return shares


def kept_tiles(
    valid: NDArray[np.bool_], row: int, col: int, small_px: int, min_valid_fraction: float
) -> dict[GridTile, float]:
    """Choose which tiles of one large tile are kept, and return the share of valid pixels of each.

    A tile is kept if enough of it is valid, or if a tile inside it is kept, so that a parent exists
    whenever a child does (decisions.md "Borders").

    Args:
        valid: (4 s, 4 s) bool, the valid pixels of the whole large tile at (row, col), s = small_px.
        row: Grid row of the large tile.
        col: Grid column of the large tile.
        small_px: Side of a small tile in pixels.
        min_valid_fraction: Least share of valid pixels, 0 to 1.

    Returns:
        {tile: share of valid pixels}, large first, then medium, then small, each row by row.
    """
    small = small_valid_fractions(valid, small_px)
    fractions: dict[GridTile, float] = {}
    for scale in SCALES:
        count = 4 // SMALL_PER_SIDE[scale]
        share = small.reshape(count, 4 // count, count, 4 // count).mean(axis=(1, 3))
        for (i, j), fraction in np.ndenumerate(share):
            fractions[GridTile(scale, row * count + i, col * count + j)] = float(fraction)
    kept = {tile for tile, fraction in fractions.items() if fraction >= min_valid_fraction}
    for tile in sorted(kept):
        while (ancestor := tile.parent()) is not None:
            kept.add(ancestor)
            tile = ancestor
    return {tile: fraction for tile, fraction in fractions.items() if tile in kept}
