"""Linear features: the waterline and its quays, long dark strips, and the prevailing direction of edges.

They are measured on the cells of the land cover and on a copy of the tile reduced to at most 256 pixels a
side, which averages speckle and bounds the cost.
"""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours, regionprops

from fusar_klip.texts.measure.evidence import Strip, Waterline
from fusar_klip.texts.measure.land_cover import (
    COVER_CODES,
    NO_DATA,
    Cells,
    SceneReference,
    block_sum,
    connected,
)

_STRAIGHT_M = 150.0
_MAX_DEVIATION_M = 25.0  # of a straight stretch from its chord
_BEHIND_M = 60.0
_BRIGHT = 1.35
_EDGE_M = 60.0
_STRIP_SIDE = 256
_STRIP_MIN_SHARE = 0.22  # of the tile's side
_STRIP_DARK = 0.75  # of the local mean
_MAX_STRIPS = 8
_DIRECTION_BINS = 36
_DIRECTION_RATIO = 1.6


def waterline(
    codes: NDArray[np.uint8], cells: Cells, reference: SceneReference, north: NDArray[np.float64]
) -> Waterline | None:
    """Measure the boundary of water and land; None if there is no water or no land.

    Args:
        codes: (rows, cols) uint8, classes of the cells.
        cells: Of the same tile.
        reference: Of the tile's scene.
        north: (2, 2) float64, takes (column, row) steps to (east, north) steps.
    """
    water = codes == COVER_CODES["water"]
    if not water.any() or not (~water & (codes != NO_DATA)).any():
        return None
    # Cells without data take the class of the nearest valid cell, so that the border of the data is no shore.
    nearest = ndimage.distance_transform_edt(codes == NO_DATA, return_distances=False, return_indices=True)
    filled = water[tuple(nearest)]
    bright = cells.level > min(_BRIGHT * reference.land_level, 215.0)
    bright &= ~water
    edge = ndimage.binary_dilation(bright, iterations=max(1, round(_EDGE_M / cells.side_m)))
    total = straight = quay = bright_quay = longest = 0.0
    bearing: float | None = None
    for contour in find_contours(filled.astype(np.float32), 0.5):
        corners = approximate_polygon(contour, _MAX_DEVIATION_M / cells.side_m)
        total += float(np.hypot(*np.diff(contour, axis=0).T).sum())
        for start, end in pairwise(corners):
            length = float(np.hypot(*(end - start)))
            if length * cells.side_m < _STRAIGHT_M:
                continue
            straight += length
            rows, cols = _points(start, end)
            if _built_up_behind(codes, start, end, _BEHIND_M / cells.side_m):
                quay += length
                bright_quay += length * float(np.mean(edge[rows, cols]))
            if length > longest:
                longest, bearing = length, _bearing(end - start, north)
    side = cells.side_px
    return Waterline(
        length_px=total * side,
        straight_px=min(straight, total) * side,
        quay_px=min(quay, total) * side,
        bright_px=min(bright_quay, total) * side,
        orientation_deg=bearing,
    )


def dark_strips(
    pixels: NDArray[np.uint8], water: NDArray[np.bool_], north: NDArray[np.float64]
) -> tuple[Strip, ...]:
    """Find long, dark, straight strips on land, longest first, at most `_MAX_STRIPS`.

    Args:
        pixels: (H, W) uint8, 0 = no data.
        water: (H, W) bool, where no strip is searched.
        north: (2, 2) float64, takes (column, row) steps to (east, north) steps.
    """
    reduction = max(1, -(-max(pixels.shape) // _STRIP_SIDE))
    mean, land = _reduced(pixels, water, reduction)
    fine = ndimage.gaussian_filter(mean, 1.0)
    around = _mean_where(mean, land, 21)
    dark = land & (fine < _STRIP_DARK * around)
    labels = connected(dark, diagonal=True)
    least = _STRIP_MIN_SHARE * max(mean.shape)
    strips = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if max(s.stop - s.start for s in box) < least / 2:  # too short whichever way it runs
            continue
        region = regionprops((labels[box] == number).astype(np.uint8))[0]
        length, width = region.axis_major_length, max(region.axis_minor_length, 1.0)
        if length < least or length < 6 * width or region.solidity < 0.35:
            continue
        row, col = ((s.start + c + 0.5) * reduction - 0.5 for s, c in zip(box, region.centroid, strict=True))
        # skimage counts an axis from the row direction, towards the columns.
        step = np.array([math.cos(region.orientation), math.sin(region.orientation)])
        strips.append(Strip(row, col, float(length) * reduction, _bearing(step, north)))
    return tuple(sorted(strips, key=lambda s: (-s.length_px, s.row, s.col))[:_MAX_STRIPS])


def prevailing_direction(
    pixels: NDArray[np.uint8], water: NDArray[np.bool_], north: NDArray[np.float64]
) -> float | None:
    """Return the bearing, 0 to 180, along which most edges on land run, or None if none prevails.

    From the structure tensor: each place votes for the direction across its gradient with its coherence and
    strength; a direction prevails if its 15 degrees hold 1.6 times the share of a uniform distribution.
    """
    reduction = max(1, -(-max(pixels.shape) // _STRIP_SIDE))
    mean, land = _reduced(pixels, water, reduction)
    if land.sum() < 0.1 * land.size:
        return None
    logarithm = np.log(np.maximum(ndimage.gaussian_filter(mean, 1.0), 1.0))
    down, right = np.gradient(logarithm)
    inner = ndimage.binary_erosion(land, iterations=3)
    down_down, right_right, down_right = (
        ndimage.gaussian_filter(product, 2.0) for product in (down * down, right * right, down * right)
    )
    size = np.hypot(right_right - down_down, 2 * down_right)
    across = 0.5 * np.arctan2(2 * down_right, right_right - down_down)  # of the gradient, from the columns
    steps = np.stack([np.cos(across), -np.sin(across)], axis=-1)  # along the edge: (row, column)
    bearings = _bearings(steps, north)[inner]
    weights = np.sqrt(size[inner])
    votes, _ = np.histogram(bearings, _DIRECTION_BINS, (0, 180), weights=weights)
    if votes.sum() == 0:
        return None
    smooth = ndimage.uniform_filter1d(votes / votes.sum() * _DIRECTION_BINS, 3, mode="wrap")
    best = int(np.argmax(smooth))
    if smooth[best] < _DIRECTION_RATIO:
        return None
    return (best + 0.5) * 180 / _DIRECTION_BINS


def _reduced(
    pixels: NDArray[np.uint8], water: NDArray[np.bool_], reduction: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the block means of a tile (0 where nothing is valid), and which blocks are land."""
    count = block_sum(pixels > 0, reduction)
    mean = block_sum(pixels, reduction) / np.maximum(count, 1)
    land = (count >= reduction**2 / 2) & (block_sum(water, reduction) < reduction**2 / 2)
    return mean.astype(np.float32), land


def _mean_where(values: NDArray[np.float32], among: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
    total = ndimage.uniform_filter(values * among, side, mode="constant")
    share = ndimage.uniform_filter(among.astype(np.float32), side, mode="constant")
    return (total / np.maximum(share, 1e-6)).astype(np.float32)


def _points(start: NDArray[np.float64], end: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
    """Return the cells along a stretch, (n,) rows and columns."""
    steps = np.linspace(0, 1, max(2, math.ceil(float(np.hypot(*(end - start))))))
    return tuple(np.rint(start + steps[:, None] * (end - start)).astype(np.int64).T)


def _built_up_behind(
    codes: NDArray[np.uint8], start: NDArray[np.float64], end: NDArray[np.float64], behind: float
) -> bool:
    """Return whether most cells at a distance behind a stretch, on either side, are built-up land."""
    along = (end - start) / np.hypot(*(end - start))
    points = start + np.linspace(0.1, 0.9, 9)[:, None] * (end - start)
    shares = []
    for across in (np.array([-along[1], along[0]]), np.array([along[1], -along[0]])):
        rows, cols = np.rint(points + behind * across).astype(int).T
        inside = (rows >= 0) & (rows < codes.shape[0]) & (cols >= 0) & (cols < codes.shape[1])
        behind_codes = codes[rows[inside], cols[inside]]
        shares.append(float(np.mean(behind_codes == COVER_CODES["built_up"])) if inside.any() else 0.0)
    return max(shares) > 0.5


def _bearing(step: NDArray[np.float64], north: NDArray[np.float64]) -> float:
    return float(_bearings(step, north))


def _bearings(steps: NDArray[np.float64], north: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert (..., 2) steps in (row, column) to bearings of lines, 0 to 180 degrees."""
    row, col = steps[..., 0], steps[..., 1]
    east = north[0, 0] * col + north[0, 1] * row
    up = north[1, 0] * col + north[1, 1] * row
    bearings: NDArray[np.float64] = np.degrees(np.arctan2(east, up)) % 180
    return bearings
