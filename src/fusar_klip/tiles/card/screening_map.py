"""The picture of a scene's screening: what was seen, how dense it is, and which tiles are kept for it."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fusar_klip.files import write_bytes
from fusar_klip.tiles.screening.overview import Overview
from fusar_klip.tiles.screening.screen import Reason, Screening

_PANEL_PX = 820
_MARGIN_PX = 24
_HEADER_PX = 64
_FOOTER_PX = 96
_PAPER = (250, 250, 248)
_INK = (32, 36, 44)
_FAINT = (110, 116, 128)
_NO_DATA = (228, 228, 224)
REASONS: dict[Reason, tuple[str, tuple[int, int, int]]] = {
    "density": ("dense region", (255, 200, 40)),
    "target": ("target at sea", (70, 210, 255)),
    "area": ("area of interest", (120, 230, 110)),
    "place": ("airport or port", (255, 120, 200)),
}
"""Words and color of each reason to keep a tile."""
_DENSITY_STOPS = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))
"""Of the color map "inferno", evenly spaced: dark to bright in grey print and to every eye."""


def save_map(
    path: Path,
    overview: Overview,
    screening: Screening,
    kept: Sequence[tuple[int, int, int, int]],
    *,
    title: str = "",
) -> None:
    """Draw a scene's screening as a PNG of two panels: the scene with the kept tiles, and the density.

    Args:
        path: The file to write, atomically.
        overview: Of the scene.
        screening: Of the scene.
        kept: Windows of the kept tiles in scene pixels: (top, left, height, width). Those of the smallest
            scale are drawn.
        title: Written on top, such as the scene's file name.
    """
    rows, cols = overview.amplitude.shape
    scale = _PANEL_PX / max(rows, cols)
    size = (max(1, round(cols * scale)), max(1, round(rows * scale)))
    scene = _panel(_grey(overview), overview.full(), size)
    density = _panel(_colors(screening.density), overview.full(), size)
    # Tiles nest: outlines of all scales on top of each other would show nothing.
    least = min((window[2] for window in kept), default=0)
    drawn = [window for window in kept if window[2] == least]
    by_reason = [(screening.reason(*window) or "density", window) for window in drawn]
    for panel in (scene, density):
        _outline(panel, by_reason, scale / overview.cell_px, bold=panel is scene)

    sheet = Image.new(
        "RGB",
        (2 * size[0] + 3 * _MARGIN_PX, max(size[1], 120) + _HEADER_PX + _FOOTER_PX),
        _PAPER,
    )
    for index, panel in enumerate((scene, density)):
        sheet.paste(panel, (_MARGIN_PX + index * (size[0] + _MARGIN_PX), _HEADER_PX))
    scales = len({window[2] for window in kept})
    words = f"The scene, and {len(drawn)} kept tiles" + (" of the smallest scale" if scales > 1 else "")
    _write_header(sheet, title, words, size[0])
    _write_footer(sheet, {reason for reason, _ in by_reason}, size[0], overview, scale, screening)
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG")
    write_bytes(path, encoded.getvalue())


def _grey(overview: Overview) -> NDArray[np.uint8]:
    """Stretch the mean amplitude: (h, w, 3) uint8, square root from 0 to the 99th percentile."""
    valid = overview.full()
    top = float(np.percentile(overview.amplitude[valid], 99)) if valid.any() else 1.0
    grey = np.rint(255 * np.sqrt(np.clip(overview.amplitude / max(top, 1e-30), 0, 1))).astype(np.uint8)
    return np.stack([grey, grey, grey], axis=-1)


def _colors(density: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Paint densities of 0 to 1, (h, w), as (h, w, 3) uint8."""
    at = np.linspace(0, 1, len(_DENSITY_STOPS))
    channels = [np.interp(density, at, channel) for channel in np.transpose(_DENSITY_STOPS)]
    painted: NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return painted


def _panel(colors: NDArray[np.uint8], valid: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    shown = np.where(valid[..., np.newaxis], colors, np.array(_NO_DATA, np.uint8))
    shrinks = size[0] < colors.shape[1]
    return Image.fromarray(shown).resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST)


def _outline(
    panel: Image.Image,
    windows: Sequence[tuple[Reason, tuple[int, int, int, int]]],
    scale: float,
    *,
    bold: bool,
) -> None:
    """Draw the windows, those kept for a special reason on top."""
    draw = ImageDraw.Draw(panel)
    for reason, (top, left, height, width) in sorted(windows, key=lambda item: item[0] != "density"):
        box = [left * scale, top * scale, (left + width) * scale - 1, (top + height) * scale - 1]
        if not bold:
            draw.rectangle(box, outline=(190, 190, 190), width=1)
            continue
        # Neighbours must not hide each other's lines, however small the tiles.
        inset = 1 if min(box[2] - box[0], box[3] - box[1]) > 8 else 0
        box = [box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset]
        draw.rectangle(box, outline=REASONS[reason][1], width=2 if inset else 1)


def _write_header(sheet: Image.Image, title: str, words: str, panel_px: int) -> None:
    draw = ImageDraw.Draw(sheet)
    second = 2 * _MARGIN_PX + panel_px
    draw.text((_MARGIN_PX, 10), _cut(draw, title, 20, 2 * panel_px), _INK, _font(20))
    draw.text((_MARGIN_PX, 38), _cut(draw, words, 15, panel_px), _FAINT, _font(15))
    draw.text((second, 38), "Semantic density", _FAINT, _font(15))


def _write_footer(
    sheet: Image.Image,
    reasons: set[Reason],
    panel_px: int,
    overview: Overview,
    scale: float,
    screening: Screening,
) -> None:
    """Write the legend of the outlines and a scale bar on the left, the density's colors on the right."""
    draw = ImageDraw.Draw(sheet)
    top = sheet.height - _FOOTER_PX + 14
    x = float(_MARGIN_PX)
    for reason, (words, color) in REASONS.items():
        if reason not in reasons:
            continue
        draw.rectangle([x, top, x + 16, top + 16], fill=(70, 74, 82), outline=color, width=3)
        draw.text((x + 24, top), words, _INK, _font(14))
        x += 24 + draw.textlength(words, _font(14)) + 22
    px_per_m = scale / (overview.cell_px * overview.gsd_m)
    length_m = _round_length(0.25 * panel_px / px_per_m)
    y = top + 44
    draw.line([_MARGIN_PX, y, _MARGIN_PX + length_m * px_per_m, y], _INK, 3)
    words = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"
    draw.text((_MARGIN_PX, y + 6), words, _INK, _font(14))

    left, width = 2 * _MARGIN_PX + panel_px, min(300, panel_px)
    ramp = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (16, width))
    sheet.paste(Image.fromarray(_colors(ramp)), (left, top))
    at = left + round(screening.settings.threshold * (width - 1))
    draw.line([at, top - 4, at, top + 20], _INK, 2)
    draw.text((at, top + 22), f"kept from {screening.settings.threshold:g}", _INK, _font(14), anchor="ma")
    draw.text((left, top + 22), "0", _INK, _font(14))
    draw.text((left + width, top + 22), "1", _INK, _font(14), anchor="ra")


def _round_length(length_m: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is no longer."""
    power = 10.0 ** math.floor(math.log10(length_m))
    return float(max(step for step in (1, 2, 5) if step * power <= length_m) * power)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _cut(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> str:
    """Shorten a text to a width in pixels."""
    if draw.textlength(text, _font(size)) <= width:
        return text
    while text and draw.textlength(f"{text}...", _font(size)) > width:
        text = text[:-1]
    return f"{text}..."
