"""Measures a tile pyramid: a large tile with a margin of the tiles around it, then the tiles inside it.

Land cover and ships are found once, in the large tile; a tile inside takes its part of the cells, and the
ships whose centre lies in it. So the three scales agree (paper eqs. 1 to 3), and objects at a tile's edge are
measured whole: a ship is counted in one tile, with its whole length, and a pier is not taken for a ship. The
margin of the large tile is read from the adjacent tiles. Targets on an airport's dark ground are detected in
every tile separately, because at the large scale aircraft merge with the pier at which they stand.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from fusar_klip.errors import DatasetError
from fusar_klip.texts.measure.cfar import Detection, detections_in_window
from fusar_klip.texts.measure.evidence import Evidence
from fusar_klip.texts.measure.land_cover import CELL_M, Cells, SceneReference, classify, measure_cells
from fusar_klip.texts.measure.measure_tile import (
    ASSUMED_SPACING_M,
    detect_ships,
    image_to_ground,
    measure_tile,
)
from fusar_klip.texts.tile_images import read_pixels

_MARGIN_M = 300.0  # over half the longest ship, so that a ship with its centre in the tile is read whole


@dataclass(frozen=True)
class CatalogTile:
    """The columns of a catalog row that measuring needs; None = not known."""

    tile_id: str
    scene_id: str
    parent_id: str | None
    path: str
    height: int
    width: int
    gsd_m: float | None
    transform: tuple[float, ...] | None
    lon: float | None
    lat: float | None
    place: str | None
    country: str | None
    water_fraction: float | None
    kept: bool

    @property
    def half_m(self) -> float:
        """Half the longer side on the ground, in metres."""
        return max(self.height, self.width) * (self.gsd_m or ASSUMED_SPACING_M) / 2


@dataclass(frozen=True)
class AdjacentTile:
    """A tile adjacent to another one, with the position of its upper left pixel in that one's pixels."""

    tile: CatalogTile
    row: int
    col: int


@dataclass(frozen=True)
class PyramidTile:
    """A measured tile, with the land cover and ships that the tiles inside it take over.

    Attributes:
        tile: Its row of the catalog.
        evidence: Its measurements.
        codes: (rows, cols) uint8, the land cover of its cells.
        side_px: Pixels along one side of a cell.
        found: Its ships, in its pixels.
    """

    tile: CatalogTile
    evidence: Evidence
    codes: NDArray[np.uint8]
    side_px: int
    found: tuple[Detection, ...]


def adjacent_tiles(tile: CatalogTile, others: Iterable[CatalogTile]) -> list[AdjacentTile]:
    """Return the tiles of the same scene that reach into the tile's margin, ordered by tile_id.

    A tile without a transform has none.
    """
    margin = _margin_px(tile)
    found = []
    for other in others:
        if other.tile_id == tile.tile_id or (offset := offset_in(tile, other)) is None:
            continue
        row, col = offset
        reaches = -margin < row + other.height and row < tile.height + margin
        if reaches and -margin < col + other.width and col < tile.width + margin:
            found.append(AdjacentTile(other, row, col))
    return sorted(found, key=lambda adjacent: adjacent.tile.tile_id)


def offset_in(outer: CatalogTile, inner: CatalogTile) -> tuple[int, int] | None:
    """Return row and column of a tile's upper left pixel in another one; None if their grids differ."""
    a, b = outer.transform, inner.transform
    if a is None or b is None or not np.allclose(np.delete(a, [2, 5]), np.delete(b, [2, 5])):
        return None
    col, row = np.linalg.solve([[a[0], a[1]], [a[3], a[4]]], [b[2] - a[2], b[5] - a[5]])
    return round(float(row)), round(float(col))


def measure_root_tile(
    dataset: Path,
    tile: CatalogTile,
    adjacent: Sequence[AdjacentTile],
    reference: SceneReference,
    airports_rc: Sequence[tuple[float, float]],
) -> PyramidTile:
    """Measure a root tile, with a margin of the adjacent tiles.

    Args:
        dataset: The data set's folder.
        tile: The tile.
        adjacent: Result of `adjacent_tiles`.
        reference: The levels of its scene.
        airports_rc: Row and column of airports' reference points in or near the tile.

    Raises:
        DatasetError: The tile or an adjacent one cannot be read.
    """
    spacing_m = tile.gsd_m or ASSUMED_SPACING_M
    pixels = read_tile(dataset, tile)
    wide, top, left = _with_margin(dataset, tile, pixels, adjacent)
    wide_cells = measure_cells(wide, spacing_m)
    points = [(row + top, col + left) for row, col in airports_rc]
    wide_codes = classify(wide_cells, wide, reference, points)
    north = image_to_ground(tile.transform)
    found = detect_ships(wide, wide_cells, wide_codes, spacing_m, north)
    side = wide_cells.side_px
    first_row, first_col, rows, cols = (
        top // side,
        left // side,
        -(-tile.height // side),
        -(-tile.width // side),
    )
    codes = wide_codes[first_row : first_row + rows, first_col : first_col + cols]
    cells = wide_cells.window(first_row, first_col, rows, cols)
    inside = detections_in_window(found, top, left, tile.height, tile.width)
    return _measure(tile, pixels, reference, airports_rc, cells, codes, inside)


def measure_child_tile(
    dataset: Path,
    tile: CatalogTile,
    outer: PyramidTile,
    reference: SceneReference,
    airports_rc: Sequence[tuple[float, float]],
) -> PyramidTile:
    """Measure a tile inside another one, whose land cover and ships it takes over.

    If the two grids differ, it is measured as a root tile without adjacent ones. The arguments are those of
    `measure_root_tile`; `outer` is its parent.
    """
    offset = offset_in(outer.tile, tile)
    pixels = read_tile(dataset, tile)
    cells = measure_cells(pixels, tile.gsd_m or ASSUMED_SPACING_M)
    codes = None if offset is None else _inherited(outer, offset, cells)
    if offset is None or codes is None:
        return measure_root_tile(dataset, tile, (), reference, airports_rc)
    inside = detections_in_window(outer.found, *offset, tile.height, tile.width)
    return _measure(tile, pixels, reference, airports_rc, cells, codes, inside)


def read_tile(dataset: Path, tile: CatalogTile) -> NDArray[np.uint8]:
    """Return a tile of the catalog, (H, W) uint8, 0 = no data.

    Raises:
        DatasetError: It cannot be read, or does not match the catalog.
    """
    path = dataset / tile.path
    pixels = read_pixels(path)
    if pixels.shape != (tile.height, tile.width) or pixels.dtype != np.uint8:
        raise DatasetError(
            f"the tile {path} is not the one in the catalog (size or type differs): build {dataset} again"
        )
    return pixels


def _measure(
    tile: CatalogTile,
    pixels: NDArray[np.uint8],
    reference: SceneReference,
    airports_rc: Sequence[tuple[float, float]],
    cells: Cells,
    codes: NDArray[np.uint8],
    found: tuple[Detection, ...],
) -> PyramidTile:
    evidence = measure_tile(
        pixels,
        tile.gsd_m,
        transform=tile.transform,
        reference=reference,
        airports_rc=airports_rc,
        cells=cells,
        codes=codes,
        ships=[one.target for one in found],
    )
    return PyramidTile(tile, evidence, codes, cells.side_px, found)


def _margin_px(tile: CatalogTile) -> int:
    """Return the width of the margin: whole cells, so that the tile's cells stay where they are."""
    spacing_m = tile.gsd_m or ASSUMED_SPACING_M
    side = max(1, round(CELL_M / spacing_m))
    return math.ceil(_MARGIN_M / spacing_m / side) * side


def _with_margin(
    dataset: Path, tile: CatalogTile, pixels: NDArray[np.uint8], adjacent: Sequence[AdjacentTile]
) -> tuple[NDArray[np.uint8], int, int]:
    """Return the tile with its margin, and the row and column of the tile in that array.

    A side without an adjacent tile gets no margin, because the border of the scene must not look like no
    data.
    """
    margin = _margin_px(tile)
    top = margin if any(one.row < 0 for one in adjacent) else 0
    left = margin if any(one.col < 0 for one in adjacent) else 0
    bottom = margin if any(one.row + one.tile.height > tile.height for one in adjacent) else 0
    right = margin if any(one.col + one.tile.width > tile.width for one in adjacent) else 0
    wide = np.zeros((top + tile.height + bottom, left + tile.width + right), np.uint8)
    for one in adjacent:
        row, col = one.row + top, one.col + left
        first_row, first_col = max(row, 0), max(col, 0)
        height = min(row + one.tile.height, wide.shape[0]) - first_row
        width = min(col + one.tile.width, wide.shape[1]) - first_col
        if height <= 0 or width <= 0:
            continue
        path = dataset / one.tile.path
        part = read_pixels(path, Window(first_col - col, first_row - row, width, height))
        if part.shape != (height, width):
            raise DatasetError(f"the tile {path} is not the one in the catalog: build {dataset} again")
        into = wide[first_row : first_row + height, first_col : first_col + width]
        np.copyto(into, part, where=into == 0)
    wide[top : top + tile.height, left : left + tile.width] = pixels
    return wide, top, left


def _inherited(outer: PyramidTile, offset: tuple[int, int], cells: Cells) -> NDArray[np.uint8] | None:
    """Cut a tile's land cover out of its parent's; None if the parent does not hold all of it."""
    height, width = outer.codes.shape
    rows, cols = (
        np.floor((start + (np.arange(count) + 0.5) * cells.side_px) / outer.side_px).astype(int)
        for start, count in zip(offset, cells.valid.shape, strict=True)
    )
    # The last cell of a tile may reach over its border by less than a cell.
    if min(rows[0], cols[0]) < 0 or rows[-1] > height or cols[-1] > width:
        return None
    cut = outer.codes[np.ix_(np.minimum(rows, height - 1), np.minimum(cols, width - 1))]
    return np.where(cells.valid, cut, 0).astype(np.uint8)
