"""The report of a benchmark: Markdown beside PNG files, one self-contained HTML file, and tables for LaTeX.

It reads results only and computes no metric. Values are in per cent. The files hold no time of making.
"""

import base64
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from fusar_klip.benchmark.report import charts, prediction_figures
from fusar_klip.benchmark.report.tables import (
    SCORINGS,
    ReportSection,
    headline_table,
    metric_title,
    percent,
    row_labels,
    scores_by_metric,
    section_table,
    short_title,
)
from fusar_klip.benchmark.results import RowResult
from fusar_klip.files import write_bytes

_TEMPLATES = Path(__file__).parent / "templates"
_LONGEST_TEXT = 700
"""Letters of a query that are printed."""
_LEAST_AXES = 3
"""A radar chart needs at least so many rows."""
_TEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


@dataclass(frozen=True)
class ReportImage:
    """A figure: the file for Markdown, the content for HTML."""

    file: str
    content: str
    """PNG, base64."""
    alt: str
    caption: str
    text: str = ""
    """A query's text, printed above it."""


@dataclass
class _FigureFolder:
    """Writes figures below OUT/figures, and removes those of an earlier report."""

    folder: Path
    written: set[str] = field(default_factory=set)

    def add(self, name: str, content: bytes, alt: str, caption: str, text: str = "") -> ReportImage:
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        # Models such as a_b and a-b get the same file name: the second one's file gets a number.
        stems = (stem, *(f"{stem}-{number}" for number in range(2, len(self.written) + 3)))
        file = next(f"{free}.png" for free in stems if f"{free}.png" not in self.written)
        write_bytes(self.folder / file, content)
        self.written.add(file)
        picture = base64.b64encode(content).decode("ascii")
        return ReportImage(f"{self.folder.name}/{file}", picture, alt, caption, text)

    def remove_others(self) -> None:
        for file in self.folder.glob("*.png"):
            if file.name not in self.written:
                file.unlink()


def write_report(
    out: Path, suite: str, sections: Sequence[ReportSection], skipped: Sequence[str]
) -> tuple[Path, Path]:
    """Write OUT/figures/*.png, OUT/report.tex, OUT/report.md and OUT/report.html; return the last two."""
    figures = _FigureFolder(out / "figures")
    models = list(sections[0].results)
    context = {
        "suite": suite,
        "models": models,
        "overview": _overview(sections, models, figures),
        "summary_columns": [
            f"{label}, {section.task_title.lower()}, {short_title(section.headline)}"
            for section, label in zip(sections, row_labels(sections, with_split=True), strict=True)
        ],
        "summary": headline_table(sections, models),
        "sections": [
            _section_context(section, number, figures) for number, section in enumerate(sections, start=1)
        ],
        "skipped": list(skipped),
    }
    figures.remove_others()
    for name in ("report.tex", "report.md", "report.html"):
        write_bytes(out / name, _render(f"{name}.j2", context).encode())
    return out / "report.md", out / "report.html"


def _overview(
    sections: Sequence[ReportSection], models: Sequence[str], figures: _FigureFolder
) -> list[ReportImage]:
    rows = [
        charts.HeadlineScores(
            f"{label}\n{section.task_title}, {short_title(section.headline)}",
            {model: section.headline_score(model) for model in section.results},
        )
        for section, label in zip(sections, row_labels(sections), strict=True)
    ]
    alt = "Each row's headline metric for each model, with its interval, and chance"
    images = [figures.add("overview", charts.overview(rows, models), alt, "")]
    if len(rows) >= _LEAST_AXES and len(models) > 1:
        images.append(figures.add("radar", charts.radar(rows, models), "The same as a radar chart", ""))
    return images


def _section_context(section: ReportSection, number: int, figures: _FigureFolder) -> dict[str, Any]:
    row = section.row
    results = section.results
    scores = scores_by_metric(results)
    units = {score.ci_unit for score in scores}
    return {
        "number": number,
        "title": f"{section.task_title} on {row.dataset}",
        "split": row.split,
        "size_summary": section.size_summary,
        "preset": row.preset_label,
        "n": scores[0].n,
        "unit": "groups of images" if units == {"group"} else "images",
        "scored_by": any(metric_title(score.metric)[1] != SCORINGS[""] for score in scores),
        "columns": list(dict.fromkeys(metric_title(score.metric)[0] for score in scores)),
        "rows": section_table(results),
        "notes": [*section.notes, *_notes(results)],
        "chosen": [_chosen(model, result) for model, result in results.items() if result.chosen],
        "settings": ", ".join(
            f"{key} = {value}"
            for key, value in row.model_dump(exclude={"path", "task", "dataset", "split", "preset"}).items()
        ),
        "pictures": _section_images(f"{number:02d}-{row.task}-{row.dataset}", results, figures),
    }


def _notes(results: Mapping[str, RowResult]) -> list[str]:
    """Return notes that all models share once, and each of the others with its model's name.

    A note that starts with a lower-case letter continues the model's name, so it is never shared.
    """
    shared = [note for note in next(iter(results.values())).notes if note[:1].isupper()]
    shared = [note for note in shared if all(note in result.notes for result in results.values())]
    return shared + [
        f"{model}: {note}" for model, result in results.items() for note in result.notes if note not in shared
    ]


def _section_images(stem: str, results: Mapping[str, RowResult], figures: _FigureFolder) -> list[ReportImage]:
    """Draw all confusion matrices, then test images, retrieval examples, and the task's own figures."""
    images = []
    for model, result in results.items():
        if result.confusion is not None:
            alt = f"Confusion matrix of {model}"
            caption = f"{model}: confusion matrix, numbers are test images."
            content = charts.confusion_matrix(result.confusion)
            images.append(figures.add(f"{stem}-{model}-confusion", content, alt, caption))
    for model, result in results.items():
        if result.chips:
            alt = f"Test images with true and predicted classes, {model}"
            caption = f"{model}: test images drawn at random; green is right, red is wrong."
            content = prediction_figures.draw_classified_images(result.chips)
            images.append(figures.add(f"{stem}-{model}-images", content, alt, caption))
    for model, result in results.items():
        for place, query in enumerate(result.queries, start=1):
            alt = f"The first images that {model} retrieves for the text"
            caption = f"{model}: first images by ITC with their cosine; the text's own has rank {query.rank}."
            text = textwrap.shorten(query.text, _LONGEST_TEXT, placeholder=" ...")
            content = prediction_figures.draw_retrieved_images(query)
            images.append(figures.add(f"{stem}-{model}-query-{place}", content, alt, caption, text))
    for model, result in results.items():
        for figure in result.drawings:
            content = base64.b64decode(figure.content)
            caption = f"{model}: {figure.caption}"
            name = f"{stem}-{model}-{figure.name}"
            images.append(figures.add(name, content, figure.alt, caption, figure.text))
    return images


def _chosen(model: str, result: RowResult) -> str:
    (name, value), *_ = result.chosen.items()
    tried = ", ".join(
        f"{candidate}: {percent(share)}" for candidate, share in result.chosen["held_out_accuracy"].items()
    )
    images = result.chosen["held_out_images"]
    return f"{model}: {name} = {value}, chosen on {images} held-out training images (top-1 {tried})"


def _render(template: str, context: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # In Markdown tables a bar ends the cell.
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    environment.filters["tex"] = lambda text: str(text).translate(_TEX)
    return environment.get_template(template).render(context)
