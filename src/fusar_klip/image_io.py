"""Any image file as 8-bit grey: also 16-bit, float, complex and decibel ones, of which the first band.

8-bit images pass unmapped. Others are mapped as `build` maps scenes (decisions.md, "8-bit mapping"), each by
itself: amplitude, of which a multiple of the mean and more is 255; 0 is no data.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fusar_klip.errors import DatasetError

T = TypeVar("T")

MEAN_MULTIPLE = 3.0
"""Amplitudes of this many times the mean and more become 255."""

# What is below is a mark of no data, such as -9999 or -32768, and neither amplitude nor decibels.
_LEAST_DB = -200.0


def read_image(file: Path) -> NDArray[np.uint8]:
    """Return (H, W) uint8 of an image.

    Raises:
        DatasetError: The file is no image, or is too large to be read whole.
    """
    return _by_either(file, to_single_channel, lambda series: _mapped(_first_band(file, series)))


def to_single_channel(image: Image.Image) -> NDArray[np.uint8]:
    """Return (H, W) uint8 of a picture of any mode."""
    return _mapped(np.asarray(image)) if _is_deep(image) else np.asarray(image.convert("L"))


def image_size(file: Path) -> tuple[int, int]:
    """Return an image's height and width from its header.

    Raises:
        DatasetError: The file is no image.
    """

    def of_series(series: tifffile.TiffPageSeries) -> tuple[int, int]:
        sides = dict(zip(series.axes, series.shape, strict=True))
        return sides["Y"], sides["X"]

    return _by_either(file, lambda image: (image.height, image.width), of_series)


@contextmanager
def image_read_errors(file: Path) -> Iterator[None]:
    """Turn whatever reading an image raises into one sentence.

    Raises:
        DatasetError: The file is missing, no image or not a whole one, or too large to be read whole.
    """
    try:
        yield
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(f"no image at {file}: give the path of a tile, PNG, JPEG or TIFF") from None
    except Image.DecompressionBombError as error:
        raise DatasetError(
            f"{file} is too large to be read whole, or damaged ({error}): cut it with fusar-klip build first"
        ) from None
    except Exception as error:  # Pillow and tifffile raise what the damage happens to cause
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise DatasetError(f"{file} is no image that can be read{why}: replace or remove it") from None


def _by_either(
    file: Path, of_image: Callable[[Image.Image], T], of_series: Callable[[tifffile.TiffPageSeries], T]
) -> T:
    """Return what Pillow's image gives, or tifffile's series where Pillow cannot read the TIFF."""
    with image_read_errors(file):
        try:
            with Image.open(file) as image:
                # Pillow decodes some deep TIFFs of big-endian sensors wrongly.
                if not (_is_tiff(file) and _is_deep(image)):
                    return of_image(image)
        except OSError:  # it knows neither all kinds of bands nor all of compression
            if not _is_tiff(file):
                raise
        with tifffile.TiffFile(file) as tiff:
            return of_series(tiff.series[0])


def _is_tiff(file: Path) -> bool:
    return file.suffix.lower() in (".tif", ".tiff")


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _first_band(file: Path, series: tifffile.TiffPageSeries) -> NDArray[Any]:
    values: NDArray[Any] = series.asarray()[tuple(slice(None) if a in "YX" else 0 for a in series.axes)]
    if values.ndim != 2:
        raise DatasetError(f"{file} has the axes {series.axes}, and no picture: replace or remove it")
    return values


def _mapped(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map amplitude, or decibels (floats with a negative median), to 1..255; 0 is no data."""
    if values.dtype == np.uint8:
        return values
    if np.iscomplexobj(values):
        values = np.abs(values)
    amplitude = values.astype(np.float64)
    valid = np.isfinite(amplitude) & (amplitude > _LEAST_DB)
    if values.dtype.kind == "f" and valid.any() and np.median(amplitude[valid]) < 0:
        amplitude[valid] = 10.0 ** (amplitude[valid] / 20.0)
    valid &= amplitude > 0
    levels = np.zeros(amplitude.shape, np.uint8)
    if valid.any():
        shares = amplitude[valid] / (MEAN_MULTIPLE * amplitude[valid].mean())
        levels[valid] = 1 + np.rint(254 * np.minimum(shares, 1))
    return levels
