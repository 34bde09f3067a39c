"""Measures one tile: land cover, bright targets, linear features and statistics of the backscatter.

All distances in the algorithms are metres on the ground. If the spacing is not known, 3 m is assumed for
them, and texts state sizes in pixels.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fusar_klip.texts.measure.cfar import APRON_TARGET, SHIP, Detection, detect_targets
from fusar_klip.texts.measure.evidence import Backscatter, Evidence, Target
from fusar_klip.texts.measure.land_cover import (
    APRON_RADIUS_M,
    COVER_CODES,
    NO_DATA,
    Cells,
    SceneReference,
    cell_histograms,
    classify,
    measure_cells,
    near_any,
    scene_reference,
    small_holes,
    summarise_cover,
)
from fusar_klip.texts.measure.linear_features import dark_strips, prevailing_direction, waterline

ASSUMED_SPACING_M = 3.0
_MAX_APRON_TARGET_M2 = 15_000.0  # an aircraft, widened by the smoothing
_RAYLEIGH_CV = 0.5227  # sqrt(4 / pi - 1): coefficient of variation of one-look amplitude


def measure_tile(
    pixels: NDArray[np.uint8],
    gsd_m: float | None,
    *,
    transform: Sequence[float] | None = None,
    reference: SceneReference | None = None,
    airports_rc: Sequence[tuple[float, float]] = (),
    cells: Cells | None = None,
    codes: NDArray[np.uint8] | None = None,
    ships: Sequence[Target] | None = None,
) -> Evidence:
    """Measure one tile.

    Args:
        pixels: (H, W) uint8 amplitude, 0 = no data.
        gsd_m: Ground spacing of a pixel in metres; None = not known.
        transform: Six floats a to f, rasterio's order, of a projected CRS; None: orientations count from the
            tile's upper edge.
        reference: The levels of the tile's scene; None: the tile is its own scene.
        airports_rc: Row and column of airports' reference points in or near the tile.
        cells: The tile's cells; None: they are computed here.
        codes: The land cover of the tile's cells, (rows, cols) uint8, such as one cut from
            a larger tile's; None: it is classified here.
        ships: The targets on water, such as those of a larger tile; None: they are detected here.
    """
    spacing_m = gsd_m or ASSUMED_SPACING_M
    cells = cells or measure_cells(pixels, spacing_m)
    if reference is None:
        reference = scene_reference(cell_histograms(cells))
    if codes is None:
        codes = classify(cells, pixels, reference, airports_rc)
    north = image_to_ground(transform)
    if ships is None:
        ships = [one.target for one in detect_ships(pixels, cells, codes, spacing_m, north)]
    parked = _apron_targets(pixels, cells, codes, spacing_m, north, airports_rc)
    water = _cells_to_pixels(codes == COVER_CODES["water"], cells, pixels.shape)
    return Evidence(
        height=pixels.shape[0],
        width=pixels.shape[1],
        gsd_m=gsd_m,
        north_known=transform is not None,
        valid_fraction=float(np.mean(pixels > 0)),
        airfield=bool(airports_rc),
        backscatter=_backscatter(pixels, cells, reference),
        cover=summarise_cover(codes, cells, reference),
        targets=tuple(sorted([*ships, *parked], key=lambda t: (t.row, t.col))),
        waterline=waterline(codes, cells, reference, north),
        strips=dark_strips(pixels, water, north),
        dominant_deg=prevailing_direction(pixels, water, north),
    )


def detect_ships(
    pixels: NDArray[np.uint8],
    cells: Cells,
    codes: NDArray[np.uint8],
    spacing_m: float,
    north: NDArray[np.float64],
) -> list[Detection]:
    """Detect the bright targets on water, by row.

    Args:
        pixels: (H, W) uint8 amplitude, 0 = no data.
        cells: Of the same pixels.
        codes: (rows, cols) uint8, their land cover.
        spacing_m: Ground spacing of a pixel, metres.
        north: As `image_to_ground` gives it.
    """
    return detect_targets(
        pixels, _cells_to_pixels(codes == COVER_CODES["water"], cells, pixels.shape), spacing_m, SHIP, north
    )


def _apron_targets(
    pixels: NDArray[np.uint8],
    cells: Cells,
    codes: NDArray[np.uint8],
    spacing_m: float,
    north: NDArray[np.float64],
    airports_rc: Sequence[tuple[float, float]],
) -> list[Target]:
    """Detect the compact targets on dark ground near an airport."""
    if not airports_rc:
        return []
    apron = codes == COVER_CODES["smooth"]
    apron |= small_holes(apron | (codes == NO_DATA), _MAX_APRON_TARGET_M2 / cells.side_m**2)
    apron &= near_any(airports_rc, APRON_RADIUS_M, cells)
    found = detect_targets(
        pixels, _cells_to_pixels(apron, cells, pixels.shape), spacing_m, APRON_TARGET, north
    )
    return [one.target for one in found]


def image_to_ground(transform: Sequence[float] | None) -> NDArray[np.float64]:
    """Return the (2, 2) matrix that converts (column, row) steps to (east, north) steps, both in pixels."""
    if transform is None:
        return np.array([[1.0, 0.0], [0.0, -1.0]])
    a, b, _, d, e, _ = transform[:6]
    return np.array([[a, b], [d, e]]) / math.hypot(a, d)


def _cells_to_pixels(
    cells_mask: NDArray[np.bool_], cells: Cells, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return a mask of cells as one of pixels, (H, W)."""
    pixels = cells_mask.repeat(cells.side_px, axis=0).repeat(cells.side_px, axis=1)
    return pixels[: shape[0], : shape[1]]


def _backscatter(pixels: NDArray[np.uint8], cells: Cells, reference: SceneReference) -> Backscatter:
    counts = np.bincount(pixels.ravel(), minlength=256).astype(np.float64)
    counts[NO_DATA] = 0
    total = counts.sum()
    if total == 0:
        return Backscatter(0.0, 0.0, 0.0, 0.0, 0.0, (0.0,) * 9)
    share = counts / total
    levels = np.arange(256)
    mean = float(share @ levels)
    cv = math.sqrt(max(float(share @ levels**2) - mean**2, 0.0)) / mean
    calm = float(np.percentile(cells.cv[cells.valid], 10)) if cells.valid.any() else cv
    used = share[share > 0]
    return Backscatter(
        mean=mean,
        cv=cv,
        enl=(_RAYLEIGH_CV / max(calm, 0.01)) ** 2,
        entropy_bits=max(0.0, float(-(used * np.log2(used)).sum())),
        relative_level=mean / reference.land_level,
        by_region=tuple(
            float(region[region != NO_DATA].mean()) if np.mean(region != NO_DATA) > 0.5 else 0.0
            for band in np.array_split(pixels, 3, axis=0)
            for region in np.array_split(band, 3, axis=1)
        ),
    )
