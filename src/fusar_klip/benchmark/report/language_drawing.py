"""Figures of the language tasks: images with what labels say and what a model says."""

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from fusar_klip.benchmark.report.figures import INK, RIGHT, WRONG
from fusar_klip.benchmark.report.thumbnails import decode, thumbnail
from fusar_klip.benchmark.results import ReportFigure

# Letters that fit beside an image, by images in a row.
_LETTERS = {1: 74, 2: 34}
_LINES = 9


@dataclass(frozen=True)
class TextPrediction:
    """What stands beside one image."""

    file: Path
    question: str
    """Printed first; "" where there is none."""
    truth: str
    said: str
    right: bool | None
    """Green or red; None where it is neither right nor wrong."""


def draw_texts(
    name: str, shown: Sequence[TextPrediction], alt: str, caption: str, columns: int = 1
) -> ReportFigure:
    """Draw images, one or two in a row, each with what was asked, the truth and what was said beside it."""
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(8.6, 1.75 * rows))
    ratios = (1, 4) if columns == 1 else (1, 1.5) * columns
    grid = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=ratios)
    for axes in grid.ravel():
        axes.set_axis_off()
    for (picture, words), each in zip(grid.reshape(-1, 2), shown, strict=False):
        picture.set_anchor("N")
        picture.imshow(decode(thumbnail(each.file)), cmap="gray", vmin=0, vmax=255)
        colour = INK if each.right is None else RIGHT if each.right else WRONG
        place = 0.98
        paragraphs = ((each.question, INK), (f"labels: {each.truth}", INK), (f"model: {each.said}", colour))
        for text, ink in paragraphs:
            lines = textwrap.wrap(text, _LETTERS[columns], max_lines=_LINES // 2)
            common = {"fontsize": 9, "va": "top", "transform": words.transAxes, "parse_math": False}
            words.text(0, place, "\n".join(lines), color=ink, **common)
            place -= 0.12 * len(lines) + (0.06 if lines else 0)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return ReportFigure(name, base64.b64encode(buffer.getvalue()).decode("ascii"), alt, caption)
