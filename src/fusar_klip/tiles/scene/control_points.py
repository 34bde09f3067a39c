"""Fits a smooth map between the pixels of a scene and the ground to its ground control points.

The candidates are polynomials of order 1 to 3 and a thin-plate spline. The one with the smallest
leave-one-out error is used; residuals would not do, because those of a spline are zero. GDAL warps by the
same maps, fitted to the same points, so the reported errors are those of the tiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rasterio.control import GroundControlPoint
from scipy.spatial import Delaunay, QhullError

from fusar_klip.errors import SceneError

Floats = NDArray[np.float64]

THIN_PLATE_SPLINE = 0
"""The "order" of a thin-plate spline."""
_TERMS = {1: 3, 2: 6, 3: 10}
# A spline costs a term per point at each evaluated pixel, and the cube of their number to fit.
_MAX_SPLINE_POINTS = 1000
# Errors that differ by a fiftieth of a pixel are no reason to prefer a map that costs four times the time.
_TIE_PX = 0.02
_TIE = 0.01
# Triangles flatter than this (area over the square of the longest side) have no reliable sense of rotation.
_FLAT = 0.01
# Points that miss their neighbours' map by this share of the scene's longer side are no measurements of it.
_MAX_ERROR = 0.1
# Where a point's leverage is 1, nothing is known of the map without it.
_NO_SPARE = 1e-9


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class SmoothMap:
    """A smooth map of the plane: a polynomial, or a thin-plate spline through its points.

    Attributes:
        order: Order of the polynomial, or `THIN_PLATE_SPLINE`.
        centre: (2,) subtracted from the points before anything else, for the sake of the numerics.
        scale: What the differences are divided by.
        knots: (N, 2) the spline's points, centred and scaled.
        coefficients: (terms, 2).
    """

    order: int
    centre: Floats
    scale: float
    knots: Floats
    coefficients: Floats

    def __call__(self, points: ArrayLike) -> Floats:
        """Map (..., 2) points to (..., 2) points."""
        points = np.asarray(points, np.float64)
        flat = (points.reshape(-1, 2) - self.centre) / self.scale
        mapped: Floats = (_terms(flat, self.order, self.knots) @ self.coefficients).reshape(points.shape)
        return mapped


@dataclass(frozen=True)
class ControlPointFit:
    """The chosen maps, both ways, and how well they fit.

    Attributes:
        order: Order of the polynomials, or `THIN_PLATE_SPLINE`.
        to_ground: (col, row) in pixels, 0 = outer corner of the first one, to map coordinates.
        to_pixel: The way back, which GDAL takes to find the pixel for each place.
        residual_rms_px: Root mean square distance of the points from where `to_pixel` puts them.
        leave_one_out_px: The same with each point left out of the fit that it is compared with; None
            where the fit does not stand without one of them, as with three points.
    """

    order: int
    to_ground: SmoothMap
    to_pixel: SmoothMap
    residual_rms_px: float
    leave_one_out_px: float | None


def pixels_and_ground(points: Sequence[GroundControlPoint], name: str) -> tuple[Floats, Floats]:
    """Return (N, 2) columns and rows and (N, 2) x and y of distinct points.

    Raises:
        SceneError: There are fewer than three, they are not finite, or two of them contradict each other.
    """
    table = np.unique([(p.col, p.row, p.x, p.y) for p in points], axis=0).reshape(-1, 4)
    fix = "correct them, for example with gdal_translate -gcp"
    if not np.isfinite(table).all():
        raise SceneError(f"{name} has ground control points that are not finite: {fix}")
    if len(table) < 3:
        raise SceneError(
            f"{name} has {len(table)} distinct ground control points, and at least three are needed: {fix}"
        )
    pixels, ground = table[:, :2], table[:, 2:]
    for positions in (pixels, ground):
        if len(np.unique(positions, axis=0)) < len(table):
            raise SceneError(f"{name} has ground control points that contradict each other: {fix}")
    return pixels, ground


def refuse_folds(pixels: Floats, ground: Floats, name: str) -> None:
    """Check that neighbouring control points keep their sense of rotation from image to ground.

    Args:
        pixels: (N, 2) positions in the image.
        ground: (N, 2) positions on the ground, in a map projection.
        name: The scene's name in messages.

    Raises:
        SceneError: They lie on one line, or the image would fold over.
    """
    fix = "correct or leave out the wrong ones, for example with gdal_translate -gcp"
    try:
        triangles = Delaunay(pixels).simplices
    except QhullError as error:
        raise SceneError(f"{name} has ground control points on one line: {fix}") from error
    in_image, shape = _signed_areas(pixels[triangles])
    on_ground, _ = _signed_areas(ground[triangles])
    scale = on_ground.sum() / in_image.sum() if in_image.sum() else 0.0
    relative = on_ground / np.where(in_image * scale == 0, np.nan, in_image * scale)
    folded = (shape > _FLAT) & ~(relative > 0)
    if folded.any():
        col, row = pixels[triangles[folded][0]].mean(axis=0)
        raise SceneError(
            f"{name} has ground control points that fold over near row {row:.0f}, column {col:.0f}: {fix}"
        )


def fit_control_points(pixels: Floats, ground: Floats, height: int, width: int, name: str) -> ControlPointFit:
    """Choose and fit the map that has the smallest leave-one-out error and does not fold inside the scene.

    Args:
        pixels: (N, 2) columns and rows.
        ground: (N, 2) map coordinates.
        height: Rows of the scene.
        width: Columns of the scene.
        name: The scene's name in messages.

    Raises:
        SceneError: No map fits them.
    """
    refuse_folds(pixels, ground, name)
    fits = [fit for order in _orders(len(pixels)) if (fit := _fit_both_ways(pixels, ground, order))]
    fits = [fit for fit in fits if not folds(fit.to_ground, height, width)]
    if not fits:
        raise SceneError(
            f"{name} has ground control points whose map folds over inside the scene: give it points that "
            "cover the scene evenly, for example with gdal_translate -gcp"
        )
    known = [(fit.leave_one_out_px, fit) for fit in fits if fit.leave_one_out_px is not None]
    best = fits[0]
    if known:
        least = min(error for error, _ in known)
        as_good = [fit for error, fit in known if error <= least * (1 + _TIE) + _TIE_PX]
        # Of two that foretell as well, as with four corners, the one that goes through its points.
        best = min(as_good, key=lambda fit: (round(fit.residual_rms_px, 2), fit.order or 4))
    if (best.leave_one_out_px or 0.0) > _MAX_ERROR * max(height, width):
        raise SceneError(
            f"{name} has ground control points that do not fit together (leave-one-out error "
            f"{best.leave_one_out_px:.0f} px): correct them, for example with gdal_translate -gcp"
        )
    return best


def folds(to_ground: SmoothMap, height: int, width: int) -> bool:
    """Tell whether the Jacobian of a map changes its sign, or vanishes, inside of a scene."""
    cols, rows = np.meshgrid(np.linspace(0, width, 65), np.linspace(0, height, 65))
    return jacobian_changes_sign(to_ground(np.stack([cols, rows], axis=-1)))


def jacobian_changes_sign(grid: Floats) -> bool:
    """Tell it from (rows, cols, 2) map coordinates of a regular grid of pixels."""
    across, down = np.diff(grid, axis=1)[:-1], np.diff(grid, axis=0)[:, :-1]
    determinant = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    return not bool((determinant > 0).all() or (determinant < 0).all())


def _orders(points: int) -> list[int]:
    """Return the maps that so many points allow: with a point to spare, for a leave-one-out error."""
    if points == _TERMS[1]:
        return [1]
    orders = [order for order, terms in _TERMS.items() if points > terms]
    return [*orders, THIN_PLATE_SPLINE] if points <= _MAX_SPLINE_POINTS else orders


def _fit_both_ways(pixels: Floats, ground: Floats, order: int) -> ControlPointFit | None:
    """Fit one kind of map; None where the points do not determine it."""
    try:
        to_ground, missed, _ = _fit(pixels, ground, order)
        to_pixel, residuals, left_out = _fit(ground, pixels, order)
    except np.linalg.LinAlgError:
        return None
    # A spline goes through its points, or its equations were too near to singular.
    exact = _rms(missed) <= 1e-6 * to_pixel.scale and _rms(residuals) <= 1e-6 * to_ground.scale
    if order == THIN_PLATE_SPLINE and not exact:
        return None
    error = None if left_out is None else _rms(left_out)
    return ControlPointFit(order, to_ground, to_pixel, _rms(residuals), error)


def _fit(start: Floats, end: Floats, order: int) -> tuple[SmoothMap, Floats, Floats | None]:
    """Fit a map from `start` to `end`, (N, 2) each; return it, its residuals and leave-one-out errors.

    The errors are None where the fit does not stand without one of the points.
    """
    centre = start.mean(axis=0)
    scale = float(np.abs(start - centre).max())
    knots = (start - centre) / scale
    terms = _terms(knots, order, knots)
    if order != THIN_PLATE_SPLINE:
        coefficients: Floats = np.linalg.lstsq(terms, end, rcond=None)[0].astype(np.float64)
        residuals = end - terms @ coefficients
        spare = 1 - (np.linalg.qr(terms)[0] ** 2).sum(axis=1, keepdims=True)
        left_out = residuals / spare if spare.min() > _NO_SPARE else None
        return SmoothMap(order, centre, scale, knots[:0], coefficients), residuals, left_out
    # The spline's weights bend it through the points, and carry no plane of their own.
    count, planes = len(knots), terms[:, len(knots) :]
    inverse = np.linalg.inv(np.block([[terms], [planes.T, np.zeros((3, 3))]]))
    coefficients = np.asarray(inverse[:, :count] @ end, np.float64)
    # Rippa (1999): the error at a point left out is its weight over the diagonal of the inverse.
    diagonal = np.diag(inverse)[:count, None]
    left_out = coefficients[:count] / diagonal if np.abs(diagonal).min() > _NO_SPARE else None
    return SmoothMap(order, centre, scale, knots, coefficients), end - terms @ coefficients, left_out


def _terms(points: Floats, order: int, knots: Floats) -> Floats:
    """Return (N, terms) values of the map's terms at (N, 2) points."""
    x, y = points[:, 0], points[:, 1]
    if order == THIN_PLATE_SPLINE:
        squared = ((points[:, None] - knots) ** 2).sum(axis=-1)
        bending = squared * np.log(np.maximum(squared, np.finfo(np.float64).tiny))
        return np.column_stack([bending, np.ones_like(x), x, y])
    return np.stack([x ** (n - k) * y**k for n in range(order + 1) for k in range(n + 1)], axis=1)


def _signed_areas(triangles: Floats) -> tuple[Floats, Floats]:
    """Return twice the signed areas of (N, 3, 2) triangles, and their size over the longest side squared."""
    first, second = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    areas: Floats = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    sides = ((triangles - np.roll(triangles, 1, axis=1)) ** 2).sum(axis=-1).max(axis=1)
    return areas, np.abs(areas) / sides


def _rms(errors: Floats) -> float:
    return float(np.sqrt((errors**2).sum(axis=1).mean()))
