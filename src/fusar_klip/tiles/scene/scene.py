"""A SAR scene on disk: what it is, where it lies, and its amplitude window by window.

`open_scenes` takes what the user names apart into scenes, `Scene.reader` reads them. What the stored values
mean is `pixels`'s matter, where they lie `georeference`'s, and what products say of themselves `products`'s.
A scene can be sent to another process, and reads the same there.
"""

import hashlib
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import ArrayLike, NDArray
from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window
from scipy.interpolate import RegularGridInterpolator

from fusar_klip.errors import SceneError
from fusar_klip.files import sha256
from fusar_klip.geo.platforms import BANDS, facts_of_name
from fusar_klip.tiles.scene import warp
from fusar_klip.tiles.scene.georeference import Geocoding, Georeference, apply_transform, locate, not_on_earth
from fusar_klip.tiles.scene.pixels import PixelFormat, band_names, damaged, pixel_format
from fusar_klip.tiles.scene.products import SceneFacts, Source, find_sources
from fusar_klip.tiles.scene.products.plain import facts_named
from fusar_klip.tiles.scene_metadata import SceneManifest
from fusar_klip.tiles.settings import PixelKind, SceneSettings

MIN_SIDE_PX = 64
# SAR is as fine as 0.1 m and as coarse as 1 km. A large tile of finer pixels would not fit into memory.
_SPACING_M = (0.05, 10_000.0)
# A strip of a warped Sentinel-1 scene crosses some thousand rows of the file, which are kept for the next.
_CACHE_MB = 256
# Between nodes the calibration of a warped scene is interpolated; its table has one value in 40 px at best.
_CALIBRATION_STEP = 32

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """A readable scene.

    Attributes:
        path: What the user named.
        scene_id: Name + 8 digits of a hash of the content, and of the band where there are several.
        digest: SHA-256 of the content.
        source: What the product says.
        pixels: How the stored values become amplitude.
        block_rows: Rows that the file decodes together: strips of a multiple of it decode each block once.
        georeference: Where the scene lies.
        gsd_m: Geometric mean of the two ground spacings at the centre, in metres on the ground.
        facts: Platform, band, polarization and the like.
        raster: What GDAL opens: the source's raster, or the description of its warp.
        band_index: The band of the source's raster, from 1; that of the real part where there are two.
        calibrated: Amplitude is that of sigma0.
    """

    path: Path
    scene_id: str
    digest: str
    source: Source
    pixels: PixelFormat
    block_rows: int
    georeference: Georeference
    gsd_m: float
    facts: SceneFacts
    raster: str
    band_index: int
    calibrated: bool

    @property
    def kind(self) -> PixelKind:
        """What a pixel of the file is."""
        return self.pixels.kind

    @property
    def eight_bit(self) -> bool:
        """The amplitude is 8-bit already, and passes unmapped."""
        return self.dtype == "uint8"

    @property
    def dtype(self) -> str:
        """Type of the amplitude: "uint8" (passes unmapped), "uint16" or "float32"."""
        return "float32" if self.calibrated else self.pixels.dtype

    @property
    def crs(self) -> CRS | None:
        """The projected CRS of the tiles; None for a scene that is cut by pixels."""
        return self.georeference.crs

    @property
    def transform(self) -> Affine:
        """Pixel to CRS, rasterio's order; only the spacing where there is no CRS."""
        return self.georeference.transform

    @property
    def height(self) -> int:
        """Rows."""
        return self.georeference.height

    @property
    def width(self) -> int:
        """Columns."""
        return self.georeference.width

    @property
    def geocoding(self) -> Geocoding | None:
        """How the scene was warped; None where the file has its grid itself."""
        return self.georeference.geocoding

    def to_lonlat(self, cols: ArrayLike, rows: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return longitude and latitude in degrees of pixel positions (0, 0 = upper left corner), or NaN."""
        return self.georeference.to_lonlat(cols, rows)

    def ground_spacing_m(self, cols: ArrayLike, rows: ArrayLike) -> NDArray[np.float64]:
        """Return the geometric mean of the two ground spacings at pixel positions, in metres (WGS84)."""
        return self.georeference.ground_spacing_m(cols, rows)

    @contextmanager
    def reader(self) -> Iterator["AmplitudeReader"]:
        """Open the scene for reading; each thread opens its own."""
        with _opened(self.raster, self.path.name) as raster:
            yield AmplitudeReader(self, raster)


class AmplitudeReader:
    """Windows of a scene as amplitude."""

    def __init__(self, scene: Scene, raster: DatasetReader) -> None:
        self._scene = scene
        self._raster = raster

    def read(self, row: int, col: int, height: int, width: int) -> NDArray[np.generic]:
        """Read a window inside of the scene.

        Returns:
            (height, width) amplitude of the scene's `dtype`; 0 where there is no data: outside of a warped
            image, the file's no-data value, NaN, infinity and negative amplitude.

        Raises:
            SceneError: The file is damaged there.
        """
        scene = self._scene
        assert 0 <= row <= row + height <= scene.height, (row, height)
        assert 0 <= col <= col + width <= scene.width, (col, width)
        if scene.geocoding is None:
            return self._window(row, col, height, width)
        # Fixed windows, so that the same pixels come out whatever is asked for together.
        amplitude = np.empty((height, width), scene.dtype)
        for top in range(row - row % warp.BLOCK_ROWS, row + height, warp.BLOCK_ROWS):
            for left in range(col - col % warp.BLOCK_COLS, col + width, warp.BLOCK_COLS):
                bottom = min(top + warp.BLOCK_ROWS, scene.height)
                right = min(left + warp.BLOCK_COLS, scene.width)
                block = self._window(top, left, bottom - top, right - left)
                first_row, first_col = max(top, row), max(left, col)
                end_row, end_col = min(bottom, row + height), min(right, col + width)
                amplitude[first_row - row : end_row - row, first_col - col : end_col - col] = block[
                    first_row - top : end_row - top, first_col - left : end_col - left
                ]
        return amplitude

    def _window(self, row: int, col: int, height: int, width: int) -> NDArray[np.generic]:
        scene, pixels = self._scene, self._scene.pixels
        window = Window(col, row, width, height)
        bands = pixels.bands[0] if len(pixels.bands) == 1 else list(pixels.bands)
        try:
            stored = self._raster.read(bands, window=window)
            valid = self._raster.read_masks(pixels.bands[0], window=window) > 0 if pixels.masked else None
        except RasterioError as error:
            raise damaged(scene.path.name, row, col, error) from error
        amplitude = pixels.amplitude(stored, valid)
        return self._calibrate(amplitude, row, col) if scene.calibrated else amplitude

    def _calibrate(self, amplitude: NDArray[np.generic], row: int, col: int) -> NDArray[np.generic]:
        scene, calibration = self._scene, self._scene.source.calibration
        assert calibration is not None
        if (fit := scene.georeference.fit) is None:
            return calibration.sigma0(amplitude, row, col)
        # The table belongs to the file's rows and columns: find those of a few nodes, interpolate between.
        steps = [np.arange(count) / _CALIBRATION_STEP for count in amplitude.shape]
        nodes = [np.arange(math.ceil(step[-1]) + 1) for step in steps]
        rows, cols = np.meshgrid(*(n * _CALIBRATION_STEP + 0.5 for n in nodes), indexing="ij")
        in_file = fit.to_pixel(np.stack(apply_transform(scene.transform, cols + col, rows + row), axis=-1))
        table = RegularGridInterpolator(
            (calibration.lines, calibration.pixels), calibration.sigma, bounds_error=False, fill_value=None
        )
        # The table counts pixels by their number, at half a pixel of GDAL's positions. Nodes just outside
        # are needed for pixels inside, so the table is extrapolated there, but not far outside.
        margin = 4 * _CALIBRATION_STEP
        lines = np.clip(in_file[..., 1] - 0.5, calibration.lines[0] - margin, calibration.lines[-1] + margin)
        columns = np.clip(
            in_file[..., 0] - 0.5, calibration.pixels[0] - margin, calibration.pixels[-1] + margin
        )
        a_sigma = np.maximum(table((lines, columns)), calibration.sigma.min() / 2)
        down, across = (
            np.maximum(0, 1 - np.abs(step[:, None] - node)) for step, node in zip(steps, nodes, strict=True)
        )
        calibrated: NDArray[np.float32] = amplitude / (down @ a_sigma @ across.T)
        return calibrated.astype(np.float32)


def open_scenes(path: Path, settings: SceneSettings, manifest: SceneManifest | None = None) -> list[Scene]:
    """Open the scenes of a raster file or a product: what they are and where they lie.

    Reads no pixels beyond a sample; shows the kind of pixels and the fit in the log.

    Args:
        path: A raster; a product's folder, zip or metadata file.
        settings: What the user says of it.
        manifest: What is known of scenes from a list beside them.

    Raises:
        SceneError: There is no such file, no raster, no geo-reference, it is under 64 px a side, or a band
            must be chosen.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # it gets a sentence of our own
        return [_open_scene(source, settings, manifest) for source in find_sources(path, settings)]


def crs_name(crs: CRS) -> str:
    """Return "EPSG:n" where the CRS is in EPSG's list, else its WKT2."""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt("WKT2_2019"))


def _open_scene(source: Source, settings: SceneSettings, manifest: SceneManifest | None) -> Scene:
    name = source.path.name
    listed, gsd_m = _facts_of_manifest(source, manifest)
    if settings.gsd_m is None and gsd_m is not None:
        settings = settings.model_copy(update={"gsd_m": gsd_m})
    with _opened(source.raster, name) as raster:
        _refuse_small(raster.height, raster.width, name)
        pixels = pixel_format(raster, source, settings, name)
        place = locate(raster, source, settings, name)
        facts = _facts(raster, pixels, source, settings, listed)
        several = raster.count > len(pixels.bands)
        block_rows = raster.block_shapes[pixels.bands[0] - 1][0]
    band_index, opened = pixels.bands[0], source.raster
    if place.transformer is not None:
        if pixels.kind == "complex" and settings.resampling != "nearest":
            raise SceneError(
                f"{name} has complex pixels, whose phases cannot be averaged: leave scene.resampling out"
            )
        opened, pixels = warp.warped_raster(
            opened, pixels, place.transformer, (place.height, place.width), settings.resampling
        )
        block_rows = warp.BLOCK_ROWS
    spacing = float(place.ground_spacing_m(place.width / 2, place.height / 2))
    if not (math.isfinite(spacing) and spacing > 0):
        raise not_on_earth(name)
    if not _SPACING_M[0] <= spacing <= _SPACING_M[1]:
        raise SceneError(
            f"{name} has pixels of {spacing:.3g} m on the ground, and no SAR scene has: correct its "
            "geo-reference, for example with gdal_edit, or scene.gsd_m"
        )
    digest = _digest(source.files)
    content = hashlib.sha256(f"{digest} band {band_index}".encode()).hexdigest() if several else digest
    log.info("%s: %s pixels, %.3g m on the ground, %s", name, pixels.kind, spacing, _crs_words(place.crs))
    return Scene(
        path=source.path,
        scene_id=f"{''.join(c if c.isalnum() or c in '._-' else '-' for c in source.name)}_{content[:8]}",
        digest=digest,
        source=source,
        pixels=pixels,
        block_rows=block_rows,
        georeference=place,
        gsd_m=spacing,
        facts=facts,
        raster=opened,
        band_index=band_index,
        calibrated=settings.calibration == "sigma0" and source.calibration is not None,
    )


@contextmanager
def _opened(raster: str, name: str) -> Iterator[DatasetReader]:
    # The cache is in bytes. One thread: a build reads as many strips at a time as it has workers.
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MB << 20, GDAL_NUM_THREADS="1"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                dataset = rasterio.open(raster)
        except RasterioError as error:
            raise SceneError(
                f"{name} is no raster that GDAL can read: give a GeoTIFF or another SAR product"
            ) from error
        with dataset:
            yield dataset


def _refuse_small(height: int, width: int, name: str) -> None:
    if min(height, width) < MIN_SIDE_PX:
        raise SceneError(
            f"{name} is {width} x {height} px, and a scene needs at least {MIN_SIDE_PX} px a side: give the "
            "full scene, not a chip"
        )


def _digest(files: tuple[Path, ...]) -> str:
    try:
        digests = [sha256(file) for file in files]
    except OSError as error:
        raise SceneError(f"{error.filename} cannot be read ({error.strerror}): get the file again") from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _crs_words(crs: CRS | None) -> str:
    return crs.name if crs is not None else "no geo-reference: tiles without coordinates"


def _facts_of_manifest(source: Source, manifest: SceneManifest | None) -> tuple[SceneFacts, float | None]:
    """Return the metadata and spacing that the manifest has of a source: of its file, else of its product."""
    facts, gsd_m = SceneFacts(), None
    if manifest is None:
        return facts, gsd_m
    for path in dict.fromkeys((*source.files, source.path)):
        entry = manifest.facts_for(path)
        facts, gsd_m = facts.completed_by(entry.facts), entry.gsd_m if gsd_m is None else gsd_m
    return facts, gsd_m


def _facts(
    raster: DatasetReader, pixels: PixelFormat, source: Source, settings: SceneSettings, listed: SceneFacts
) -> SceneFacts:
    """Merge metadata of settings, manifest, tags, band name, product and file names, in this precedence."""
    tags = {key.upper(): value for key, value in raster.tags().items()}
    own_band = band_names(raster)[pixels.bands[0] - 1]
    tagged = SceneFacts(
        platform=tags.get("PLATFORM"),
        band=tags.get("BAND"),
        polarization=facts_of_name(own_band).polarization
        or tags.get("POLARIZATION")
        or tags.get("POLARISATION"),
        mode=tags.get("MODE"),
        product_type=tags.get("PRODUCT_TYPE"),
        orbit_direction=tags.get("ORBIT_DIRECTION"),
        look_side=tags.get("LOOK_SIDE"),
        incidence_deg=_number(tags.get("INCIDENCE_DEG")),
        looks=_number(tags.get("LOOKS")),
        acquired=_time(tags.get("ACQUIRED")),
    )
    facts = SceneFacts(platform=settings.platform, polarization=settings.polarization)
    named = [facts_named(facts_of_name(tags.get(tag, ""))) for tag in ("SOURCE_PRODUCT", "SENSOR")]
    for more in (listed, tagged, *named, source.facts):
        # Another platform's band is not this one's.
        same = more.platform is None or facts.platform in (None, more.platform)
        facts = facts.completed_by(more if same else replace(more, band=None))
    return facts.completed_by(SceneFacts(band=BANDS.get(facts.platform or "")))


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _time(text: str | None) -> datetime | None:
    """Parse a time; one without a zone is UTC, as the tags are defined."""
    try:
        time = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return time and (time if time.tzinfo else time.replace(tzinfo=UTC))
