"""Small PNG pictures of chips and tiles, for the report."""

import base64
import io
from pathlib import Path

from PIL import Image

from fusar_klip.image_io import read_image

SIDE = 128
"""Pixels on a picture's longer side at most."""


def thumbnail(path: Path) -> str:
    """Return a grey PNG of an image, base64, at most `SIDE` pixels a side, its aspect kept."""
    grey = Image.fromarray(read_image(path))
    grey.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    grey.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode(picture: str) -> Image.Image:
    """Return the picture that `thumbnail` made."""
    return Image.open(io.BytesIO(base64.b64decode(picture)))
