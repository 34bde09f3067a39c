"""Reads image files of any bit depth as single-channel uint8 arrays.

8-bit images are returned unchanged. The first band of 16-bit, float, complex and decibel images is mapped to
8 bits as `build` maps scenes (decisions.md, "8-bit mapping"), each image by itself: amplitude is scaled, and
`MEAN_MULTIPLE` times its mean becomes 255; 0 is no data.
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
"""Amplitudes of at least this multiple of the mean become 255."""

# Smaller values are no-data marks such as -9999 or -32768: neither amplitudes nor decibels.
_LEAST_DB = -200.0


def read_image(file: Path) -> NDArray[np.uint8]:
    """Return an image file as (H, W) uint8; 0 is no data.

    Raises:
        DatasetError: The file is missing, not a readable image, or too large to be decoded at once.
    """
    return _by_either(file, to_single_channel, lambda series: _mapped(_first_band(file, series)))


def to_single_channel(image: Image.Image) -> NDArray[np.uint8]:
    """Return a Pillow image of any mode as (H, W) uint8."""
    return _mapped(np.asarray(image)) if _is_deep(image) else np.asarray(image.convert("L"))


def image_size(file: Path) -> tuple[int, int]:
    """Return an image's (height, width) from its header, without decoding the pixels.

    Raises:
        DatasetError: The file is missing or not a readable image.
    """

    def of_series(series: tifffile.TiffPageSeries) -> tuple[int, int]:
        sides = dict(zip(series.axes, series.shape, strict=True))
        return sides["Y"], sides["X"]

    return _by_either(file, lambda image: (image.height, image.width), of_series)


@contextmanager
def image_read_errors(file: Path) -> Iterator[None]:
    """Replace any exception from reading `file` by a `DatasetError` of one sentence.

    Raises:
        DatasetError: The file is missing, not an image, damaged, or too large to be decoded at once.
    """
    try:
        yield
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(f"no image at {file}: give the path of a tile, PNG, JPEG or TIFF file") from None
    except Image.DecompressionBombError as error:
        raise DatasetError(
            f"{file} is too large to be decoded at once, or damaged ({error}): "
            "cut it into tiles with fusar-klip build"
        ) from None
    except Exception as error:  # damaged files make Pillow and tifffile raise all kinds of exceptions
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise DatasetError(f"{file} is not a readable image{why}: replace or remove it") from None


def _by_either(
    file: Path, of_image: Callable[[Image.Image], T], of_series: Callable[[tifffile.TiffPageSeries], T]
) -> T:
    """Apply `of_image` to the file opened by Pillow, or `of_series` where only tifffile reads the TIFF."""
    with image_read_errors(file):
        try:
            with Image.open(file) as image:
                # Pillow decodes some big-endian TIFFs of more than 8 bits wrongly.
                if not (_is_tiff(file) and _is_deep(image)):
                    return of_image(image)
        except OSError:  # Pillow does not support every sample type and compression
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
        raise DatasetError(f"{file} has the axes {series.axes} and is not a 2-D image: replace or remove it")
    return values


def _mapped(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map amplitude, or decibels (floats with a negative median), to 1 to 255; 0 is no data."""
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
