"""Reads tiles, and encodes them as PNG images for requests, with an optional scale bar.

The same tile gives the same bytes, because the key of a cached answer holds the image's digest.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rasterio.errors import RasterioError
from rasterio.windows import Window

from fusar_klip.errors import DatasetError

_STRIP_PX = 28  # below the tile, so that the bar covers no pixel of it
_BAR_SHARE = 0.3  # of the width, at most
_FONT_PX = 16


def read_pixels(path: Path, window: Window | None = None) -> NDArray[np.uint8]:
    """Return a tile or a window of it, (H, W) uint8, 0 = no data.

    Raises:
        DatasetError: The tile cannot be read.
    """
    try:
        with rasterio.open(path) as file:
            pixels: NDArray[np.uint8] = file.read(1, window=window)
    except RasterioError as error:
        raise DatasetError(f"the tile {path} cannot be read ({error}): build its data set again") from error
    return pixels


def tile_png(path: Path, side_px: int, scale_bar: bool, gsd_m: float | None) -> bytes:
    """Return a tile as PNG, 8 bits, single-channel, 0 = no data.

    The tile is scaled so that its longer side has `side_px` pixels: reduced by area means, which keep the
    amplitude and
    reduce speckle; enlarged by repeating pixels, which adds no detail.

    Args:
        path: GeoTIFF, one band of uint8.
        side_px: Longer side of the tile in the image, in pixels.
        scale_bar: Add a strip with a scale bar below the tile.
        gsd_m: Ground spacing of the tile's pixels in metres; None: no scale bar.

    Raises:
        DatasetError: The file cannot be read.
    """
    pixels = read_pixels(path)
    height, width = pixels.shape
    factor = side_px / max(height, width)
    if factor != 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        how = Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
        pixels = np.asarray(Image.fromarray(pixels).resize(size, how))
    if scale_bar and gsd_m is not None:
        pixels = np.concatenate([pixels, _scale_strip(pixels.shape[1], gsd_m / factor)])
    return _png(pixels)


def bar_length_m(width_m: float) -> float:
    """Return the greatest of 1, 2 and 5 times a power of ten that is at most 0.3 of a width, in metres."""
    limit = _BAR_SHARE * width_m
    power = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * power for step in (1, 2, 5) if step * power <= limit))


def _scale_strip(width: int, spacing_m: float) -> NDArray[np.uint8]:
    metres = bar_length_m(width * spacing_m)
    bar = round(metres / spacing_m)
    label = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    strip = Image.new("L", (width, _STRIP_PX), 0)
    draw = ImageDraw.Draw(strip)
    middle = _STRIP_PX // 2
    left = min(8, width // 16)
    draw.rectangle((left, middle - 2, left + bar - 1, middle + 1), fill=255)
    draw.text((left + bar + 8, middle), label, fill=255, anchor="lm", font=ImageFont.load_default(_FONT_PX))
    return np.asarray(strip)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode (H, W) uint8 as PNG without row filters: on speckle they cost more time than they save bytes."""
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = np.zeros((height, width + 1), np.uint8)  # a leading 0 says that a row has no filter
    rows[:, 1:] = pixels
    # Speckle has no repetitions to look for, only runs of no data: twice as fast as level 1, and as small.
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    data = deflate.compress(rows.tobytes()) + deflate.flush()
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
