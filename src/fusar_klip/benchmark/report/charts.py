"""Charts of scores as PNG: overview, radar chart, confusion matrix. The same input gives the same bytes."""

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from fusar_klip.benchmark.metrics.bootstrap import Score
from fusar_klip.benchmark.results import ConfusionMatrix, ReportFigure

TEXT_COLOUR = "#22303c"
# Okabe and Ito's palette, which colour-blind readers can distinguish.
MODEL_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DPI = 110
_SPOKE_LETTERS = 24
"""Letters in a line of a radar chart's labels."""
_UPRIGHT = 0.1
"""Cosine of a vertical spoke, or sine of a horizontal one, up to which its label is centred."""


@dataclass(frozen=True)
class HeadlineScores:
    """One line of the overview: a row's headline metric for each model."""

    label: str
    scores: Mapping[str, Score]


def overview(rows: Sequence[HeadlineScores], models: Sequence[str]) -> bytes:
    """Draw each row's headline metric in per cent, with intervals, and the chance level as a grey tick."""
    figure = Figure(figsize=(8.0, 0.9 + 0.3 * len(rows) * (0.6 + 0.5 * len(models))))
    axes = figure.subplots()
    spacing = 0.6 / max(len(models), 1)
    chance_named = False
    for place, row in enumerate(rows):
        for m, model in enumerate(models):
            score = row.scores[model]
            y = place + (m - (len(models) - 1) / 2) * spacing
            colour = MODEL_COLOURS[m % len(MODEL_COLOURS)]
            label = model if place == 0 else None
            axes.plot(100 * score.value, y, "o", color=colour, label=label, markersize=6)
            if score.ci_low is not None and score.ci_high is not None:
                axes.plot([100 * score.ci_low, 100 * score.ci_high], [y, y], color=colour, linewidth=1.6)
        chance = next(iter(row.scores.values())).chance
        if chance is not None:
            x = 100 * chance
            label = None if chance_named else "chance"
            axes.plot([x, x], [place - 0.4, place + 0.4], color="#888888", linewidth=1.5, label=label)
            chance_named = True
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
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


def radar(rows: Sequence[HeadlineScores], models: Sequence[str]) -> bytes:
    """Draw each row's headline metric on its own spoke, from 0 to the best model's (paper, figure 1)."""
    figure = Figure(figsize=(8.0, 7.0))
    axes = figure.add_subplot(projection="polar")
    angles = np.linspace(0, 2 * np.pi, len(rows), endpoint=False)
    best = [max(score.value for score in row.scores.values()) for row in rows]
    for m, model in enumerate(models):
        shares = [
            row.scores[model].value / top if top > 0 else 0 for row, top in zip(rows, best, strict=True)
        ]
        closed = [*shares, shares[0]]
        colour = MODEL_COLOURS[m % len(MODEL_COLOURS)]
        axes.plot([*angles, angles[0]], closed, color=colour, label=model, linewidth=1.6)
        axes.fill([*angles, angles[0]], closed, color=colour, alpha=0.08)
    axes.set_xticks(angles, [])
    for angle, row, top in zip(angles, rows, best, strict=True):
        lines = [line for part in row.label.split("\n") for line in textwrap.wrap(part, _SPOKE_LETTERS)]
        # Labels stay outside the circle: one on the left ends at its spoke.
        side = "center" if abs(np.cos(angle)) < _UPRIGHT else "left" if np.cos(angle) > 0 else "right"
        axes.text(
            angle,
            1.08,
            "\n".join([*lines, f"{100 * top:.1f}"]),
            fontsize=7,
            ha=side,
            va=_vertical_alignment(angle),
        )
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], [])
    axes.set_ylim(0, 1.02)
    axes.grid(color="#dddddd")
    figure.legend(loc="upper center", ncols=min(4, len(models)), frameon=False, fontsize=9)
    figure.text(0.5, 0.01, "each spoke ends at its best model's value, in per cent", ha="center", fontsize=8)
    figure.tight_layout(rect=(0, 0.03, 1, 0.95))
    return png(figure)


def _vertical_alignment(angle: float) -> str:
    if abs(np.sin(angle)) < _UPRIGHT:
        return "center"
    return "bottom" if np.sin(angle) > 0 else "top"


def confusion_matrix(matrix: ConfusionMatrix) -> bytes:
    """Draw a confusion matrix: colours are shares of the true class, numbers are images."""
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
                colour = "white" if share[t, p] > 0.55 else TEXT_COLOUR
                axes.text(p, t, str(counts[t, p]), ha="center", va="center", color=colour, fontsize=8)
    figure.tight_layout()
    return png(figure)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def report_figure(name: str, figure: Figure, alt: str, caption: str) -> ReportFigure:
    """Return a figure as a row's result keeps it."""
    return ReportFigure(name, base64.b64encode(png(figure)).decode("ascii"), alt, caption)
