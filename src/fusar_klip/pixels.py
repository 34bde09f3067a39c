"""Any image file as 8-bit grey: also 16-bit, float, complex and decibel ones, and those of bands.

8-bit images pass unmapped. Others are mapped as `build` maps scenes (decisions.md, "8-bit mapping"):
amplitude, with a threshold at a multiple of the image's mean.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fusar_klip.errors import DatasetError

MEAN_MULTIPLE = 3.0
"""Amplitudes of this many times the mean and more become 255."""


def read_grey(file: Path, band: int = 0) -> NDArray[np.uint8]:
    """Return (H, W) uint8 of an image; `band` counts from 0 and matters for TIFFs of several bands only.

    Raises:
        DatasetError: The file is no image, is too large to be read whole, or has no such band.
    """
    with _said_in_one_sentence(file):
        try:
            with Image.open(file) as image:
                if not (_is_tiff(file) and (band or _is_deep(image))):
                    return to_grey(image)
        except FileNotFoundError:
            raise
        except OSError:  # Pillow knows neither all kinds of bands nor all of compression
            if not _is_tiff(file):
                raise
        return _mapped(_tiff_band(file, band))


def to_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Return (H, W) uint8 of a picture of any mode."""
    if _is_deep(image):
        return _mapped(np.asarray(image, dtype=np.float32))
    return np.asarray(image.convert("L"))


def image_size(file: Path) -> tuple[int, int]:
    """Return an image's height and width from its header.

    Raises:
        DatasetError: The file is no image.
    """
    with _said_in_one_sentence(file):
        try:
            with Image.open(file) as image:
                return image.height, image.width
        except FileNotFoundError:
            raise
        except OSError:
            if not _is_tiff(file):
                raise
        height, width = _tiff_band(file, 0).shape
        return height, width


def no_image(file: Path, error: Exception) -> DatasetError:
    """Return what is said of a file that is no image, or not a whole one."""
    why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
    return DatasetError(f"{file} is no image that can be read{why}: replace or remove it")


@contextmanager
def _said_in_one_sentence(file: Path) -> Iterator[None]:
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
        raise no_image(file, error) from None


def _is_tiff(file: Path) -> bool:
    return file.suffix.lower() in (".tif", ".tiff")


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _tiff_band(file: Path, band: int) -> NDArray[Any]:
    values = np.asarray(tifffile.imread(file))
    if values.ndim == 3:
        # Bands are first or last; an image is wider than it has bands.
        values = values if values.shape[0] < values.shape[-1] else np.moveaxis(values, -1, 0)
        if band >= len(values):
            raise DatasetError(f"{file} has {len(values)} bands: band {band} is not among them")
        values = values[band]
    if values.ndim != 2:
        raise DatasetError(f"{file} has {values.ndim} dimensions: take one picture of it, as (H, W)")
    return values


def _mapped(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map amplitude, or decibels (recognised by their negative median), to 8 bits; not finite becomes 0."""
    if values.dtype == np.uint8:
        return values
    amplitude = (np.abs(values) if np.iscomplexobj(values) else values).astype(np.float32)
    finite = np.isfinite(amplitude)
    if not finite.any():
        return np.zeros(amplitude.shape, dtype=np.uint8)
    if np.median(amplitude[finite]) < 0:
        amplitude = np.power(10.0, amplitude / 20.0)
    amplitude = np.where(finite, np.maximum(amplitude, 0), 0)
    mean = float(amplitude[finite].mean())
    if mean <= 0:
        return np.zeros(amplitude.shape, dtype=np.uint8)
    return np.asarray(np.clip(np.rint(amplitude * (255 / (MEAN_MULTIPLE * mean))), 0, 255), dtype=np.uint8)
