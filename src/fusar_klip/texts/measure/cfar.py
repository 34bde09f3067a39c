"""Detects bright targets on a dark surface by cell-averaging CFAR, joins fragments, and measures each target.

The surface must be dark and smooth: water, or aprons and runways at an airport. Lengths are those of the
bright
return: layover and side lobes lengthen it a little, weak bows and sterns shorten it a little. Long thin lines
(breakwaters, wakes, seams) and faint spots are rejected.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fusar_klip.texts.measure.evidence import Target, TargetSetting
from fusar_klip.texts.measure.land_cover import block_sum, connected

_MIN_SPACING_M = 1.0  # finer tiles are reduced first: 1 m is enough to measure ships and aircraft
_BACKGROUND_M = 700.0
_GUARD_M = 300.0  # longer than most ships, so that a ship is not part of its own background
_CLUTTER_CLIP = 3.0  # standard deviations above which a pixel is no clutter
_NEAR_SHORE_M = 150.0
_ALONGSIDE_M = 40.0
_COARSE_M = 5.0
_JOIN_OFFSHORE_M = 60.0


@dataclass(frozen=True)
class TargetClass:
    """Criteria of a target.

    Attributes:
        join_m: Fragments closer than this belong to one target.
        min_length_m: Shorter ones are speckle or buoys.
        max_length_m: Longer ones are breakwaters, quays or buildings.
        min_width_m: Narrower ones are fences, edges of roofs, or single bright points.
        max_width_m: Wider ones are islands or buildings.
        min_contrast: Smallest ratio of the mean over the background's.
        small_m: Shorter targets (at a spacing under 5 m), and all at the land's edge, must have
            `small_contrast`: buoys, breaking waves and the fringes of land have less.
        small_contrast: Smallest ratio of a small target.
        blurred_m: Shorter targets need only `blurred_contrast` at a spacing of 5 m and more and away from
            land: a few pixels are mostly blur. Longer faint ones are breakwaters.
        blurred_contrast: Smallest ratio of a blurred target.
        bridge_contrast: Up to twice `blurred_m`, targets whose brightest pixel has this ratio count as
            blurred ones: a ship's bridge stands out of a weak hull, and nothing out of a wake.
    """

    join_m: float
    min_length_m: float
    max_length_m: float
    min_width_m: float
    max_width_m: float
    min_contrast: float
    small_m: float
    small_contrast: float
    blurred_m: float
    blurred_contrast: float
    bridge_contrast: float


SHIP = TargetClass(
    join_m=12.0,
    min_length_m=12.0,
    max_length_m=480.0,
    min_width_m=0.0,
    max_width_m=130.0,
    min_contrast=3.45,
    small_m=30.0,
    small_contrast=6.0,
    blurred_m=150.0,
    blurred_contrast=2.5,
    bridge_contrast=5.25,
)
APRON_TARGET = TargetClass(
    join_m=10.0,
    min_length_m=8.0,
    max_length_m=85.0,
    min_width_m=8.0,  # the span of the smallest aircraft
    max_width_m=80.0,
    min_contrast=2.5,
    small_m=8.0,
    small_contrast=2.5,
    blurred_m=0.0,
    blurred_contrast=2.5,
    bridge_contrast=5.25,
)


@dataclass(frozen=True)
class Detection:
    """A target and its bounding box in pixels: top <= row < bottom, left <= col < right."""

    target: Target
    top: int
    left: int
    bottom: int
    right: int


def detections_in_window(
    found: Iterable[Detection], top: int, left: int, height: int, width: int
) -> tuple[Detection, ...]:
    """Return the targets whose centre lies in a window, in the window's pixels.

    A target that the window cuts keeps its whole length, and has `touches_edge` set.
    """
    inside = []
    for one in found:
        row, col = one.target.row - top, one.target.col - left
        if not (-0.5 <= row < height - 0.5 and -0.5 <= col < width - 0.5):
            continue
        box = (one.top - top, one.left - left, one.bottom - top, one.right - left)
        cut = box[0] < 0 or box[1] < 0 or box[2] > height or box[3] > width
        target = replace(one.target, row=row, col=col, touches_edge=one.target.touches_edge or cut)
        inside.append(Detection(target, *box))
    return tuple(inside)


def detect_targets(
    pixels: NDArray[np.uint8],
    surface: NDArray[np.bool_],
    spacing_m: float,
    kind: TargetClass,
    north: NDArray[np.float64],
) -> list[Detection]:
    """Detect the bright targets on `surface`.

    Args:
        pixels: (H, W) uint8, 0 = no data.
        surface: (H, W) bool, the dark surface including its targets (holes filled).
        spacing_m: Ground spacing of a pixel, metres.
        kind: Criteria of a target.
        north: (2, 2) float64, converts (column, row) steps to (east, north) steps.

    Returns:
        The targets by row, then column of their centres; sizes in pixels of the tile.
    """
    reduction = max(1, int(_MIN_SPACING_M / spacing_m))
    spacing_m *= reduction
    valid = block_sum(pixels > 0, reduction) >= reduction**2 / 2
    values = block_sum(pixels, reduction) / np.float32(reduction**2)
    on = surface[::reduction, ::reduction] & valid
    if on.sum() * spacing_m**2 < kind.join_m**2:
        return []
    smooth, excess, background = _cfar_excess(values, on, spacing_m)
    land_m = np.full(on.shape, np.inf)
    if not (on | ~valid).all():
        land_m = ndimage.distance_transform_edt(on | ~valid) * spacing_m
    body = _target_pixels(smooth, excess, background) & on
    parts = _label_with_gaps(body, kind.join_m, spacing_m)
    joined = _join_parts(parts, land_m > _NEAR_SHORE_M, spacing_m, kind)
    found = []
    for number, box in enumerate(ndimage.find_objects(joined), start=1):
        if box is None:
            continue
        body = joined[box] == number
        to_land_m = float(land_m[box][body].min())
        target = _measure_body(
            body * parts[box], values[box], background[box], north, spacing_m, kind, to_land_m
        )
        if target is None:
            continue
        rows, cols = (slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        inside = all(s.start > 0 and s.stop < side for s, side in zip(box, on.shape, strict=True))
        touches = not inside or not bool(valid[rows, cols].all())
        found.append(_in_tile_pixels(target, box, reduction, _setting(to_land_m, kind), touches_edge=touches))
    return sorted(found, key=lambda one: (one.target.row, one.target.col))


def _cfar_excess(
    values: NDArray[np.float32], on: NDArray[np.bool_], spacing_m: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return the 3 x 3 mean, its excess over the background in standard deviations, and the background.

    The background of a pixel is the mean over a frame of 700 m around a guard of 300 m (cell-averaging CFAR),
    of clutter only. A single pixel with a larger excess (small ships at
    coarse spacing) counts with its own excess over the unsmoothed standard deviation.
    """
    smooth = ndimage.uniform_filter(values, 3, mode="nearest")
    clutter = on & (smooth < _clip(smooth[on]))
    mean, std = _frame_moments(smooth, clutter, spacing_m)
    _, std_raw = _frame_moments(values, clutter, spacing_m)
    excess = np.maximum((smooth - mean) / std, 0.7 * (values - mean) / std_raw)
    return smooth, np.where(on, excess, 0).astype(np.float32), mean


def _clip(values: NDArray[np.float32]) -> float:
    """Return the level above which pixels are no clutter, by repeated three-sigma clipping."""
    for _ in range(5):
        clip = float(values.mean() + _CLUTTER_CLIP * values.std())
        values = values[values <= clip]
    return clip + 1e-3


def _frame_moments(
    values: NDArray[np.float32], among: NDArray[np.bool_], spacing_m: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation of the values in `among` over the frame around each pixel."""
    # The background changes slowly: blocks of a twelfth of the guard are fine enough for it.
    block = max(1, int(_GUARD_M / 12 / spacing_m))
    outer, inner = (max(3, round(m / spacing_m / block / 2) * 2 + 1) for m in (_BACKGROUND_M, _GUARD_M))

    def frame(array: NDArray[np.float32]) -> NDArray[np.float32]:
        sums = block_sum(array, block)
        big = ndimage.uniform_filter(sums, outer, mode="constant") * outer**2
        small = ndimage.uniform_filter(sums, inner, mode="constant") * inner**2
        return (big - small).astype(np.float32)

    weight = among.astype(np.float32)
    n = frame(weight)
    enough = n > 0.02 * (outer * block) ** 2
    chosen = values[among]
    mean = np.where(enough, frame(values * weight) / np.maximum(n, 1), chosen.mean())
    square = frame(values**2 * weight) / np.maximum(n, 1)
    std = np.where(enough, np.sqrt(np.maximum(square - mean**2, 0)), chosen.std())
    # Rounding to 8 bits: the standard deviation is at least half a grey level.
    std = np.maximum(std, 0.5)
    height, width = values.shape
    mean, std = (
        a.repeat(block, axis=0).repeat(block, axis=1)[:height, :width].astype(np.float32) for a in (mean, std)
    )
    return mean, std


def _target_pixels(
    smooth: NDArray[np.float32], excess: NDArray[np.float32], background: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Return the pixels of targets: strong seeds grown to their surroundings, without side lobes."""
    labels = connected(excess > 4.0, diagonal=True)
    count = int(labels.max(initial=0))
    if count == 0:
        return np.zeros(labels.shape, bool)
    inside = np.flatnonzero(labels)
    peaks, strongest = np.full(count + 1, np.inf), np.zeros(count + 1)
    peaks[1:] = 0
    np.maximum.at(peaks, labels.flat[inside], smooth.flat[inside])
    np.maximum.at(strongest, labels.flat[inside], excess.flat[inside])
    seeded = strongest > 7.0
    # Side lobes and ghosts lie 13 dB or more under the peak: a quarter in amplitude.
    floor = background + 0.25 * (peaks[labels] - background)
    body: NDArray[np.bool_] = seeded[labels] & (smooth > floor)
    return body


def _join_parts(
    parts: NDArray[np.int32], open_water: NDArray[np.bool_], spacing_m: float, kind: TargetClass
) -> NDArray[np.int32]:
    """Return the labels of targets, joined from parts.

    At coarse spacing a ship fades between bridge and bow, and ships on open water are farther apart.
    """
    if spacing_m < _COARSE_M or kind is not SHIP:
        return parts
    offshore = (parts > 0) & ~np.isin(parts, np.unique(parts[(parts > 0) & ~open_water]))
    further = _label_with_gaps(offshore, _JOIN_OFFSHORE_M, spacing_m)
    return np.where(offshore, further + parts.max(initial=0), parts).astype(np.int32)


def _label_with_gaps(body: NDArray[np.bool_], within_m: float, spacing_m: float) -> NDArray[np.int32]:
    """Label the connected areas of a mask; areas closer than `within_m` get the same label."""
    reach = max(1, round(within_m / spacing_m / 2))
    disk = np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1]) <= reach + 0.5
    return connected(ndimage.binary_dilation(body, disk), diagonal=True) * body


def _measure_body(
    parts: NDArray[np.int32],
    values: NDArray[np.float32],
    background: NDArray[np.float32],
    north: NDArray[np.float64],
    spacing_m: float,
    kind: TargetClass,
    to_land_m: float,
) -> tuple[float, float, float, float, float | None, float] | None:
    """Return row, column, length, width, orientation and contrast of a body; None if it is no target.

    `parts` has the labels of its parts, 0 around it; one part with enough contrast suffices.
    """
    mask = parts > 0
    rows, cols = np.nonzero(mask)
    if len(rows) < 2:
        return None
    weights = values[mask].astype(np.float64)
    points = np.stack([cols, rows], axis=1).astype(np.float64)
    centre = np.average(points, axis=0, weights=weights)
    # A pixel has a width of 1 and a second moment of 1/12; a rod of length l has l^2 / 12 along its axis.
    # Moments, unlike extents, hardly depend on the thin cross of side lobes.
    moments = np.cov((points - centre).T, aweights=weights, bias=True) + np.eye(2) / 12
    spreads, axes = np.linalg.eigh(moments)
    width, length = (float(side) for side in np.sqrt(12 * spreads))
    base = max(float(background[mask].mean()), 1.0)
    contrast = float(values[mask].mean()) / base
    # The 8-bit mapping may clip before the contrast is reached, so a bright sea requires less.
    small = length * spacing_m < kind.small_m and spacing_m < _COARSE_M
    fringe = small or to_land_m <= _ALONGSIDE_M
    required = kind.small_contrast if fringe else kind.min_contrast
    if spacing_m >= _COARSE_M and to_land_m > _NEAR_SHORE_M:
        bridge = float(values[mask].max()) / base >= kind.bridge_contrast
        if length * spacing_m < kind.blurred_m * (2 if bridge else 1):
            required = kind.blurred_contrast
    threshold = min(required, 0.75 * 255 / base)
    thin_line = length > 12 * width and length * spacing_m > 150
    if not kind.min_length_m <= length * spacing_m <= kind.max_length_m:
        return None
    if not kind.min_width_m <= width * spacing_m <= kind.max_width_m:
        return None
    brightest = float(np.max(ndimage.mean(values, parts, np.unique(parts[mask])))) / base
    if brightest < threshold or thin_line:
        return None
    orientation = None
    if spreads[1] > 2.0 * spreads[0] and length >= 3:
        east, up = north @ axes[:, 1]
        orientation = float(np.degrees(np.arctan2(east, up)) % 180)
    return float(centre[1]), float(centre[0]), length, width, orientation, contrast


def _in_tile_pixels(
    body: tuple[float, float, float, float, float | None, float],
    box: tuple[slice, ...],
    reduction: int,
    setting: TargetSetting,
    *,
    touches_edge: bool,
) -> Detection:
    """Convert a body from the reduced pixels of its box to the pixels of the tile."""
    row, col, length, width, orientation_deg, contrast = body
    target = Target(
        row=(box[0].start + row + 0.5) * reduction - 0.5,
        col=(box[1].start + col + 0.5) * reduction - 0.5,
        length_px=length * reduction,
        width_px=width * reduction,
        orientation_deg=orientation_deg,
        contrast=contrast,
        setting=setting,
        touches_edge=touches_edge,
    )
    rows, cols = box
    return Detection(target, *(side * reduction for side in (rows.start, cols.start, rows.stop, cols.stop)))


def _setting(land_m: float, kind: TargetClass) -> TargetSetting:
    if kind is APRON_TARGET:
        return "dark_ground"
    if land_m <= _ALONGSIDE_M:
        return "alongside"
    return "near_shore" if land_m <= _NEAR_SHORE_M else "open_water"
