"""Parts of self-contained HTML pages: escaping templates, tiles as data URLs, data as JSON."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from fusar_klip.texts.tile_images import read_pixels


def tile_url(path: Path, side_px: int) -> str:
    """Return a tile as a JPEG data URL of at most `side_px` a side; the same tile gives the same bytes."""
    image = Image.fromarray(read_pixels(path))
    image.thumbnail((side_px, side_px), Image.Resampling.BOX)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


def png_url(png: bytes) -> str:
    """Return PNG bytes as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def script_json(value: Any) -> str:
    """Return JSON for a <script> element, without any "<" that could end it."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False).replace("<", "\\u003c")


def render(template: Path, **context: Any) -> str:
    """Render a Jinja template. Values are escaped, unless the template marks them `safe`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(context)
