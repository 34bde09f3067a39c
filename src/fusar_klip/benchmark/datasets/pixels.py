"""Any image of a benchmark data set as 8-bit grey: also 16-bit, float and decibel ones, and those of bands.

8-bit images pass unmapped. Others are mapped as `build` maps scenes (decisions.md, "8-bit mapping"):
amplitude, with a threshold at a multiple of the image's mean.
"""

from pathlib import Path

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
        DatasetError: The file is no image, or has no such band.
    """
    try:
        with Image.open(file) as image:
            if image.mode in ("L", "P", "1", "RGB", "RGBA", "LA"):
                return np.asarray(image.convert("L"))
            if not file.suffix.lower().startswith(".tif"):
                return _mapped(np.asarray(image, dtype=np.float32))
    except OSError as error:  # no image, or one that was cut off
        if not file.suffix.lower().startswith(".tif"):
            raise no_image(file, error) from None
    return _mapped(_tiff_band(file, band))


def image_size(file: Path) -> tuple[int, int]:
    """Return an image's height and width from its header.

    Raises:
        DatasetError: The file is no image.
    """
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except OSError as error:
        if not file.suffix.lower().startswith(".tif"):
            raise no_image(file, error) from None
    height, width = _tiff_band(file, 0).shape
    return height, width


def no_image(file: Path, error: OSError) -> DatasetError:
    """Return what is said of a file that is no image, or not a whole one."""
    why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
    return DatasetError(
        f"{file} is no image that can be read{why}: fetch it again, or take it out of the set"
    )


def _tiff_band(file: Path, band: int) -> NDArray[np.float32]:
    try:
        values = np.asarray(tifffile.imread(file))
    except (tifffile.TiffFileError, ValueError) as error:
        raise DatasetError(f"{file} is no TIFF that can be read ({error}): take it out of the set") from None
    if values.ndim == 3:
        # Bands are first or last; an image is wider than it has bands.
        values = values if values.shape[0] < values.shape[-1] else np.moveaxis(values, -1, 0)
        if band >= len(values):
            raise DatasetError(f"{file} has {len(values)} bands: band {band} is not among them")
        values = values[band]
    return np.abs(values).astype(np.float32) if np.iscomplexobj(values) else values.astype(np.float32)


def _mapped(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Map amplitude, or decibels (recognised by their negative median), to 8 bits; not finite becomes 0."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, dtype=np.uint8)
    if np.median(values[finite]) < 0:
        values = np.power(10.0, values / 20.0)
    values = np.where(finite, np.maximum(values, 0), 0)
    mean = float(values[finite].mean())
    if mean <= 0:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.asarray(np.clip(np.rint(values * (255 / (MEAN_MULTIPLE * mean))), 0, 255), dtype=np.uint8)
