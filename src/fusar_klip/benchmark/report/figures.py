"""The report's figures as PNG bytes; the same input gives the same bytes."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from fusar_klip.benchmark.metrics.scores import Score
from fusar_klip.benchmark.report.thumbnails import decode
from fusar_klip.benchmark.results import ClassifiedImage, ConfusionMatrix, RetrievalExample

RIGHT, WRONG, INK = "#1a7f5a", "#c0392b", "#22303c"
# Okabe and Ito's palette, told apart by colour-blind readers too.
MODEL_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DPI = 110
_CHIPS_A_ROW = 6
_SPOKE_LETTERS = 24
"""Letters in a line of a radar chart's labels."""
_UPRIGHT = 0.1
"""Cosine of a spoke that stands upright, or sine of one that lies flat, up to which its label is centred."""


@dataclass(frozen=True)
class Bar:
    """One line of the overview: a row's headline for each model."""

    label: str
    scores: Mapping[str, Score]


def overview(bars: Sequence[Bar], models: Sequence[str]) -> bytes:
    """Draw each row's headline metric in per cent, with intervals, and chance as a grey tick."""
    figure = Figure(figsize=(8.0, 0.9 + 0.3 * len(bars) * (0.6 + 0.5 * len(models))))
    axes = figure.subplots()
    spread = 0.6 / max(len(models), 1)
    chance_named = False
    for place, bar in enumerate(bars):
        for m, model in enumerate(models):
            score = bar.scores[model]
            y = place + (m - (len(models) - 1) / 2) * spread
            colour = MODEL_COLOURS[m % len(MODEL_COLOURS)]
            label = model if place == 0 else None
            axes.plot(100 * score.value, y, "o", color=colour, label=label, markersize=6)
            if score.ci_low is not None and score.ci_high is not None:
                axes.plot([100 * score.ci_low, 100 * score.ci_high], [y, y], color=colour, linewidth=1.6)
        chance = next(iter(bar.scores.values())).chance
        if chance is not None:
            x = 100 * chance
            label = None if chance_named else "chance"
            axes.plot([x, x], [place - 0.4, place + 0.4], color="#888888", linewidth=1.5, label=label)
            chance_named = True
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.45, -0.55)
    axes.set_xlim(0, 101)
    axes.set_xlabel("per cent; lines: 95 % bootstrap intervals")
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        loc="upper center",
        ncols=min(4, len(models) + 1),
        frameon=False,
        fontsize=9,
        bbox_to_anchor=(0.5, 1.0),
    )
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    return png(figure)


def radar(bars: Sequence[Bar], models: Sequence[str]) -> bytes:
    """Draw each row's headline metric on a spoke of its own, from 0 to the best model's (paper, figure 1)."""
    figure = Figure(figsize=(8.0, 7.0))
    axes = figure.add_subplot(projection="polar")
    angles = np.linspace(0, 2 * np.pi, len(bars), endpoint=False)
    best = [max(score.value for score in bar.scores.values()) for bar in bars]
    for m, model in enumerate(models):
        shares = [
            bar.scores[model].value / top if top > 0 else 0 for bar, top in zip(bars, best, strict=True)
        ]
        closed = [*shares, shares[0]]
        colour = MODEL_COLOURS[m % len(MODEL_COLOURS)]
        axes.plot([*angles, angles[0]], closed, color=colour, label=model, linewidth=1.6)
        axes.fill([*angles, angles[0]], closed, color=colour, alpha=0.08)
    axes.set_xticks(angles, [])
    for angle, bar, top in zip(angles, bars, best, strict=True):
        lines = [line for part in bar.label.split("\n") for line in textwrap.wrap(part, _SPOKE_LETTERS)]
        # Beside the circle, not across it: what stands on the left ends at its spoke.
        side = "center" if abs(np.cos(angle)) < _UPRIGHT else "left" if np.cos(angle) > 0 else "right"
        axes.text(
            angle, 1.08, "\n".join([*lines, f"{100 * top:.1f}"]), fontsize=7, ha=side, va=_beside(angle)
        )
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], [])
    axes.set_ylim(0, 1.02)
    axes.grid(color="#dddddd")
    figure.legend(loc="upper center", ncols=min(4, len(models)), frameon=False, fontsize=9)
    figure.text(0.5, 0.01, "each spoke ends at its best model's value, in per cent", ha="center", fontsize=8)
    figure.tight_layout(rect=(0, 0.03, 1, 0.95))
    return png(figure)


def _beside(angle: float) -> str:
    if abs(np.sin(angle)) < _UPRIGHT:
        return "center"
    return "bottom" if np.sin(angle) > 0 else "top"


def confusion(matrix: ConfusionMatrix) -> bytes:
    """Draw a confusion matrix: colour by share of the true class, numbers are images."""
    counts = np.array(matrix.counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.48 * len(matrix.classes)
    figure = Figure(figsize=(side + 0.6, side))
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(matrix.classes))
    axes.set_xticks(ticks, matrix.classes, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(ticks, matrix.classes, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for t in ticks:
        for p in ticks:
            if counts[t, p]:
                colour = "white" if share[t, p] > 0.55 else INK
                axes.text(p, t, str(counts[t, p]), ha="center", va="center", color=colour, fontsize=8)
    figure.tight_layout()
    return png(figure)


def chips(shown: Sequence[ClassifiedImage]) -> bytes:
    """Draw test images with their true and predicted classes: the right ones first, then the wrong ones."""
    rows = -(-len(shown) // _CHIPS_A_ROW)
    figure = Figure(figsize=(1.45 * _CHIPS_A_ROW, 1.95 * rows))
    grid = figure.subplots(rows, _CHIPS_A_ROW, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, chip in zip(grid, shown, strict=False):
        axes.imshow(decode(chip.picture), cmap="gray", vmin=0, vmax=255)
        right = chip.truth == chip.predicted
        title = chip.truth if right else f"{chip.truth}\nas {chip.predicted}"
        axes.set_title(f"{title} ({chip.probability:.2f})", fontsize=8, color=RIGHT if right else WRONG)
    figure.tight_layout()
    return png(figure)


def query(shown: RetrievalExample) -> bytes:
    """Draw the first tiles for a text; the text's own tile has a green title."""
    figure = Figure(figsize=(1.75 * len(shown.hits), 2.05))
    grid = figure.subplots(1, len(shown.hits), squeeze=False)[0]
    for place, (axes, hit) in enumerate(zip(grid, shown.hits, strict=True), start=1):
        axes.imshow(decode(hit.picture), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        own = ", its own" if hit.own else ""
        axes.set_title(f"{place}: {hit.similarity:.3f}{own}", fontsize=9, color=RIGHT if hit.own else INK)
    figure.tight_layout()
    return png(figure)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
