"""Where scenes lie: against pyproj, against GDAL's own warps, and what is refused."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from scipy.stats import spearmanr

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene.control_points import (
    THIN_PLATE_SPLINE,
    fit_control_points,
    pixels_and_ground,
    refuse_folds,
)
from fusar_klip.tiles.scene.georeference import Georeference, locate, map_crs
from fusar_klip.tiles.scene.products.plain import plain_source
from fusar_klip.tiles.scene.scene import Scene, open_scenes
from fusar_klip.tiles.settings import SceneSettings

WriteScene = Callable[..., Path]
Speckle = Callable[..., NDArray[np.uint16]]
FIXTURES = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
GEOD = Geod(ellps="WGS84")


def only_scene(path: Path, **settings: object) -> Scene:
    (scene,) = open_scenes(path, SceneSettings.model_validate(settings))
    return scene


def whole(scene: Scene) -> NDArray[np.generic]:
    with scene.reader() as reader:
        return reader.read(0, 0, scene.height, scene.width)


def blob_scene(
    height: int = 200, width: int = 240, spots: Sequence[tuple[int, int]] = ()
) -> NDArray[np.uint16]:
    """A dark scene with a spot of 2 x 2 px of its own brightness at each (row, col)."""
    pixels = np.full((height, width), 10, np.uint16)
    for number, (row, col) in enumerate(spots, 1):
        pixels[row : row + 2, col : col + 2] = 1000 * number
    return pixels


def grid_points(
    height: int, width: int, to_lonlat: Callable[[float, float], tuple[float, float]], count: int = 5
) -> list[GroundControlPoint]:
    return [
        GroundControlPoint(row, col, *to_lonlat(col, row), 0.0)
        for row in np.linspace(0, height, count).tolist()
        for col in np.linspace(0, width, count).tolist()
    ]


def without_crs(
    write_scene: WriteScene, pixels: NDArray[np.generic], name: str = "scene.tif", **kwargs: object
) -> Path:
    """Write a scene that has control points or RPCs, or nothing at all, instead of a transform."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        points = kwargs.pop("points", None)
        points_crs = kwargs.pop("points_crs", "EPSG:4326")
        rpcs = kwargs.pop("rpcs", None)
        path = write_scene(pixels, name, crs=None, transform=Affine.identity(), **kwargs)
        with rasterio.open(path, "r+") as raster:
            if points:
                raster.gcps = (points, points_crs)
            if rpcs:
                raster.rpcs = rpcs
    return path


# Scenes that have a map grid themselves.


@pytest.mark.parametrize(
    "transform",
    [
        Affine(10, 0, 380_000, 0, -10, 3_735_000),
        Affine(10, 0, 380_000, 0, 10, 3_700_000),  # south-up
        Affine(-10, 0, 390_000, 0, -10, 3_735_000),  # mirrored
        Affine(6, 8, 380_000, 8, -6, 3_735_000),  # turned
    ],
)
def test_a_projected_scene_keeps_its_pixels_and_corners(
    write_scene: WriteScene, speckle: Speckle, transform: Affine
) -> None:
    pixels = speckle(90, 130)
    scene = only_scene(write_scene(pixels, transform=transform))
    assert scene.geocoding is None
    assert scene.transform == transform
    assert scene.gsd_m == pytest.approx(10, rel=2e-3)
    assert (whole(scene) == pixels).all()
    to_wgs84 = Transformer.from_crs("EPSG:32611", "EPSG:4326", always_xy=True)
    for col, row in [(0, 0), (130, 0), (130, 90), (0, 90)]:
        expected = to_wgs84.transform(*(transform @ (col, row)))
        assert GEOD.inv(*expected, *scene.to_lonlat(col, row))[2] < 0.5 * scene.gsd_m / 1000


def test_feet_are_no_metres(write_scene: WriteScene, speckle: Speckle) -> None:
    california_feet = write_scene(
        speckle(64, 64), crs="EPSG:2229", transform=Affine(10, 0, 6_480_000, 0, -10, 1_840_000)
    )
    assert only_scene(california_feet).gsd_m == pytest.approx(3.048, rel=1e-3)


# Scenes in degrees.


@FIXTURES
@given(
    lon=st.floats(-180, 180),
    lat=st.floats(-88, 88),
    gsd_deg=st.floats(2e-5, 2e-4),
    south_up=st.booleans(),
)
def test_degrees_anywhere_land_within_half_a_pixel(
    write_scene: WriteScene, lon: float, lat: float, gsd_deg: float, south_up: bool
) -> None:
    # As square as a pixel in degrees can be on the ground.
    wide = gsd_deg / math.cos(math.radians(lat))
    tall = gsd_deg if south_up else -gsd_deg
    transform = Affine(wide, 0, lon - 50 * wide, 0, tall, lat - 40 * tall)
    spots = [(5, 7), (8, 90), (40, 50), (70, 12), (75, 93)]
    scene = only_scene(write_scene(blob_scene(80, 100, spots), crs="EPSG:4326", transform=transform))
    assert scene.geocoding is not None
    assert scene.geocoding.method == "degrees"
    near = [(x, y) for x in (lon - 1e-6, lon + 1e-6) for y in (lat - 1e-6, lat + 1e-6)]
    assert scene.crs in {map_crs(*place) for place in near}
    assert scene.gsd_m == pytest.approx(GEOD.inv(lon, lat, lon + wide, lat)[2], rel=0.05)
    assert_spots_lie_right(scene, spots, lambda col, row: transform @ (col, row))


def assert_spots_lie_right(
    scene: Scene, spots: Sequence[tuple[int, int]], to_lonlat: Callable[[float, float], tuple[float, float]]
) -> None:
    """Check that each spot's centre comes out within half a pixel each way of where pyproj puts it.

    Nearest neighbour cannot do better for a spot of 2 x 2 px, and GDAL's positions are exact to an eighth.
    """
    picture = whole(scene)
    to_map = Transformer.from_crs("EPSG:4326", scene.crs, always_xy=True)
    for number, (row, col) in enumerate(spots, 1):
        rows, cols = np.nonzero(picture == 1000 * number)
        true_col, true_row = ~scene.transform @ to_map.transform(*to_lonlat(col + 1, row + 1))
        miss = np.hypot(cols.mean() + 0.5 - true_col, rows.mean() + 0.5 - true_row)
        assert miss < math.hypot(0.5, 0.5) + 0.125, (number, miss)


def test_the_antimeridian_does_not_tear_a_scene(write_scene: WriteScene, speckle: Speckle) -> None:
    for left in (179.98, -180.02):
        transform = Affine(2e-4, 0, left, 0, -2e-4, 10)
        scene = only_scene(write_scene(speckle(150, 200), crs="EPSG:4326", transform=transform))
        assert scene.crs is not None
        assert scene.crs.to_epsg() in (32601, 32660)
        assert scene.width < 220
        assert (whole(scene) > 0).mean() > 0.95
        lon, _ = scene.to_lonlat([5, scene.width - 5], [75, 75])
        assert lon[0] > 179
        assert lon[1] < -179


@pytest.mark.parametrize(("lat", "epsg"), [(85.0, 5041), (83.9, 32631), (-81.0, 5042), (-79.9, 32731)])
def test_near_the_poles_the_grid_is_ups(
    write_scene: WriteScene, speckle: Speckle, lat: float, epsg: int
) -> None:
    transform = Affine(2e-3, 0, 3.0, 0, -2e-4, lat)
    scene = only_scene(write_scene(speckle(100, 100), crs="EPSG:4326", transform=transform))
    assert scene.crs is not None
    assert scene.crs.to_epsg() == epsg
    assert (whole(scene) > 0).any()
    centre = scene.to_lonlat(scene.width / 2, scene.height / 2)
    assert GEOD.inv(*centre, *(transform @ (50, 50)))[2] < 2 * scene.gsd_m


# Control points.


@FIXTURES
@given(
    lon=st.floats(-180, 180),
    lat=st.floats(-87, 87),
    turn=st.floats(-180, 180),
    mirrored=st.booleans(),
    count=st.integers(2, 6),
)
def test_affine_control_points_come_back_exactly(
    write_scene: WriteScene, lon: float, lat: float, turn: float, mirrored: bool, count: int
) -> None:
    crs = map_crs(lon, lat)
    back = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    centre = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    true = (
        Affine.translation(*centre)
        @ Affine.rotation(turn)
        @ Affine.scale(-20 if mirrored else 20, -20)
        @ Affine.translation(-50, -40)
    )

    def to_lonlat(col: float, row: float) -> tuple[float, float]:
        x, y = back.transform(*(true @ (col, row)))
        return x, y

    spots = [(5, 7), (8, 90), (40, 50), (70, 12), (75, 93)]
    points = grid_points(80, 100, to_lonlat, count)
    scene = only_scene(without_crs(write_scene, blob_scene(80, 100, spots), points=points))
    assert scene.geocoding is not None
    assert scene.geocoding.method == "gcps"
    assert scene.geocoding.points == count**2
    # The written text of GCPs and the change of zone at its border leave a little.
    assert scene.geocoding.residual_rms_px == pytest.approx(0, abs=1e-2)
    assert scene.geocoding.leave_one_out_px == pytest.approx(0, abs=3e-2)
    assert scene.geocoding.terrain_corrected is False
    assert scene.gsd_m == pytest.approx(20, rel=0.01)
    assert_spots_lie_right(scene, spots, to_lonlat)


def warped_ground(order: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return 49 pixels of a 700 x 700 scene, and map coordinates that a polynomial of `order` gives."""
    generator = np.random.default_rng(seed)
    cols, rows = np.meshgrid(np.linspace(0, 700, 7), np.linspace(0, 700, 7))
    pixels = np.column_stack([cols.ravel(), rows.ravel()])
    u, v = (pixels / 350 - 1).T
    bend = sum(
        generator.uniform(-0.02, 0.02, (2, 1)) * u ** (n - k) * v**k
        for n in range(2, order + 1)
        for k in range(n + 1)
    )
    ground = np.stack([u, -v]) + bend
    return pixels, (5e5 + 7000 * ground).T


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_leave_one_out_error_is_that_of_fits_without_the_point(order: int) -> None:
    pixels, ground = warped_ground(order)
    pixels = pixels + np.random.default_rng(1).normal(0, 0.5, pixels.shape)
    fit = fit_control_points(pixels, ground, 700, 700, "x")
    errors = []
    for index in range(len(pixels)):
        rest = np.arange(len(pixels)) != index
        # The same order, fitted independently by least squares on monomials.
        terms = [(n - k, k) for n in range(fit.order + 1) for k in range(n + 1)]
        middle = ground[rest].mean(axis=0)
        basis = [
            np.stack(
                [((g - middle) / 7000)[:, 0] ** i * ((g - middle) / 7000)[:, 1] ** j for i, j in terms], 1
            )
            for g in (ground[rest], ground[index : index + 1])
        ]
        coefficients = np.linalg.lstsq(basis[0], pixels[rest], rcond=None)[0]
        errors.append(basis[1] @ coefficients - pixels[index])
    expected = np.sqrt((np.concatenate(errors) ** 2).sum(axis=1).mean())
    assert fit.order != THIN_PLATE_SPLINE  # which would go through the noise
    assert fit.leave_one_out_px == pytest.approx(expected, rel=1e-6)
    assert 0.5 < fit.residual_rms_px < expected


@pytest.mark.parametrize("order", [1, 2, 3])
def test_polynomials_are_gdals(order: int) -> None:
    pixels, ground = warped_ground(order, seed=3)
    noisy = pixels + np.random.default_rng(2).normal(0, 1.0, pixels.shape)
    fit = fit_control_points(noisy, ground, 700, 700, "x")
    points = [
        GroundControlPoint(row, col, x, y, 0.0)
        for (col, row), (x, y) in zip(noisy.tolist(), ground.tolist(), strict=True)
    ]
    with rasterio.transform.GCPTransformer(points) as gdal:  # order by GDAL's own choice where it has many
        if fit.order == 2:
            rows, cols = gdal.rowcol(*ground.T, op=np.positive)
            assert np.abs(fit.to_pixel(ground) - np.column_stack([cols, rows])).max() < 1e-6
    assert fit.order == order


def test_the_spline_is_scipys() -> None:
    from scipy.interpolate import RBFInterpolator

    pixels, ground = warped_ground(3, seed=5)
    # Terrain: bumps that no polynomial of order 3 follows, and that neighbours tell of.
    bumps = 120 * np.sin(pixels[:, 0] / 90) * np.sin(pixels[:, 1] / 110)
    ground = ground + np.column_stack([bumps, bumps])
    fit = fit_control_points(pixels, ground, 700, 700, "x")
    assert fit.order == THIN_PLATE_SPLINE
    assert fit.residual_rms_px < 1e-6
    oracle = RBFInterpolator(ground / 7000, pixels, kernel="thin_plate_spline", degree=1)
    at = np.random.default_rng(0).uniform(ground.min(axis=0), ground.max(axis=0), (200, 2))
    assert np.abs(fit.to_pixel(at) - oracle(at / 7000)).max() < 1e-5
    one_out = [
        RBFInterpolator(np.delete(ground, i, 0) / 7000, np.delete(pixels, i, 0), kernel="thin_plate_spline")(
            ground[i : i + 1] / 7000
        )[0]
        - pixels[i]
        for i in range(len(pixels))
    ]
    assert fit.leave_one_out_px == pytest.approx(np.sqrt(np.sum(np.square(one_out)) / len(pixels)), rel=1e-5)


def test_three_points_have_no_leave_one_out_error(write_scene: WriteScene, speckle: Speckle) -> None:
    points = [
        GroundControlPoint(0, 0, 10.0, 50.0, 0.0),
        GroundControlPoint(0, 100, 10.02, 50.0, 0.0),
        GroundControlPoint(100, 0, 10.0, 49.985, 0.0),
    ]
    geocoding = only_scene(without_crs(write_scene, speckle(100, 100), points=points)).geocoding
    assert geocoding is not None
    assert (geocoding.order, geocoding.leave_one_out_px) == (1, None)


def shifted(point: GroundControlPoint, **changes: float) -> GroundControlPoint:
    values = {"row": point.row, "col": point.col, "x": point.x, "y": point.y, "z": 0.0} | changes
    return GroundControlPoint(**values)


def north_up(col: float, row: float) -> tuple[float, float]:
    return 10 + col * 2e-4, 50 - row * 1.5e-4


GOOD_POINTS = grid_points(100, 100, north_up)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (GOOD_POINTS[:2], "has 2 distinct ground control points, and at least three are needed"),
        (GOOD_POINTS[:5], "on one line"),
        ([*GOOD_POINTS, shifted(GOOD_POINTS[7], x=10.5)], "contradict each other"),
        ([*GOOD_POINTS[:12], shifted(GOOD_POINTS[12], x=10.5), *GOOD_POINTS[13:]], "fold over near row"),
        (
            [
                *GOOD_POINTS[:6],
                shifted(GOOD_POINTS[6], x=GOOD_POINTS[8].x),
                GOOD_POINTS[7],
                shifted(GOOD_POINTS[8], x=GOOD_POINTS[6].x),
                *GOOD_POINTS[9:],
            ],
            "fold over near row",
        ),
        ([shifted(p, y=50 + 1e-4 * abs(p.row - 50)) for p in GOOD_POINTS], "contradict|fold over"),
        ([shifted(p, x=math.inf) for p in GOOD_POINTS], "not finite|no raster|nowhere"),
        ([shifted(p, x=10 + p.col * 1.7) for p in GOOD_POINTS], "spreads|nowhere|fold over"),
        ([shifted(p, y=p.y + 60) for p in GOOD_POINTS], "nowhere on the Earth"),
    ],
)
def test_bad_control_points_are_refused_in_one_sentence(
    points: list[GroundControlPoint], message: str, write_scene: WriteScene, speckle: Speckle
) -> None:
    with pytest.raises(SceneError, match=message) as caught:
        only_scene(without_crs(write_scene, speckle(100, 100), points=points))
    assert "correct" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_good_points_of_the_bad_ones_are_good(write_scene: WriteScene, speckle: Speckle) -> None:
    geocoding = only_scene(without_crs(write_scene, speckle(100, 100), points=GOOD_POINTS)).geocoding
    assert geocoding is not None
    assert geocoding.leave_one_out_px is not None
    assert geocoding.leave_one_out_px < 0.01


def test_control_points_need_a_crs(write_scene: WriteScene, speckle: Speckle) -> None:
    path = without_crs(write_scene, speckle(100, 100), points=GOOD_POINTS, points_crs=rasterio.CRS())
    with pytest.raises(SceneError, match="control points without a CRS"):
        only_scene(path)


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6, allow_subnormal=False)] * 4), max_size=12))
def test_any_points_are_fitted_or_refused(values: list[tuple[float, float, float, float]]) -> None:
    points = [GroundControlPoint(*value, 0.0) for value in values]
    try:
        pixels, ground = pixels_and_ground(points, "x")
        fit = fit_control_points(pixels, ground, 100, 100, "x")
    except SceneError:
        return
    assert np.isfinite(fit.to_pixel(ground)).all()
    refuse_folds(pixels, ground, "x")


@pytest.mark.real_data
def test_sentinel_1_agrees_with_gdals_spline(real_data: Path) -> None:
    for path in sorted((real_data / "geo" / "s1_grd_gcp").rglob("*.tiff")):
        scene = only_scene(path)
        geocoding = scene.geocoding
        assert geocoding is not None
        assert (geocoding.method, geocoding.points, geocoding.terrain_corrected) == ("gcps", 210, False)
        assert geocoding.leave_one_out_px is not None
        assert geocoding.leave_one_out_px < 2
        assert scene.crs == CRS.from_epsg(32643)
        assert scene.gsd_m == pytest.approx(200, rel=0.02)  # 10 m pixels, reduced 20 times
        lon, lat = scene.to_lonlat([0, scene.width], [scene.height, 0])
        # productInfo.json's footprint of the product
        assert [lon[0], lat[0], lon[1], lat[1]] == pytest.approx([75.605, 9.226, 78.204, 11.190], abs=0.02)
        ours = whole(scene)
        with warnings.catch_warnings(), rasterio.open(path) as raster:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with WarpedVRT(raster, crs=scene.crs, SRC_METHOD="GCP_TPS") as gdal:
                theirs = np.zeros_like(ours)
                rasterio.warp.reproject(
                    gdal.read(1),
                    theirs,
                    src_transform=gdal.transform,
                    src_crs=gdal.crs,
                    dst_transform=scene.transform,
                    dst_crs=gdal.crs,
                )
            assert fit_offsets(raster, scene) < 0.05
        both = (ours > 0) & (theirs > 0)
        # Theirs is resampled twice, so a pixel may be its neighbour; the pictures must not be shifted.
        here = spearmanr(ours[both], theirs[both]).statistic
        assert here > 0.8
        for shift in (2, -2):
            moved = np.roll(theirs, shift, axis=1)
            both = (ours > 0) & (moved > 0)
            assert spearmanr(ours[both], moved[both]).statistic < here - 0.1
        assert ((ours > 0) != (theirs > 0)).mean() < 0.01


def fit_offsets(raster: rasterio.DatasetReader, scene: Scene) -> float:
    """Return the largest distance, in pixels, of our fit from GDAL's spline in degrees, over the scene."""
    from rasterio.transform import GCPTransformer

    points, crs = raster.gcps
    cols, rows = np.meshgrid(np.linspace(0, raster.width, 9), np.linspace(0, raster.height, 9))
    with GCPTransformer(points, tps=True) as gdal:
        lon, lat = gdal.xy(rows.ravel(), cols.ravel(), offset="ul")
    x, y = Transformer.from_crs(crs, scene.crs, always_xy=True).transform(lon, lat)
    assert scene.georeference.fit is not None
    ours = scene.georeference.fit.to_pixel(np.column_stack([x, y]))
    return float(np.hypot(*(ours - np.column_stack([cols.ravel(), rows.ravel()])).T).max())


# RPCs.


def rpcs_for(height: int, width: int, lon: float = 11.5, lat: float = 48.1, gsd_m: float = 10.0) -> RPC:
    """RPCs of a mildly bent scene in which 100 m of height move a point by 10 px across."""
    half_lat = height / 2 * gsd_m / 111_320
    half_lon = width / 2 * gsd_m / (111_320 * math.cos(math.radians(lat)))
    line, sample = [0.0] * 20, [0.0] * 20
    line[2], line[4] = -1.0, 0.01
    sample[1], sample[3], sample[7] = 1.0, 10 / (width / 2) * 5, 0.01  # height_scale is 500 m
    den = [1.0, 0.001, *[0.0] * 18]
    return RPC(
        height_off=400.0,
        height_scale=500.0,
        lat_off=lat,
        lat_scale=half_lat,
        line_den_coeff=den,
        line_num_coeff=line,
        line_off=height / 2 - 0.5,
        line_scale=height / 2,
        long_off=lon,
        long_scale=half_lon,
        samp_den_coeff=den,
        samp_num_coeff=sample,
        samp_off=width / 2 - 0.5,
        samp_scale=width / 2,
    )


def project(rpcs: RPC, lon: float, lat: float, height: float) -> tuple[float, float]:
    """Return (col, row), 0 = outer corner, of a place: the RPC00B formula, written out on its own."""
    x = (lon - rpcs.long_off) / rpcs.long_scale
    y = (lat - rpcs.lat_off) / rpcs.lat_scale
    z = (height - rpcs.height_off) / rpcs.height_scale
    terms = np.array(
        [1, x, y, z, x * y, x * z, y * z, x * x, y * y, z * z, x * y * z, x**3, x * y * y, x * z * z,
         x * x * y, y**3, y * z * z, x * x * z, y * y * z, z**3]
    )  # fmt: skip
    row = rpcs.line_off + rpcs.line_scale * (terms @ rpcs.line_num_coeff) / (terms @ rpcs.line_den_coeff)
    col = rpcs.samp_off + rpcs.samp_scale * (terms @ rpcs.samp_num_coeff) / (terms @ rpcs.samp_den_coeff)
    return col + 0.5, row + 0.5


def misses(scene: Scene, rpcs: RPC, spots: Sequence[tuple[int, int]], height_m: float) -> list[float]:
    """Return how far, in pixels of the file, the spots came out from where the RPCs put them."""
    picture = whole(scene)
    result = []
    for number, (row, col) in enumerate(spots, 1):
        rows, cols = np.nonzero(picture == 1000 * number)
        if rows.size:
            lon, lat = scene.to_lonlat(cols.mean() + 0.5, rows.mean() + 0.5)
            true_col, true_row = project(rpcs, float(lon), float(lat), height_m)
            result.append(math.hypot(true_col - col - 1, true_row - row - 1))
    assert len(result) == len(spots)
    return result


SPOTS = [(20, 30), (25, 200), (100, 120), (180, 40), (170, 210), (60, 80)]


@pytest.mark.parametrize("height_m", [None, 0.0, 900.0])
def test_rpcs_place_a_scene_at_its_height(write_scene: WriteScene, height_m: float | None) -> None:
    rpcs = rpcs_for(200, 240)
    scene = only_scene(without_crs(write_scene, blob_scene(spots=SPOTS), rpcs=rpcs), height_m=height_m)
    assert scene.geocoding is not None
    assert scene.geocoding.method == "rpcs"
    assert scene.geocoding.height_m == (400 if height_m is None else height_m)
    assert scene.geocoding.terrain_corrected is False
    assert scene.crs == CRS.from_epsg(32632)
    assert scene.gsd_m == pytest.approx(10, rel=0.02)
    assert max(misses(scene, rpcs, SPOTS, 400 if height_m is None else height_m)) < 0.85
    other = max(misses(scene, rpcs, SPOTS, (400 if height_m is None else height_m) + 100))
    assert 8 < other < 12  # so that the test sees the height


def test_rpcs_on_a_height_model(write_scene: WriteScene, tmp_path: Path) -> None:
    rpcs = rpcs_for(200, 240)
    dem = tmp_path / "DEM lower Case.tif"
    heights = np.full((100, 100), 250.0, np.float32)
    with rasterio.open(
        dem, "w", driver="GTiff", height=100, width=100, count=1, dtype="float32", crs="EPSG:4326",
        transform=Affine(1e-3, 0, 11.45, 0, -1e-3, 48.15),
    ) as raster:  # fmt: skip
        raster.write(heights, 1)
    path = without_crs(write_scene, blob_scene(spots=SPOTS), rpcs=rpcs)
    scene = only_scene(path, dem=dem)
    assert scene.geocoding is not None
    assert (scene.geocoding.dem, scene.geocoding.height_m) == (dem.name, None)
    assert scene.geocoding.terrain_corrected is True
    assert max(misses(scene, rpcs, SPOTS, 250)) < 0.85
    with rasterio.open(dem, "r+") as raster:
        raster.transform = Affine(1e-3, 0, 12.45, 0, -1e-3, 48.15)
    with pytest.raises(SceneError, match="height model that covers it"):
        only_scene(path, dem=dem)
    with pytest.raises(SceneError, match="cannot be read"):
        only_scene(path, dem=tmp_path / "none.tif")


def changed(rpcs: RPC, **values: object) -> RPC:
    return RPC(**(rpcs.to_dict() | values))


@pytest.mark.parametrize(
    ("rpcs", "message"),
    [
        (rpcs_for(50, 60), "those of another raster of about 60 x 50 px"),
        (changed(rpcs_for(200, 240), line_num_coeff=[0.0] * 20), "cannot be inverted"),
        (changed(rpcs_for(200, 240), lat_off=math.nan), "incomplete"),
        (changed(rpcs_for(200, 240), long_scale=0.0), "incomplete"),
        (changed(rpcs_for(200, 240), lat_off=120.0), "nowhere"),
    ],
)
def test_wrong_rpcs_are_refused_in_one_sentence(
    rpcs: RPC, message: str, write_scene: WriteScene, speckle: Speckle
) -> None:
    with pytest.raises(SceneError, match=message) as caught:
        only_scene(without_crs(write_scene, speckle(200, 240), rpcs=rpcs))
    assert "\n" not in str(caught.value)


@FIXTURES
@given(data=st.data())
def test_any_rpcs_place_a_scene_or_are_refused(write_scene: WriteScene, data: st.DataObject) -> None:
    values = rpcs_for(100, 100).to_dict()
    odd = st.floats(-1e4, 1e4) | st.sampled_from([0.0, math.nan, math.inf, 1e300, -1e-300])
    for _ in range(data.draw(st.integers(1, 4))):
        key = data.draw(st.sampled_from([key for key, value in values.items() if value is not None]))
        if isinstance(values[key], list):
            index = data.draw(st.integers(0, 19))
            values[key] = [*values[key][:index], data.draw(odd), *values[key][index + 1 :]]
        else:
            values[key] = data.draw(odd)
    path = without_crs(write_scene, np.ones((100, 100), np.uint8))
    source = replace(plain_source(path), rpcs=RPC(**values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as raster:
            try:
                place = locate(raster, source, SceneSettings(), "x")
            except SceneError:
                return
    assert place.height * place.width <= 50 * 100 * 100
    assert np.isfinite(place.to_lonlat(place.width / 2, place.height / 2)).all()


def test_rpcs_across_the_antimeridian(write_scene: WriteScene) -> None:
    rpcs = rpcs_for(200, 240, lon=180.0, lat=-17.0)
    scene = only_scene(without_crs(write_scene, blob_scene(spots=SPOTS), rpcs=rpcs))
    assert scene.width < 280
    assert (whole(scene) > 0).mean() > 0.8


# Scenes that lie nowhere.


def test_without_a_geo_reference_the_spacing_is_asked_for(write_scene: WriteScene, speckle: Speckle) -> None:
    pixels = speckle(80, 90)
    path = without_crs(write_scene, pixels)
    with pytest.raises(SceneError, match=r"no geo-reference.*--set scene\.gsd_m=1"):
        only_scene(path)
    scene = only_scene(path, gsd_m=2.5)
    assert (scene.crs, scene.gsd_m, scene.geocoding) == (None, 2.5, None)
    assert scene.transform == Affine(2.5, 0, 0, 0, -2.5, 0)
    assert np.isnan(scene.to_lonlat([0, 5], [1, 2])).all()
    assert (scene.ground_spacing_m([0, 5], [1, 2]) == 2.5).all()
    assert (whole(scene) == pixels).all()


@pytest.mark.parametrize(
    ("crs", "transform", "message"),
    [
        ("EPSG:32611", Affine(10, 0, 380_000, 10, 0, 3_735_000), "onto a line"),
        ("EPSG:32611", Affine(0, 0, 380_000, 0, 0, 3_735_000), "onto a line"),
        (
            "EPSG:32611",
            Affine(math.nan, 0, 380_000, 0, -10, 3_735_000),
            "onto a line or nowhere|no geo-ref|no transform",
        ),
        ("EPSG:32611", Affine(10, 0, 5e8, 0, -10, 5e8), "nowhere on the Earth"),
        ("EPSG:32611", Affine.identity(), "a CRS but no transform"),
        ("EPSG:4326", Affine(1, 0, -180, 0, -0.5, 90), "nowhere|spreads|folds over"),
        ("EPSG:4326", Affine(1e-4, 0, 10, 0, -1e-4, 95), "nowhere"),
        ('LOCAL_CS["somewhere",UNIT["metre",1]]', Affine(1, 0, 5, 0, -1, 5), "not tied to the Earth"),
        ("EPSG:4978", Affine(1, 0, 5, 0, -1, 5), "not tied to the Earth|nowhere"),
    ],
)
def test_geo_references_without_a_place_are_refused(
    write_scene: WriteScene, speckle: Speckle, crs: str, transform: Affine, message: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        path = write_scene(speckle(100, 100), crs=crs, transform=transform)
    with pytest.raises(SceneError, match=message) as caught:
        only_scene(path)
    assert "\n" not in str(caught.value)


@FIXTURES
@given(
    numbers=st.lists(st.floats(-1e9, 1e9) | st.sampled_from([0.0, 1e-300]), min_size=6, max_size=6),
    crs=st.sampled_from(["EPSG:32611", "EPSG:4326", "EPSG:3395", "EPSG:3031", None]),
)
def test_any_transform_is_placed_or_refused(
    write_scene: WriteScene, numbers: list[float], crs: str | None
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        path = write_scene(np.ones((64, 64), np.uint8), crs=crs, transform=Affine(*numbers))
    try:
        scene = only_scene(path)
    except SceneError:
        return
    assert isinstance(scene.georeference, Georeference)
    assert math.isfinite(scene.gsd_m)
    assert scene.gsd_m > 0
