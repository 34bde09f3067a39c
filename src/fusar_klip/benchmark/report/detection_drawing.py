"""A sheet of test images with what was found: blue right, red a false alarm, yellow missed (figure 12)."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from fusar_klip.benchmark.metrics.box_matching import Detections, GroundTruth, match_image
from fusar_klip.benchmark.report.figures import png
from fusar_klip.benchmark.results import ReportFigure
from fusar_klip.datasets.samples import AnnotatedImage
from fusar_klip.image_io import read_image

RIGHT, FALSE, MISSED = "#4aa3ff", "#ff4b3e", "#ffd92f"
SHOWN_SCORE = 0.5
"""Detections of at least this score are drawn."""
_IMAGES, _A_ROW = 6, 3


def draw_detections(
    images: Sequence[AnnotatedImage],
    truths: Sequence[GroundTruth],
    found: Sequence[Detections],
    classes: Sequence[str],
    seed: int,
) -> list[ReportFigure]:
    """Return one sheet of test images that have boxes or detections, drawn at random, not picked."""
    shown = [_shown(f) for f in found]
    worth = [i for i, (t, f) in enumerate(zip(truths, shown, strict=True)) if len(t.boxes) or len(f.scores)]
    chosen = np.random.default_rng(seed).permutation(worth)[:_IMAGES].tolist()
    columns = min(_A_ROW, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.75 * rows + 0.4))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    counts = np.zeros(3, dtype=np.int64)
    for axes, i in zip(grid, chosen, strict=False):
        grey = read_image(images[i].file)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        counts += _draw(axes, truths[i], shown[i], classes)
        axes.set_title(images[i].file.stem[:40], fontsize=8)
    handles = [
        Patch(edgecolor=colour, facecolor="none", linewidth=2, label=f"{label} ({count})")
        for colour, label, count in zip(
            (RIGHT, FALSE, MISSED), ("right", "false alarm", "missed"), counts.tolist(), strict=True
        )
    ]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.4 / figure.get_figheight(), 1, 1))
    caption = (
        f"test images drawn at random; detections of score {SHOWN_SCORE:g} and more, right at IoU 0.5 with "
        "the right class."
    )
    content = base64.b64encode(png(figure)).decode("ascii")
    return [ReportFigure("detections", content, "Test images with right, false and missed boxes", caption)]


def _shown(found: Detections) -> Detections:
    kept = found.scores >= SHOWN_SCORE
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept])


def _draw(axes: Any, truth: GroundTruth, found: Detections, classes: Sequence[str]) -> NDArray[np.int64]:
    """Draw the boxes; return how many are right, false and missed."""
    verdict, missed = match_image(truth, found)
    for box, label in zip(truth.boxes[missed], truth.labels[missed], strict=True):
        _outline(axes, box, MISSED, classes[label] if len(classes) > 1 else "")
    for box, label, score, right in zip(found.boxes, found.labels, found.scores, verdict, strict=True):
        if right >= 0:
            name = f"{classes[label]} " if len(classes) > 1 else ""
            _outline(axes, box, RIGHT if right else FALSE, f"{name}{score:.2f}")
    return np.array([(verdict == 1).sum(), (verdict == 0).sum(), missed.sum()])


def _outline(axes: Any, box: NDArray[np.float64], colour: str, text: str) -> None:
    left, top, right, bottom = box.tolist()
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.4)
    )
    if text:
        axes.text(left, top, text, color=colour, fontsize=6, va="bottom", clip_on=True)
