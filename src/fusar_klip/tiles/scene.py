"""A SAR scene on disk: what it is, where it lies, and its amplitude window by window.

Reads GeoTIFFs (and whatever else GDAL reads) that have a coordinate reference system. Scenes in degrees are
warped to the UTM zone of their centre, window by window. Scenes that are placed by ground control points or
RPCs are not read in this version.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import ArrayLike, NDArray
from pyproj import CRS, Geod, Transformer
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from fusar_klip.errors import SceneError
from fusar_klip.files import sha256
from fusar_klip.tiles.platforms import BANDS, facts_of_name
from fusar_klip.tiles.settings import SceneSettings

MIN_SIDE_PX = 64
_WGS84 = Geod(ellps="WGS84")
_OVERVIEW_PX = 512


@dataclass(frozen=True)
class SceneFacts:
    """What is known of a scene, named as the catalog's columns; None where it is not known."""

    platform: str | None
    band: str | None
    polarization: str | None
    mode: str | None
    product_type: str | None
    orbit_direction: str | None
    look_side: str | None
    incidence_deg: float | None
    looks: float | None
    acquired: datetime | None


@dataclass(frozen=True)
class Scene:
    """A readable scene that is placed on the ground.

    Attributes:
        path: The file.
        scene_id: File stem + the first 8 digits of the content's SHA-256.
        digest: SHA-256 of the file.
        band_index: The raster band to read, from 1.
        kind: What a pixel is.
        eight_bit: The pixels are uint8, and pass unmapped.
        crs: The projected CRS of the tiles.
        transform: Pixel to CRS, rasterio's order.
        height: Rows.
        width: Columns.
        gsd_m: Geometric mean of the two ground spacings at the centre, in metres on the ground.
        warped: The file is in degrees and is warped to `crs`.
        facts: Platform, band, polarization and the like.
    """

    path: Path
    scene_id: str
    digest: str
    band_index: int
    kind: Literal["amplitude", "intensity", "db", "complex"]
    eight_bit: bool
    crs: CRS
    transform: Affine
    height: int
    width: int
    gsd_m: float
    warped: bool
    facts: SceneFacts

    @contextmanager
    def reader(self) -> Iterator["AmplitudeReader"]:
        """Open the scene for reading; each thread opens its own."""
        with _raster(self.path) as raster:
            if not self.warped:
                yield AmplitudeReader(self, raster)
                return
            # Nearest keeps the statistics of speckle and the meaning of dB, which averaging would change.
            with WarpedVRT(
                raster,
                crs=self.crs,
                transform=self.transform,
                height=self.height,
                width=self.width,
                resampling=Resampling.nearest,
                add_alpha=raster.nodata is None,  # marks what lies outside of the file
            ) as warped:
                yield AmplitudeReader(self, warped)

    def to_lonlat(self, cols: ArrayLike, rows: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return longitude and latitude in degrees of pixel positions (0, 0 = upper left corner)."""
        t, cols, rows = self.transform, np.asarray(cols, np.float64), np.asarray(rows, np.float64)
        x, y = t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f
        lon, lat = _to_wgs84(self.crs).transform(x, y)
        return np.asarray(lon), np.asarray(lat)

    def ground_spacing_m(self, cols: ArrayLike, rows: ArrayLike) -> NDArray[np.float64]:
        """Return the geometric mean of the two ground spacings at pixel positions, in metres (WGS84).

        A pixel of 10 m in World Mercator at Los Angeles is 8.3 m on the ground: the CRS's own unit says
        nothing of the ground away from its line of true scale.
        """
        cols, rows = np.asarray(cols, np.float64), np.asarray(rows, np.float64)
        lon, lat = self.to_lonlat(cols, rows)
        along_row = _WGS84.inv(lon, lat, *self.to_lonlat(cols + 1, rows))[2]
        along_col = _WGS84.inv(lon, lat, *self.to_lonlat(cols, rows + 1))[2]
        spacing: NDArray[np.float64] = np.sqrt(np.asarray(along_row) * np.asarray(along_col))
        return spacing


class AmplitudeReader:
    """Windows of a scene as amplitude."""

    def __init__(self, scene: Scene, raster: DatasetReader | WarpedVRT) -> None:
        self._scene = scene
        self._raster = raster

    def amplitude(self, col: int, row: int, side: int) -> NDArray[np.float32]:
        """Read a square window, which may overhang the scene.

        Returns:
            (side, side) float32 amplitude; 0 where there is no data: outside of the scene, the file's no-data
            value, NaN, infinity and negative amplitude.

        Raises:
            SceneError: The file is damaged there.
        """
        scene = self._scene
        height, width = min(side, scene.height - row), min(side, scene.width - col)
        try:
            band = self._raster.read(scene.band_index, window=Window(col, row, width, height), masked=True)
        except RasterioIOError as error:
            raise SceneError(
                f"{scene.path.name} is damaged near row {row}, column {col} ({error}): get the file again"
            ) from error
        block = np.zeros((side, side), np.float32)
        block[:height, :width] = _to_amplitude(band, scene.kind)
        return block


def open_scene(path: Path, settings: SceneSettings) -> Scene:
    """Read what a scene is and where it lies; no pixels beyond a decimated overview.

    Raises:
        SceneError: No such file, no raster, no geo-reference, under 64 px, or a band must be chosen.
    """
    if not path.is_file():
        raise SceneError(f"no such file: {path}")
    with warnings.catch_warnings(), _raster(path) as raster:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # it gets a sentence of our own
        band_index = _choose_band(raster, settings.band, path)
        if min(raster.width, raster.height) < MIN_SIDE_PX:
            raise SceneError(
                f"{path.name} is {raster.width} x {raster.height} px, and a scene needs at least "
                f"{MIN_SIDE_PX} px a side: give the full scene, not a chip"
            )
        crs, transform, height, width, warped = _georeference(raster, path)
        digest = sha256(path)
        scene = Scene(
            path=path,
            scene_id=f"{''.join(c if c.isalnum() or c in '._-' else '-' for c in path.stem)}_{digest[:8]}",
            digest=digest,
            band_index=band_index,
            kind=settings.kind if settings.kind != "auto" else _detect_kind(raster, band_index),
            eight_bit=raster.dtypes[band_index - 1] == "uint8",
            crs=crs,
            transform=transform,
            height=height,
            width=width,
            gsd_m=math.nan,
            warped=warped,
            facts=_facts(raster, band_index, path, settings),
        )
    gsd_m = float(scene.ground_spacing_m(width / 2, height / 2))
    if not (math.isfinite(gsd_m) and gsd_m > 0):
        raise SceneError(
            f"{path.name} has a geo-reference that places its centre nowhere on the Earth: correct its CRS "
            "and transform, for example with gdal_edit"
        )
    return replace(scene, gsd_m=gsd_m)


@cache
def _to_wgs84(crs: CRS) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def crs_name(crs: CRS) -> str:
    """Return "EPSG:n" where the CRS is in EPSG's list, else its WKT2."""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt("WKT2_2019"))


@contextmanager
def _raster(path: Path) -> Iterator[DatasetReader]:
    try:
        raster = rasterio.open(path)
    except RasterioError as error:
        raise SceneError(
            f"{path} is no raster that GDAL can read: give a GeoTIFF or another SAR product"
        ) from error
    with raster:
        yield raster


def _choose_band(raster: DatasetReader, wanted: int | str | None, path: Path) -> int:
    names = [name.strip() if name else "" for name in raster.descriptions]
    listing = ", ".join(f"{i} {name}".strip() for i, name in enumerate(names, 1))
    if wanted is None:
        if raster.count == 1:
            return 1
        example = next((name for name in names if name), "1")
        raise SceneError(
            f"{path.name} has {raster.count} bands ({listing}): choose one with --set scene.band={example}"
        )
    for index, name in enumerate(names, 1):
        if str(wanted).casefold() in (str(index), name.casefold()):
            return index
    raise SceneError(f"{path.name} has no band {wanted}: set scene.band to one of {listing}")


def _georeference(raster: DatasetReader, path: Path) -> tuple[CRS, Affine, int, int, bool]:
    """Return the tiles' CRS, the transform, height and width in it, and whether the scene is warped."""
    if raster.crs is None:
        if raster.gcps[0] or raster.rpcs:
            raise SceneError(
                f"{path.name} is placed by ground control points or RPCs, which this version does not read: "
                "warp it first, for example with gdalwarp -t_srs EPSG:32611"
            )
        raise SceneError(
            f"{path.name} has no geo-reference: give it a CRS and a transform, for example with gdal_edit"
        )
    if raster.transform.is_degenerate:
        raise SceneError(
            f"{path.name} has a transform that maps all pixels onto a line: correct it with gdal_edit"
        )
    crs = CRS.from_user_input(raster.crs)
    if not crs.is_geographic:
        return crs, raster.transform, raster.height, raster.width, False
    lon, lat = raster.transform @ (raster.width / 2, raster.height / 2)
    if not (-180 <= lon <= 180 and -80 <= lat <= 84):
        raise SceneError(
            f"{path.name} lies at longitude {lon:.2f}, latitude {lat:.2f}, where there is no UTM zone: warp "
            "it to a projected CRS first, for example with gdalwarp -t_srs EPSG:3995"
        )
    utm = CRS.from_epsg((32600 if lat >= 0 else 32700) + min(int((lon + 180) // 6) + 1, 60))
    with WarpedVRT(raster, crs=utm) as warped:
        return utm, warped.transform, warped.height, warped.width, True


def _detect_kind(
    raster: DatasetReader, band_index: int
) -> Literal["amplitude", "intensity", "db", "complex"]:
    dtype = raster.dtypes[band_index - 1]
    if dtype.startswith("complex"):
        return "complex"
    if not dtype.startswith("float"):
        return "amplitude"
    step = max(1, math.ceil(max(raster.shape) / _OVERVIEW_PX))
    shape = (math.ceil(raster.height / step), math.ceil(raster.width / step))
    overview = raster.read(band_index, out_shape=shape, masked=True)
    values = overview.compressed()
    values = values[np.isfinite(values)]
    return "db" if values.size and np.median(values) < 0 else "amplitude"


def _to_amplitude(band: np.ma.MaskedArray[Any, Any], kind: str) -> NDArray[np.float32]:
    values = np.ma.getdata(band)
    with np.errstate(over="ignore", invalid="ignore"):
        match kind:
            case "complex":
                linear = np.abs(values)
            case "db":
                linear = 10.0 ** (values / 20)
            case "intensity":
                linear = np.sqrt(np.maximum(values, 0))
            case _:
                linear = np.maximum(values, 0)
        amplitude: NDArray[np.float32] = linear.astype(np.float32)
    amplitude[~np.isfinite(amplitude) | np.ma.getmaskarray(band)] = 0
    return amplitude


def _facts(raster: DatasetReader, band_index: int, path: Path, settings: SceneSettings) -> SceneFacts:
    """Gather what settings, tags, product name and file name say, in this order of trust."""
    tags = {key.upper(): value for key, value in raster.tags().items()}
    from_names = [
        facts_of_name(text)
        for text in (
            raster.descriptions[band_index - 1] or "",
            tags.get("SOURCE_PRODUCT", ""),
            tags.get("SENSOR", ""),
            path.stem,
            path.parent.name,
        )
    ]

    def known(name: str, *tag_names: str) -> str | None:
        tagged = next((tags[tag] for tag in tag_names if tags.get(tag)), None)
        named = next((getattr(facts, name) for facts in from_names if getattr(facts, name)), None)
        return tagged or named

    platform = settings.platform or known("platform", "PLATFORM")
    acquired = known("acquired")
    return SceneFacts(
        platform=platform,
        band=tags.get("BAND") or (BANDS.get(platform) if platform else None),
        polarization=settings.polarization or known("polarization", "POLARIZATION", "POLARISATION"),
        mode=known("mode", "MODE"),
        product_type=known("product_type", "PRODUCT_TYPE"),
        orbit_direction=tags.get("ORBIT_DIRECTION"),
        look_side=tags.get("LOOK_SIDE"),
        incidence_deg=_number(tags.get("INCIDENCE_DEG")),
        looks=_number(tags.get("LOOKS")),
        acquired=_time(tags.get("ACQUIRED")) or acquired,  # type: ignore[arg-type]
    )


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
