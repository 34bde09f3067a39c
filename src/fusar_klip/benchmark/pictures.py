"""Small PNG pictures of chips and tiles, for the report."""

import base64
import io
from pathlib import Path

from PIL import Image

SIDE = 128
"""Pixels on a picture's longer side at most."""


def thumbnail(path: Path) -> str:
    """Return a grey PNG of an 8-bit image, base64, at most `SIDE` pixels a side, its aspect kept."""
    with Image.open(path) as image:
        grey = image.convert("L")
    grey.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    grey.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode(picture: str) -> Image.Image:
    """Return the picture that `thumbnail` made."""
    return Image.open(io.BytesIO(base64.b64decode(picture)))
