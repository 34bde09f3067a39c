"""Small PNG pictures of chips and tiles, for the report."""

import base64
import io
from pathlib import Path

from PIL import Image

from fusar_klip.image_io import read_image

SIDE = 128
"""Longer side of a thumbnail in pixels, at most."""


def thumbnail(path: Path) -> str:
    """Return a single-channel PNG of an image, base64, its longer side at most `SIDE` pixels."""
    image = Image.fromarray(read_image(path))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode(picture: str) -> Image.Image:
    """Return the picture that `thumbnail` made."""
    return Image.open(io.BytesIO(base64.b64decode(picture)))
