"""Sheets of test images with a model's predictions: classes, retrieved images, texts, boxes and masks.

The images are drawn at random by the row's seed, not picked.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from fusar_klip.benchmark.metrics.box_matching import Detections, GroundTruth, match_image
from fusar_klip.benchmark.metrics.retrieval_metrics import ImageTextPairs
from fusar_klip.benchmark.report.charts import TEXT_COLOUR, png, report_figure
from fusar_klip.benchmark.report.thumbnails import decode, thumbnail
from fusar_klip.benchmark.results import ClassifiedImage, ReportFigure, RetrievalExample, RetrievedImage
from fusar_klip.datasets.labelled_data import IGNORED, ImageWithBoxes, ImageWithMask
from fusar_klip.finetune.segmentation.windows import read_images
from fusar_klip.image_io import read_image

CORRECT_COLOUR, WRONG_COLOUR = "#1a7f5a", "#c0392b"
_CLASSIFIED_COLUMNS = 6

_QUERIES_SHOWN = 4
_RETRIEVED_SHOWN = 5

# Letters that fit beside an image, by number of columns.
_LETTERS = {1: 74, 2: 34}
_TEXT_LINES = 9

TRUE_POSITIVE, FALSE_POSITIVE, MISSED = "#4aa3ff", "#ff4b3e", "#ffd92f"
"""Colours of boxes (paper, figure 12)."""
SHOWN_SCORE = 0.5
"""Detections of at least this score are drawn."""
_DETECTION_IMAGES, _DETECTION_COLUMNS = 6, 3

# Okabe and Ito's palette without its black, which colour-blind readers can distinguish.
_MASK_COLOURS = ("#dddddd", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
_NO_CLASS_COLOUR = "#000000"


def draw_classified_images(images: Sequence[ClassifiedImage]) -> bytes:
    """Draw test images with their true and predicted classes, as PNG."""
    rows = -(-len(images) // _CLASSIFIED_COLUMNS)
    figure = Figure(figsize=(1.45 * _CLASSIFIED_COLUMNS, 1.95 * rows))
    grid = figure.subplots(rows, _CLASSIFIED_COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image in zip(grid, images, strict=False):
        axes.imshow(decode(image.picture), cmap="gray", vmin=0, vmax=255)
        correct = image.truth == image.predicted
        title = image.truth if correct else f"{image.truth}\nas {image.predicted}"
        colour = CORRECT_COLOUR if correct else WRONG_COLOUR
        axes.set_title(f"{title} ({image.probability:.2f})", fontsize=8, color=colour)
    figure.tight_layout()
    return png(figure)


def retrieval_examples(
    text_to_image: NDArray[np.float64],
    texts: Sequence[str],
    files: Sequence[Path],
    pairs: ImageTextPairs,
    seed: int,
) -> list[RetrievalExample]:
    """Return texts, drawn at random, with the images that rank first for them.

    Args:
        text_to_image: (M, N) ITC similarities.
        texts: M texts.
        files: N images.
        pairs: Which text belongs to which image.
        seed: Fixes the choice.
    """
    drawn = np.random.default_rng(seed).permutation(len(text_to_image))[:_QUERIES_SHOWN]
    examples = []
    for query in sorted(drawn.tolist()):
        own = int(pairs.image_of_text[query])
        order = np.argsort(-text_to_image[query], kind="stable")
        retrieved = [
            RetrievedImage(
                thumbnail(files[item]), round(float(text_to_image[query, item]), 4), bool(item == own)
            )
            for item in order[:_RETRIEVED_SHOWN]
        ]
        rank = int(np.flatnonzero(order == own)[0]) + 1
        examples.append(RetrievalExample(texts[query], rank, retrieved))
    return examples


def draw_retrieved_images(example: RetrievalExample) -> bytes:
    """Draw the images that rank first for a text, as PNG; the text's own image has a green title."""
    figure = Figure(figsize=(1.75 * len(example.hits), 2.05))
    grid = figure.subplots(1, len(example.hits), squeeze=False)[0]
    for rank, (axes, hit) in enumerate(zip(grid, example.hits, strict=True), start=1):
        axes.imshow(decode(hit.picture), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        own = ", its own" if hit.own else ""
        colour = CORRECT_COLOUR if hit.own else TEXT_COLOUR
        axes.set_title(f"{rank}: {hit.similarity:.3f}{own}", fontsize=9, color=colour)
    figure.tight_layout()
    return png(figure)


@dataclass(frozen=True)
class TextPrediction:
    """The text that a model wrote for an image."""

    file: Path
    question: str
    """Printed first; "" where there is none."""
    truth: str
    predicted: str
    correct: bool | None
    """Green or red; None for a text that is neither correct nor wrong."""


def draw_texts(
    name: str, predictions: Sequence[TextPrediction], alt: str, caption: str, columns: int = 1
) -> ReportFigure:
    """Draw images in one or two columns, each with its question, the labels' text and the model's text."""
    rows = -(-len(predictions) // columns)
    figure = Figure(figsize=(8.6, 1.75 * rows))
    ratios = (1, 4) if columns == 1 else (1, 1.5) * columns
    grid = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=ratios)
    for axes in grid.ravel():
        axes.set_axis_off()
    for (picture, words), shown in zip(grid.reshape(-1, 2), predictions, strict=False):
        picture.set_anchor("N")
        picture.imshow(decode(thumbnail(shown.file)), cmap="gray", vmin=0, vmax=255)
        colour = TEXT_COLOUR
        if shown.correct is not None:
            colour = CORRECT_COLOUR if shown.correct else WRONG_COLOUR
        place = 0.98
        paragraphs = (
            (shown.question, TEXT_COLOUR),
            (f"labels: {shown.truth}", TEXT_COLOUR),
            (f"model: {shown.predicted}", colour),
        )
        for text, ink in paragraphs:
            lines = textwrap.wrap(text, _LETTERS[columns], max_lines=_TEXT_LINES // 2)
            style = {"fontsize": 9, "va": "top", "transform": words.transAxes, "parse_math": False}
            words.text(0, place, "\n".join(lines), color=ink, **style)
            place -= 0.12 * len(lines) + (0.06 if lines else 0)
    figure.tight_layout()
    return report_figure(name, figure, alt, caption)


def draw_detections(
    images: Sequence[ImageWithBoxes],
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Sequence[str],
    seed: int,
) -> list[ReportFigure]:
    """Return one sheet of test images with their true positives, false positives and missed boxes."""
    shown = [_confident(d) for d in detections]
    not_empty = [
        i for i, (t, d) in enumerate(zip(truths, shown, strict=True)) if len(t.boxes) or len(d.scores)
    ]
    chosen = np.random.default_rng(seed).permutation(not_empty)[:_DETECTION_IMAGES].tolist()
    columns = min(_DETECTION_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.75 * rows + 0.4))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    counts = np.zeros(3, dtype=np.int64)
    for axes, i in zip(grid, chosen, strict=False):
        pixels = read_image(images[i].file)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        counts += _draw_boxes(axes, truths[i], shown[i], classes)
        axes.set_title(images[i].file.stem[:40], fontsize=8)
    handles = [
        Patch(edgecolor=colour, facecolor="none", linewidth=2, label=f"{label} ({count})")
        for colour, label, count in zip(
            (TRUE_POSITIVE, FALSE_POSITIVE, MISSED),
            ("right", "false alarm", "missed"),
            counts.tolist(),
            strict=True,
        )
    ]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.4 / figure.get_figheight(), 1, 1))
    caption = (
        f"test images drawn at random; detections of score {SHOWN_SCORE:g} and more, right at IoU 0.5 with "
        "the right class."
    )
    return [report_figure("detections", figure, "Test images with right, false and missed boxes", caption)]


def _confident(detections: Detections) -> Detections:
    kept = detections.scores >= SHOWN_SCORE
    return Detections(detections.boxes[kept], detections.scores[kept], detections.labels[kept])


def _draw_boxes(
    axes: Any, truth: GroundTruth, detections: Detections, classes: Sequence[str]
) -> NDArray[np.int64]:
    """Draw the boxes; return the numbers of true positives, false positives and missed boxes."""
    outcome, missed = match_image(truth, detections)
    for box, label in zip(truth.boxes[missed], truth.labels[missed], strict=True):
        _outline(axes, box, MISSED, classes[label] if len(classes) > 1 else "")
    for box, label, score, correct in zip(
        detections.boxes, detections.labels, detections.scores, outcome, strict=True
    ):
        if correct >= 0:
            name = f"{classes[label]} " if len(classes) > 1 else ""
            _outline(axes, box, TRUE_POSITIVE if correct else FALSE_POSITIVE, f"{name}{score:.2f}")
    return np.array([(outcome == 1).sum(), (outcome == 0).sum(), missed.sum()])


def _outline(axes: Any, box: NDArray[np.float64], colour: str, text: str) -> None:
    left, top, right, bottom = box.tolist()
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.4)
    )
    if text:
        axes.text(left, top, text, color=colour, fontsize=6, va="bottom", clip_on=True)


def draw_masks(
    images: Sequence[ImageWithMask],
    truths: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    classes: Sequence[str],
    before: bool,
) -> list[ReportFigure]:
    """Return one sheet: in each row an image (and the one before the event), its true and its predicted mask.

    Args:
        images: The images.
        truths: Their (H, W) uint8 classes; `IGNORED` where there is none.
        masks: The predicted (H, W) uint8 classes.
        classes: The names of the classes.
        before: Whether the image before the event is shown, too.
    """
    titles = ["image", "before", "truth", "prediction"] if before else ["image", "truth", "prediction"]
    figure = Figure(figsize=(2.3 * len(titles), 2.35 * len(images) + 0.5))
    grid = figure.subplots(len(images), len(titles), squeeze=False)
    # More classes than colours repeat the first colours.
    colours = [_MASK_COLOURS[k % len(_MASK_COLOURS)] for k in range(len(classes))]
    colour_map = ListedColormap([*colours, _NO_CLASS_COLOUR])
    for row, image, truth, mask in zip(grid, images, truths, masks, strict=True):
        for axes, pixels in zip(row, read_images(image, before), strict=False):
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        for axes, classes_hw in zip(row[-2:], (truth, mask), strict=True):
            shown = np.where(classes_hw == IGNORED, len(classes), classes_hw)
            axes.imshow(shown, cmap=colour_map, vmin=0, vmax=len(classes), interpolation="nearest")
        for axes in row:
            axes.set_axis_off()
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    handles = [Patch(color=c, label=name) for c, name in zip(colours, classes, strict=True)]
    if any((truth == IGNORED).any() for truth in truths):
        handles.append(Patch(color=_NO_CLASS_COLOUR, label="no class"))
    figure.legend(handles=handles, loc="lower center", ncols=min(6, len(handles)), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.45 / figure.get_figheight(), 1, 1))
    alt = "Test images beside their true and predicted masks"
    return [
        report_figure(
            "masks", figure, alt, "test images drawn at random, their masks, and the predicted ones."
        )
    ]
