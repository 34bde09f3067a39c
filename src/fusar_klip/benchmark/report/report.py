"""The report of a benchmark: Markdown beside PNG files, one HTML file that needs nothing else, LaTeX tables.

Reads outcomes only; it computes no metric. Values are printed in per cent. No time of making goes in.
"""

import base64
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from fusar_klip.benchmark.metrics.retrieval_metrics import DUPLICATES, RERANKED
from fusar_klip.benchmark.metrics.scores import Score
from fusar_klip.benchmark.report import figures
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.settings import Row
from fusar_klip.benchmark.tasks.registry import TASKS
from fusar_klip.files import write_bytes

METRIC_TITLES: Mapping[str, str] = {
    "top1": "Top-1",
    "top3": "Top-3",
    "macro_f1": "Macro F1",
    "ap50": "AP50",
    "ap": "AP",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "oa": "OA",
    "miou": "mIoU",
    "mean_recall": "Mean recall",
    "bleu4": "BLEU-4",
    "meteor": "METEOR",
    "cider": "CIDEr",
    "spice": "SPICE",
}
# The ends of a retrieval metric's name say how it was scored and counted.
SCORINGS: Mapping[str, str] = {
    "": "ITC",
    DUPLICATES: "ITC, equal texts count",
    RERANKED: "ITC, then ITM",
    RERANKED + DUPLICATES: "ITC, then ITM, equal texts count",
}
_TEMPLATES = Path(__file__).parent / "templates"
_TEXT_SHOWN = 700
_LEAST_AXES = 3
"""A radar chart of fewer rows is a line."""
_TEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


@dataclass(frozen=True)
class Section:
    """One row of the suite with its outcome for each model."""

    row: Row
    facts: str
    """The data set's sizes, in one line."""
    notes: Sequence[str]
    outcomes: Mapping[str, RowResult]

    @property
    def headline(self) -> str:
        """The metric that stands for the row in the overview."""
        return TASKS[self.row.task].headline_of(self.row)


@dataclass(frozen=True)
class Cell:
    """One number of a table, in per cent."""

    value: str
    interval: str
    place: int = 0
    """1 for the best model, 2 for the second, 0 for the others or where there is one model."""


@dataclass(frozen=True)
class Line:
    """One line of a table: a model, or chance."""

    name: str
    scoring: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Picture:
    """A figure: the file for Markdown, the content for HTML."""

    file: str
    content: str
    """PNG, base64."""
    alt: str
    caption: str
    text: str = ""
    """A query's words, printed above it."""


@dataclass
class _Figures:
    """Writes figures under OUT/figures, and takes away those of an earlier report."""

    folder: Path
    written: set[str] = field(default_factory=set)

    def add(self, name: str, content: bytes, alt: str, caption: str, text: str = "") -> Picture:
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        # Models such as a_b and a-b come to one name: the second one's file gets a number.
        stems = (stem, *(f"{stem}-{number}" for number in range(2, len(self.written) + 3)))
        file = next(f"{free}.png" for free in stems if f"{free}.png" not in self.written)
        write_bytes(self.folder / file, content)
        self.written.add(file)
        picture = base64.b64encode(content).decode("ascii")
        return Picture(f"{self.folder.name}/{file}", picture, alt, caption, text)

    def remove_others(self) -> None:
        for file in self.folder.glob("*.png"):
            if file.name not in self.written:
                file.unlink()


def write_report(
    out: Path, suite: str, sections: Sequence[Section], skipped: Sequence[str]
) -> tuple[Path, Path]:
    """Write OUT/figures/*.png, OUT/report.tex, OUT/report.md and OUT/report.html; return the last two."""
    drawn = _Figures(out / "figures")
    models = list(sections[0].outcomes)
    bars = [
        figures.Bar(
            f"{set_name}\n{_task_title(section)}, {_short(section.headline)}",
            {name: _headline(section, name) for name in section.outcomes},
        )
        for section, set_name in zip(sections, _told_apart(sections), strict=True)
    ]
    alt = "Each row's headline metric for each model, with its interval, and chance"
    context = {
        "suite": suite,
        "models": models,
        "overview": [
            drawn.add("overview", figures.overview(bars, models), alt, ""),
            *(
                [drawn.add("radar", figures.radar(bars, models), "The same as a radar chart", "")]
                if len(bars) >= _LEAST_AXES and len(models) > 1
                else []
            ),
        ],
        "summary_columns": [
            f"{set_name}, {_task_title(s).lower()}, {_short(s.headline)}"
            for s, set_name in zip(sections, _told_apart(sections, split=True), strict=True)
        ],
        "summary": _summary(sections, models),
        "sections": [
            _section_context(section, number, drawn) for number, section in enumerate(sections, start=1)
        ],
        "skipped": list(skipped),
    }
    drawn.remove_others()
    for name in ("report.tex", "report.md", "report.html"):
        write_bytes(out / name, _render(f"{name}.j2", context).encode())
    return out / "report.md", out / "report.html"


def metric_title(metric: str) -> tuple[str, str]:
    """Return a metric's column title and its scoring: ("Image to text R@1", "ITC, then ITM")."""
    ending = next(end for end in sorted(SCORINGS, key=len, reverse=True) if metric.endswith(end))
    stem = metric.removesuffix(ending)
    if stem.startswith("iou_"):
        return f"IoU {stem.removeprefix('iou_').replace('_', ' ')}", SCORINGS[ending]
    direction, _, k = stem.rpartition("_r")
    if direction and k.isdigit():
        return f"{direction.replace('_', ' ').capitalize()} R@{k}", SCORINGS[ending]
    return METRIC_TITLES.get(stem, stem.replace("_", " ").capitalize()), SCORINGS[ending]


def _section_context(section: Section, number: int, drawn: _Figures) -> dict[str, Any]:
    row = section.row
    outcomes = section.outcomes
    scores = _scores(outcomes)
    units = {score.ci_unit for score in scores}
    notes = [*section.notes]
    # What is true of all models is said once, and of none by name.
    common = [n for n in next(iter(outcomes.values())).notes if n[:1].isupper()]
    common = [note for note in common if all(note in outcome.notes for outcome in outcomes.values())]
    notes += common
    notes += [
        f"{model}: {note}"
        for model, outcome in outcomes.items()
        for note in outcome.notes
        if note not in common
    ]
    return {
        "number": number,
        "title": f"{_task_title(section)} on {row.dataset}",
        "split": row.split,
        "facts": section.facts,
        "preset": row.preset_label,
        "n": scores[0].n,
        "unit": "groups of images" if units == {"group"} else "images",
        "scored_by": any(metric_title(score.metric)[1] != SCORINGS[""] for score in scores),
        "columns": list(dict.fromkeys(metric_title(score.metric)[0] for score in scores)),
        "lines": _lines(outcomes),
        "notes": notes,
        "chosen": [_chosen(model, outcome) for model, outcome in outcomes.items() if outcome.chosen],
        "settings": ", ".join(
            f"{key} = {value}"
            for key, value in row.model_dump(exclude={"path", "task", "dataset", "split", "preset"}).items()
        ),
        "pictures": _pictures(f"{number:02d}-{row.task}-{row.dataset}", outcomes, drawn),
    }


def _lines(outcomes: Mapping[str, RowResult]) -> list[Line]:
    """Return a line for each scoring and model, and one for chance after each scoring."""
    lines = []
    scores = _scores(outcomes)
    for scoring in dict.fromkeys(metric_title(score.metric)[1] for score in scores):
        metrics = [score.metric for score in scores if metric_title(score.metric)[1] == scoring]
        lines += [
            Line(model, scoring, [_cell(outcomes, model, metric) for metric in metrics]) for model in outcomes
        ]
        guess = {score.metric: Cell(_percent(score.chance), "") for score in scores}
        chance = [guess[metric] for metric in metrics]
        if any(cell.value for cell in chance):
            lines.append(Line("chance", scoring, chance))
    return lines


def _summary(sections: Sequence[Section], models: Sequence[str]) -> list[Line]:
    return [Line(model, "", [_cell(s.outcomes, model, s.headline) for s in sections]) for model in models] + [
        Line(
            "chance",
            "",
            [Cell(_percent(_headline(s, models[0]).chance), "") for s in sections],
        )
    ]


def _cell(outcomes: Mapping[str, RowResult], model: str, metric: str) -> Cell:
    score = _score(outcomes[model], metric)
    if score is None:
        return Cell("", "")
    there = [other.value for outcome in outcomes.values() if (other := _score(outcome, metric))]
    place = sorted(set(there), reverse=True).index(score.value) + 1 if len(outcomes) > 1 else 0
    interval = ""
    if score.ci_low is not None and score.ci_high is not None:
        interval = f"{_percent(score.ci_low)} to {_percent(score.ci_high)}"
    return Cell(_percent(score.value), interval, place if place <= 2 else 0)


def _pictures(stem: str, outcomes: Mapping[str, RowResult], drawn: _Figures) -> list[Picture]:
    """Draw the models' confusion matrices, side by side, then their images, then their queries."""
    pictures = []
    for model, outcome in outcomes.items():
        if outcome.confusion is not None:
            alt = f"Confusion matrix of {model}"
            caption = f"{model}: confusion matrix, numbers are test images."
            content = figures.confusion(outcome.confusion)
            pictures.append(drawn.add(f"{stem}-{model}-confusion", content, alt, caption))
    for model, outcome in outcomes.items():
        if outcome.chips:
            alt = f"Test images with true and predicted classes, {model}"
            caption = f"{model}: test images drawn at random; green is right, red is wrong."
            content = figures.chips(outcome.chips)
            pictures.append(drawn.add(f"{stem}-{model}-images", content, alt, caption))
    for model, outcome in outcomes.items():
        for place, query in enumerate(outcome.queries, start=1):
            alt = f"The first tiles that {model} finds for the text"
            caption = f"{model}: first tiles by ITC with their cosine; the text's own has rank {query.rank}."
            text = textwrap.shorten(query.text, _TEXT_SHOWN, placeholder=" ...")
            content = figures.query(query)
            pictures.append(drawn.add(f"{stem}-{model}-query-{place}", content, alt, caption, text))
    for model, outcome in outcomes.items():
        for drawing in outcome.drawings:
            content = base64.b64decode(drawing.content)
            caption = f"{model}: {drawing.caption}"
            pictures.append(
                drawn.add(f"{stem}-{model}-{drawing.name}", content, drawing.alt, caption, drawing.text)
            )
    return pictures


def _chosen(model: str, outcome: RowResult) -> str:
    (name, value), *_ = outcome.chosen.items()
    tried = ", ".join(
        f"{candidate}: {_percent(share)}" for candidate, share in outcome.chosen["held_out_accuracy"].items()
    )
    images = outcome.chosen["held_out_images"]
    return f"{model}: {name} = {value}, chosen on {images} held-out training images (top-1 {tried})"


def _scores(outcomes: Mapping[str, RowResult]) -> list[Score]:
    """Return one score of each metric that any model has: an outcome from before Java came has no METEOR."""
    found: dict[str, Score] = {}
    for outcome in outcomes.values():
        for score in outcome.scores:
            found.setdefault(score.metric, score)
    return [*found.values()]


def _score(outcome: RowResult, metric: str) -> Score | None:
    return next((score for score in outcome.scores if score.metric == metric), None)


def _headline(section: Section, model: str) -> Score:
    score = _score(section.outcomes[model], section.headline)
    assert score is not None, f"{model} has no {section.headline}"
    return score


def _told_apart(sections: Sequence[Section], split: bool = False) -> list[str]:
    """Return each row's data set, with what tells rows of one task on it apart: split, preset, seed.

    Args:
        sections: The rows.
        split: Whether the split is said in any case.
    """
    rows = [section.row for section in sections]
    said = [f"{row.dataset} ({row.split})" if split else row.dataset for row in rows]
    splits = [] if split else [[f"({row.split})" for row in rows]]
    for more in (*splits, [row.preset_label for row in rows], [f"seed {row.seed}" for row in rows]):
        words: dict[tuple[str, str], set[str]] = {}
        for row, name, word in zip(rows, said, more, strict=True):
            words.setdefault((row.task, name), set()).add(word)
        said = [
            f"{name} {word}" if len(words[row.task, name]) > 1 else name
            for row, name, word in zip(rows, said, more, strict=True)
        ]
    return said


def _task_title(section: Section) -> str:
    return TASKS[section.row.task].title


def _short(metric: str) -> str:
    title = metric_title(metric)[0]
    # Names such as mIoU and CIDEr keep their capitals.
    return title.lower() if title[1:].islower() or " " in title else title


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


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
