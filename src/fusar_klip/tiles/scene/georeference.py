"""Georeference of a scene: its own map grid, or one that it is warped to by control points, RPCs or degrees.

A scene with a projected CRS keeps its grid, south-up and rotated ones included. All others are warped to the
UTM zone of their centre (UPS beyond 84 degrees north and 80 south) at their own ground spacing. Without a
height model, terrain is not corrected.
"""

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import ArrayLike, NDArray
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError
from rasterio._err import CPLE_BaseError  # GDAL's errors in transformers, which rasterio does not wrap
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioError, TransformWarning
from rasterio.io import DatasetReader
from rasterio.rpc import RPC
from rasterio.transform import RPCTransformer

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene import warp
from fusar_klip.tiles.scene.control_points import (
    THIN_PLATE_SPLINE,
    ControlPointFit,
    fit_control_points,
    jacobian_changes_sign,
    pixels_and_ground,
)
from fusar_klip.tiles.scene.products import Source
from fusar_klip.tiles.settings import SceneSettings

Floats = NDArray[np.float64]
ToLonLat = Callable[[Floats, Floats], tuple[Floats, Floats]]

WGS84 = Geod(ellps="WGS84")
_GRID = 65
# A scene turned by 45 degrees fills half of its bounding box, a strip ten times as long as wide a sixth.
_MAX_GROWTH = 50
# RPCs are fitted to their image: normalised image coordinates end at 1 there.
_MAX_NORMALISED = 1.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Geocoding:
    """How a scene without a projected CRS came to its map grid.

    Attributes:
        method: "gcps", "rpcs", or "degrees" for a raster in longitude and latitude.
        order: Order of the polynomial, or "tps" for a thin-plate spline; None without control points.
        points: Distinct control points.
        residual_rms_px: Root mean square distance of the control points from where the fit puts them, in
            pixels of the file.
        leave_one_out_px: The same with each point left out of the fit that it is compared with.
        height_m: The one height above the ellipsoid that RPCs were evaluated at.
        dem: File name of the height model.
        terrain_corrected: Whether a height model was used here; None for "degrees": the maker knows.
    """

    method: Literal["gcps", "rpcs", "degrees"]
    order: int | str | None = None
    points: int | None = None
    residual_rms_px: float | None = None
    leave_one_out_px: float | None = None
    height_m: float | None = None
    dem: str | None = None
    terrain_corrected: bool | None = False


@dataclass(frozen=True)
class Georeference:
    """The grid that a scene's tiles are cut on.

    Attributes:
        crs: Projected CRS; None for a scene without geo-reference that is cut by pixels.
        transform: Pixel to CRS, rasterio's order; metres from the upper left corner where there is no CRS.
        height: Rows.
        width: Columns.
        geocoding: How the scene was warped; None where the file has this grid itself.
        transformer: GDAL's description of the warp (see `warp`), where there is one.
        fit: The control points' fit, where there is one.
    """

    crs: CRS | None
    transform: Affine
    height: int
    width: int
    geocoding: Geocoding | None = None
    transformer: str | None = None
    fit: ControlPointFit | None = None

    def to_lonlat(self, cols: ArrayLike, rows: ArrayLike) -> tuple[Floats, Floats]:
        """Return longitude and latitude (WGS84, degrees) of pixel positions (0, 0 = upper left corner).

        NaN where there is no CRS; infinite where the CRS does not reach.
        """
        cols, rows = np.broadcast_arrays(np.asarray(cols, np.float64), np.asarray(rows, np.float64))
        if self.crs is None:
            return np.full(cols.shape, np.nan), np.full(cols.shape, np.nan)
        lon, lat = _transformer(self.crs, CRS.from_epsg(4326)).transform(
            *apply_transform(self.transform, cols, rows)
        )
        return np.asarray(lon), np.asarray(lat)

    def ground_spacing_m(self, cols: ArrayLike, rows: ArrayLike) -> Floats:
        """Return the geometric mean of the two ground spacings at pixel positions, in metres (WGS84).

        A pixel of 10 m in World Mercator at Los Angeles is 8.3 m on the ground: the CRS's own unit says
        nothing of the ground away from its line of true scale.
        """
        cols, rows = np.asarray(cols, np.float64), np.asarray(rows, np.float64)
        if self.crs is None:
            return np.full(np.broadcast(cols, rows).shape, self.transform.a)
        lon, lat = self.to_lonlat(cols, rows)
        along_row = WGS84.inv(lon, lat, *self.to_lonlat(cols + 1, rows))[2]
        along_col = WGS84.inv(lon, lat, *self.to_lonlat(cols, rows + 1))[2]
        spacing: Floats = np.sqrt(np.asarray(along_row) * np.asarray(along_col))
        return spacing


def locate(raster: DatasetReader, source: Source, settings: SceneSettings, name: str) -> Georeference:
    """Find out where an open raster lies: by its product's metadata, else its CRS, RPCs or control points.

    Raises:
        SceneError: It lies nowhere, or what places it is damaged.
    """
    # Control points that a product's metadata gives are finer than the raster's own tags (NITF's are whole
    # seconds); its RPCs are those of the image before it was geocoded.
    placed = not source.gcps and raster.crs is not None and raster.transform != Affine.identity()
    rpcs = None if placed else source.rpcs or (None if source.gcps else raster.rpcs)
    if settings.dem and not rpcs:
        log.warning("%s is not placed by RPCs, so scene.dem does not correct it for terrain", name)
    if placed:
        return _by_transform(raster, name)
    if rpcs:
        return _by_rpcs(raster, rpcs, settings, name)
    gcps, gcps_crs = (source.gcps, CRS.from_epsg(4326)) if source.gcps else raster.gcps
    if gcps:
        return _by_gcps(raster, list(gcps), gcps_crs, name)
    if settings.gsd_m is not None:
        spacing = Affine.scale(settings.gsd_m, -settings.gsd_m)
        return Georeference(None, spacing, raster.height, raster.width)
    known = math.sqrt(math.prod(source.gsd_m)) if source.gsd_m else 1.0
    has = "a CRS but no transform" if raster.crs is not None else "no geo-reference, no CRS with a transform"
    raise SceneError(
        f"{name} has {has}, no control points and no RPCs: give it one, for example "
        f"with gdal_edit or its .rpc file, or cut it by pixels with --set scene.gsd_m={known:.3g}"
    )


def map_crs(lon: float, lat: float) -> CRS:
    """Return the UTM zone of a place, or UPS beyond 84 degrees north and 80 south (WGS84)."""
    if lat > 84:
        return CRS.from_epsg(5041)
    if lat < -80:
        return CRS.from_epsg(5042)
    zone = min(int(((lon + 180) % 360) // 6) + 1, 60)
    return CRS.from_epsg((32600 if lat >= 0 else 32700) + zone)


def _by_transform(raster: DatasetReader, name: str) -> Georeference:
    fix = "correct it, for example with gdal_edit"
    transform = raster.transform
    if not all(math.isfinite(v) for v in transform[:6]) or transform.is_degenerate:
        raise SceneError(f"{name} has a transform that maps its pixels onto a line or nowhere: {fix}")
    crs = _own_crs(raster.crs, name).to_2d()  # heights of a compound CRS are none of ours
    if crs.is_projected:
        return Georeference(crs, transform, raster.height, raster.width)
    if not crs.is_geographic:
        raise SceneError(f"{name} has a CRS that is not tied to the Earth ({crs.name}): {fix}")
    to_wgs84 = _transformer(crs, CRS.from_epsg(4326))

    def to_lonlat(cols: Floats, rows: Floats) -> tuple[Floats, Floats]:
        lon, lat = to_wgs84.transform(*apply_transform(transform, cols, rows))
        return np.asarray(lon), np.asarray(lat)

    target, grid, height, width = _map_grid(to_lonlat, raster.height, raster.width, name)
    centre = (transform @ (raster.width / 2, raster.height / 2))[0]
    return Georeference(
        target,
        grid,
        height,
        width,
        Geocoding("degrees", terrain_corrected=None),
        warp.affine_transformer(transform, crs, centre, grid, target),
    )


def _by_gcps(
    raster: DatasetReader, points: list[GroundControlPoint], points_crs: object, name: str
) -> Georeference:
    if not points_crs:
        raise SceneError(
            f"{name} has control points without a CRS: give them one, for example with gdal_edit -a_srs "
            "EPSG:4326"
        )
    pixels, placed = pixels_and_ground(points, name)
    to_wgs84 = _transformer(_own_crs(points_crs, name), CRS.from_epsg(4326))
    lon, lat = to_wgs84.transform(placed[:, 0], placed[:, 1])
    middle = _middle(np.asarray(lon), np.asarray(lat), name)

    def fit_in(crs: CRS) -> tuple[Floats, ControlPointFit]:
        ground = np.column_stack(_transformer(CRS.from_epsg(4326), crs).transform(lon, lat))
        if not np.isfinite(ground).all():
            raise not_on_earth(name)
        return ground, fit_control_points(pixels, ground, raster.height, raster.width, name)

    # The points' middle tells the zone to fit in, and the fit tells the scene's own centre.
    crs = map_crs(*middle)
    _, fit = fit_in(crs)
    back = _transformer(crs, CRS.from_epsg(4326))
    centre = back.transform(*fit.to_ground([raster.width / 2, raster.height / 2]))
    crs = map_crs(*centre) if np.isfinite(centre).all() else crs
    ground, fit = fit_in(crs)
    _log_fit(name, fit, len(pixels))
    grid, height, width = _grid_over(
        lambda cols, rows: fit.to_ground(np.stack([cols, rows], axis=-1)), raster.height, raster.width, name
    )
    return Georeference(
        crs,
        grid,
        height,
        width,
        Geocoding(
            "gcps",
            order="tps" if fit.order == THIN_PLATE_SPLINE else fit.order,
            points=len(pixels),
            residual_rms_px=round(fit.residual_rms_px, 4),
            leave_one_out_px=None if fit.leave_one_out_px is None else round(fit.leave_one_out_px, 4),
        ),
        warp.control_point_transformer(pixels, ground, fit.order, grid),
        fit,
    )


def _log_fit(name: str, fit: ControlPointFit, points: int) -> None:
    kind = "a thin-plate spline" if fit.order == THIN_PLATE_SPLINE else f"a polynomial of order {fit.order}"
    left_out = "unknown" if fit.leave_one_out_px is None else f"{fit.leave_one_out_px:.2f} px"
    log.info(
        "%s is placed by %d control points with %s: residual %.2f px, leave-one-out error %s",
        name,
        points,
        kind,
        fit.residual_rms_px,
        left_out,
    )


def _by_rpcs(raster: DatasetReader, rpcs: RPC, settings: SceneSettings, name: str) -> Georeference:
    height_m = None if settings.dem else settings.height_m
    if height_m is None and not settings.dem:
        height_m = float(rpcs.height_off)
    _refuse_odd_rpcs(rpcs, raster.height, raster.width, name)
    options = {"rpc_dem": str(settings.dem.resolve())} if settings.dem else {}
    if settings.dem:
        _refuse_odd_dem(settings.dem)
    fix = "give it the RPCs of this very file"
    try:
        opened = RPCTransformer(rpcs, **options)
    except CPLE_BaseError as error:
        raise SceneError(f"{name} has RPCs that cannot be inverted ({error}): {fix}") from error
    with opened as transformer, warnings.catch_warnings():
        warnings.simplefilter("ignore", TransformWarning)  # failures come back as infinity

        def to_lonlat(cols: Floats, rows: Floats) -> tuple[Floats, Floats]:
            heights = np.full(cols.size, height_m or 0.0)
            lon, lat = transformer.xy(rows.ravel(), cols.ravel(), zs=heights, offset="ul")
            return np.reshape(lon, cols.shape), np.reshape(lat, cols.shape)

        corner_cols, corner_rows = _pixel_grid(raster.height, raster.width, 3)
        lon, lat = to_lonlat(corner_cols, corner_rows)
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            covered = f"give a height model that covers it, not {settings.dem}" if settings.dem else fix
            raise SceneError(f"{name} has RPCs that place its corners nowhere: {covered}")
        back = transformer.rowcol(
            lon.ravel(), lat.ravel(), zs=np.full(lon.size, height_m or 0.0), op=np.positive
        )
        missed = np.hypot(back[0] - corner_rows.ravel(), back[1] - corner_cols.ravel()).max()
        if not missed < 1:
            raise SceneError(f"{name} has RPCs that contradict themselves by {missed:.1f} px: {fix}")
        crs, grid, rows, cols = _map_grid(to_lonlat, raster.height, raster.width, name)
    log.info("%s is placed by RPCs at %s", name, settings.dem or f"a height of {height_m:.0f} m")
    return Georeference(
        crs,
        grid,
        rows,
        cols,
        Geocoding(
            "rpcs",
            height_m=height_m,
            dem=settings.dem.name if settings.dem else None,
            terrain_corrected=settings.dem is not None,
        ),
        warp.rpc_transformer(rpcs, height_m, settings.dem, grid, crs),
    )


def _refuse_odd_rpcs(rpcs: RPC, height: int, width: int, name: str) -> None:
    fix = "give it the RPCs of this very file"
    numbers = [*rpcs.line_num_coeff, *rpcs.line_den_coeff, *rpcs.samp_num_coeff, *rpcs.samp_den_coeff]
    offsets = [rpcs.line_off, rpcs.samp_off, rpcs.lat_off, rpcs.long_off, rpcs.height_off]
    scales = [rpcs.line_scale, rpcs.samp_scale, rpcs.lat_scale, rpcs.long_scale, rpcs.height_scale]
    if len(numbers) != 80 or not np.isfinite([*numbers, *offsets, *scales]).all() or 0 in scales:
        raise SceneError(f"{name} has incomplete RPCs: {fix}")
    with np.errstate(over="ignore"):
        line = np.abs((np.array([0, height]) - rpcs.line_off) / rpcs.line_scale).max()
        sample = np.abs((np.array([0, width]) - rpcs.samp_off) / rpcs.samp_scale).max()
    if max(line, sample) > _MAX_NORMALISED:
        raise SceneError(
            f"{name} is {width} x {height} px, and its RPCs are those of another raster of about "
            f"{2 * rpcs.samp_scale:.0f} x {2 * rpcs.line_scale:.0f} px around column "
            f"{rpcs.samp_off:.0f}, row {rpcs.line_off:.0f}: {fix}"
        )


def _refuse_odd_dem(dem: Path) -> None:
    try:
        with rasterio.open(dem) as raster:
            if raster.crs is None:
                raise SceneError(f"the height model {dem} has no CRS: give scene.dem one that has")
    except RasterioError as error:
        raise SceneError(f"the height model {dem} cannot be read: set scene.dem to a raster") from error


def _map_grid(to_lonlat: ToLonLat, height: int, width: int, name: str) -> tuple[CRS, Affine, int, int]:
    """Return the map CRS of a scene's centre, and the grid over the scene in it."""
    lon, lat = (float(v[0]) for v in to_lonlat(np.array([width / 2]), np.array([height / 2])))
    if not (math.isfinite(lon) and math.isfinite(lat) and abs(lat) <= 90):
        raise not_on_earth(name)
    crs = map_crs(lon, lat)
    project = _transformer(CRS.from_epsg(4326), crs)

    def to_map(cols: Floats, rows: Floats) -> Floats:
        return np.stack(project.transform(*to_lonlat(cols, rows)), axis=-1)

    return crs, *_grid_over(to_map, height, width, name)


def _grid_over(
    to_map: Callable[[Floats, Floats], Floats], height: int, width: int, name: str
) -> tuple[Affine, int, int]:
    """Return transform, height and width of the north-up grid over a scene, at the scene's own spacing."""
    positions = to_map(*_pixel_grid(height, width, _GRID))
    if not np.isfinite(positions).all():
        raise not_on_earth(name)
    if jacobian_changes_sign(positions):
        raise SceneError(
            f"{name} has a geo-reference that folds over inside the scene: correct or replace it"
        )
    col, row = width / 2, height / 2
    here, right, below = to_map(np.array([col, col + 1, col]), np.array([row, row, row + 1]))
    spacing = float(np.sqrt(np.hypot(*(right - here)) * np.hypot(*(below - here))))
    (left, bottom), (far_right, top) = positions.min(axis=(0, 1)), positions.max(axis=(0, 1))
    if not spacing > 0:
        raise not_on_earth(name)
    cols, rows = math.ceil((far_right - left) / spacing), math.ceil((top - bottom) / spacing)
    if cols * rows > _MAX_GROWTH * height * width:
        raise SceneError(
            f"{name} has a geo-reference that spreads {width} x {height} px over {cols} x {rows}: correct "
            "it, or cut the scene into parts that fit into a UTM zone"
        )
    return Affine(spacing, 0, float(left), 0, -spacing, float(top)), rows, cols


def _pixel_grid(height: int, width: int, count: int) -> tuple[Floats, Floats]:
    cols, rows = np.meshgrid(np.linspace(0, width, count), np.linspace(0, height, count))
    return cols, rows


def _middle(lon: Floats, lat: Floats, name: str) -> tuple[float, float]:
    """Return the middle of places on the sphere, which the antimeridian and the poles do not disturb."""
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()) or np.abs(lat).max() > 90:
        raise not_on_earth(name)
    lon, lat = np.radians(lon), np.radians(lat)
    x, y = (np.cos(lat) * np.cos(lon)).mean(), (np.cos(lat) * np.sin(lon)).mean()
    return math.degrees(math.atan2(y, x)), math.degrees(math.atan2(np.sin(lat).mean(), math.hypot(x, y)))


def not_on_earth(name: str) -> SceneError:
    """Return the error for a scene whose georeference gives no position on the Earth."""
    return SceneError(
        f"{name} has a geo-reference that places it nowhere on the Earth: correct its CRS and transform, "
        "control points or RPCs, for example with gdal_edit"
    )


def _own_crs(crs: object, name: str) -> CRS:
    try:
        return CRS.from_user_input(crs)
    except CRSError as error:
        raise SceneError(
            f"{name} has a CRS that PROJ does not know: correct it, for example with gdal_edit -a_srs"
        ) from error


@cache
def _transformer(start: CRS, end: CRS) -> Transformer:
    return Transformer.from_crs(start, end, always_xy=True)


def apply_transform(transform: Affine, cols: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Return x and y of pixel positions (arrays, which affine's own operator does not take)."""
    return (
        transform.a * cols + transform.b * rows + transform.c,
        transform.d * cols + transform.e * rows + transform.f,
    )
