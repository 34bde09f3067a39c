"""Stored pixels to amplitude: which band a scene is read from, what its values are, and what is no data.

Amplitude, intensity, dB and complex values all become amplitude, 0 = no data, before anything else is done
with them. Integer amplitude keeps its type; nothing goes through masked arrays, which take several times as
long as reading does.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from fusar_klip.errors import SceneError
from fusar_klip.geo.platforms import facts_of_name
from fusar_klip.tiles.scene.products import Source
from fusar_klip.tiles.settings import PixelKind, SceneSettings

# 49 windows of a whole block or at most 128 px a side tell the sign of the median.
_SAMPLES = 7
_SAMPLE_PX = 128
_AMPLITUDE_PER_DB = math.log(10) / 20
# What is larger is a fill value that the file does not declare (netCDF's 9.97e36, float32's maximum of
# 3.4e38), and its square overflows float32.
_LARGEST = 1e18
# SNAP's, pyroSAR's and ASF's names of bands and files.
_KIND_NAMES: tuple[tuple[PixelKind, str], ...] = (
    ("db", r"(?<![a-z])db(?![a-z])|decibel"),
    ("amplitude", r"amplitude|(?<![a-z])amp(?![a-z])"),
    ("intensity", r"intensity|(?<![a-z])power(?![a-z])|(?:sigma|gamma|beta)(?:0|nought)"),
)


@dataclass(frozen=True)
class PixelFormat:
    """How the stored values of a scene become amplitude.

    Attributes:
        bands: The raster bands, from 1: (values,) or (real part, imaginary part).
        kind: What a value is, never "auto".
        stored: NumPy's name of the stored type; complex pairs of int16 count as "complex64".
        nodata: The stored value of no data; None where there is none.
        scale: What a stored value is multiplied with.
        offset: What is then added.
        masked: A mask beside the pixels, or an alpha band, marks what is no data.
        alpha: That alpha band, from 1.
        table: Amplitude by the stored 8-bit value, where the product has such a table.
    """

    bands: tuple[int, ...]
    kind: PixelKind
    stored: str
    nodata: float | None
    scale: float = 1.0
    offset: float = 0.0
    masked: bool = False
    alpha: int | None = None
    table: tuple[float, ...] | None = None

    @property
    def dtype(self) -> str:
        """Type of the amplitude: "uint8" (passes unmapped), "uint16" or "float32"."""
        if self.kind != "amplitude" or self.table or (self.scale, self.offset) != (1.0, 0.0):
            return "float32"
        match self.stored:
            case "uint8":
                return "uint8"
            case "uint16" | "int16" | "int8":
                return "uint16"
        return "float32"

    @property
    def zero_is_a_value(self) -> bool:
        """Whether a stored 0 can stand for an amplitude: dB does so, and values with an offset."""
        return self.kind == "db" or self.offset != 0 or bool(self.table and self.table[0] > 0)

    def amplitude(
        self, stored: NDArray[np.generic], valid: NDArray[np.bool_] | None = None
    ) -> NDArray[np.generic]:
        """Turn stored values into amplitude.

        Args:
            stored: (h, w), or (2, h, w) real and imaginary parts. It may be overwritten.
            valid: (h, w) mask, where there is one.

        Returns:
            (h, w) array of `dtype`; 0 where there is no data: the no-data value, NaN, infinity, fill
            values, negative amplitude, and what `valid` leaves out.
        """
        missing = None if valid is None else ~valid
        nodata = self.nodata
        if nodata is not None and (nodata != 0 or self.zero_is_a_value):
            # An integer is compared as such: against a float the whole array would be converted first.
            same = stored == (int(nodata) if stored.dtype.kind in "iu" and nodata.is_integer() else nodata)
            same = same if stored.ndim == 2 else same.all(axis=0)
            missing = same if missing is None else missing | same
        amplitude = self._linear(stored)
        if missing is not None:
            amplitude[missing] = 0
        return amplitude

    def _linear(self, stored: NDArray[np.generic]) -> NDArray[np.generic]:
        if self.dtype != "float32":
            positive = stored if stored.dtype.kind == "u" else np.maximum(stored, 0)
            return positive.astype(self.dtype, copy=False)
        if self.table:
            return np.asarray(self.table, np.float32)[stored.astype(np.uint8)]
        with np.errstate(over="ignore", invalid="ignore"):
            amplitude = self._float_amplitude(stored).astype(np.float32, copy=False)
            amplitude[~(amplitude <= _LARGEST)] = 0
        return np.maximum(amplitude, 0, out=amplitude)

    def _float_amplitude(self, stored: NDArray[Any]) -> NDArray[Any]:
        values: NDArray[Any]
        if self.kind == "complex":
            values = np.abs(stored) if len(self.bands) == 1 else np.hypot(*stored.astype(np.float64))
            return values * self.scale
        # float32 holds 16 bits exactly; what is wider keeps its precision until the amplitude is made.
        enough = stored.dtype == np.float32 or stored.dtype.itemsize <= 2
        values = stored.astype(np.float32 if enough else np.float64, copy=False)
        if (self.scale, self.offset) != (1.0, 0.0):
            values = values * self.scale + self.offset
        if self.kind == "db":
            values = np.exp(values * _AMPLITUDE_PER_DB)
        elif self.kind == "intensity":
            values = np.sqrt(np.maximum(values, 0))
        return values


def pixel_format(raster: DatasetReader, source: Source, settings: SceneSettings, name: str) -> PixelFormat:
    """Find out what the pixels of an open raster are; reads no more of them than a sample.

    Raises:
        SceneError: A band must be chosen, there is none of that name, or `scene.kind` does not fit.
    """
    told = settings.kind if settings.kind != "auto" else source.kind
    bands = (
        source.bands
        if source.bands and settings.band is None
        else _choose_bands(raster, settings, told, name)
    )
    band = bands[0]
    is_complex = "complex" in raster.dtypes[band - 1]
    stored = "complex64" if raster.dtypes[band - 1] == "complex_int16" else raster.dtypes[band - 1]
    kind = told if told and told != "auto" else _detect_kind(raster, band, source, name)
    if is_complex and kind != "complex":
        raise SceneError(f"{name} has complex pixels, not {kind}: leave scene.kind out")
    if kind == "complex" and not is_complex and len(bands) != 2:
        raise SceneError(
            f"{name} has real-valued pixels ({stored}), not complex: leave scene.kind out, or give a raster "
            "with exactly two bands, the real and the imaginary part"
        )
    flags = raster.mask_flag_enums[band - 1]
    return PixelFormat(
        bands=bands,
        kind=kind,
        stored=stored,
        nodata=None if raster.nodatavals[band - 1] is None else float(raster.nodatavals[band - 1]),
        scale=_factor(raster.scales[band - 1], 1.0),
        offset=_factor(raster.offsets[band - 1], 0.0),
        masked=MaskFlags.per_dataset in flags or MaskFlags.alpha in flags,
        alpha=next((i for i, use in enumerate(raster.colorinterp, 1) if use == ColorInterp.alpha), None),
        table=source.amplitude_table,
    )


def band_names(raster: DatasetReader) -> list[str]:
    """Return the bands' names, by description or GDAL's polarization tag; "" where a band has none."""
    names = []
    for index, description in enumerate(raster.descriptions, 1):
        tags = raster.tags(index)
        name = description or tags.get("POLARIZATION") or tags.get("POLARIMETRIC_INTERP") or ""
        names.append(name.strip())
    return names


def _choose_bands(
    raster: DatasetReader, settings: SceneSettings, told: PixelKind | None, name: str
) -> tuple[int, ...]:
    names = band_names(raster)
    indexes = [i for i, use in enumerate(raster.colorinterp, 1) if use != ColorInterp.alpha]
    wanted = settings.band if settings.band is not None else settings.polarization
    if len(indexes) == 1 and settings.band is None:
        return (indexes[0],)
    real = not any("complex" in raster.dtypes[i - 1] for i in indexes)
    if told == "complex" and real and len(indexes) == 2 and settings.band is None:
        return (indexes[0], indexes[1])
    listing = ", ".join(f"{i} {names[i - 1]}".strip() for i in indexes)
    if wanted is None:
        example = next((names[i - 1] for i in indexes if names[i - 1]), "1")
        pair = (
            ", or --set scene.kind=complex for real and imaginary part" if real and len(indexes) == 2 else ""
        )
        raise SceneError(
            f"{name} has {len(indexes)} bands ({listing}): choose one with --set scene.band={example}{pair}"
        )
    text = str(wanted).casefold()
    exact = [i for i in indexes if text in (str(i), names[i - 1].casefold())]
    by_polarization = [i for i in indexes if facts_of_name(names[i - 1]).polarization == text.upper()]
    found = exact or by_polarization
    if len(found) == 1:
        return (found[0],)
    what = f"{len(found)} bands named {wanted}" if found else f"no band {wanted}"
    raise SceneError(f"{name} has {what}: set scene.band to one of {listing}")


def _detect_kind(raster: DatasetReader, band: int, source: Source, name: str) -> PixelKind:
    """Detect the kind by data type, sign of the median, and names; values alone do not show intensity."""
    dtype = raster.dtypes[band - 1]
    if "complex" in dtype:
        return "complex"
    if dtype == "uint8":  # a picture already, whatever its name says of what it was made from
        return "amplitude"
    values = _sample(raster, band, name)
    nodata = raster.nodatavals[band - 1]
    values = values[np.isfinite(values) & (values != (0 if nodata is None else nodata))]
    scale, offset = _factor(raster.scales[band - 1], 1.0), _factor(raster.offsets[band - 1], 0.0)
    if values.size and np.median(values) * scale + offset < 0:
        return "db"
    for text in (band_names(raster)[band - 1], source.name, name):
        for kind, pattern in _KIND_NAMES:
            if re.search(pattern, text.replace("_", " "), re.IGNORECASE):
                return kind
    return "amplitude"


def _sample(raster: DatasetReader, band: int, name: str) -> NDArray[Any]:
    """Return some pixels from all over a raster. A decimated read would decode every block of it."""
    block_rows, block_cols = raster.block_shapes[band - 1]
    height, width = min(block_rows, _SAMPLE_PX), min(block_cols, _SAMPLE_PX)
    parts = []
    for down in np.linspace(0, raster.height - height, _SAMPLES).astype(int):
        for across in np.linspace(0, raster.width - width, _SAMPLES).astype(int):
            row, col = down - down % block_rows, across - across % block_cols
            window = Window(col, row, min(width, raster.width - col), min(height, raster.height - row))
            try:
                parts.append(raster.read(band, window=window).ravel())
            except RasterioError as error:
                raise damaged(name, row, col, error) from error
    return np.concatenate(parts)


def damaged(name: str, row: int, col: int, error: Exception) -> SceneError:
    """Return the error for pixels that cannot be decoded."""
    return SceneError(f"{name} is damaged near row {row}, column {col} ({error}): get the file again")


def _factor(value: float | None, default: float) -> float:
    """Return a band's scale or offset; GDAL gives NaN or 0 for a scale that makes no sense."""
    if value is None or not math.isfinite(value) or (default == 1.0 and value == 0):
        return default
    return float(value)
