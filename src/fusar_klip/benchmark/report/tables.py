"""Tables of the report: metric titles, cells in per cent, the best and second-best model of each column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusar_klip.benchmark.metrics.bootstrap import Score
from fusar_klip.benchmark.metrics.retrieval_metrics import DUPLICATES, RERANKED
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.settings import Row

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
"""Titles of metrics; a metric that is not here is titled by its name."""
SCORINGS: Mapping[str, str] = {
    "": "ITC",
    DUPLICATES: "ITC, equal texts count",
    RERANKED: "ITC, then ITM",
    RERANKED + DUPLICATES: "ITC, then ITM, equal texts count",
}
"""Endings of a retrieval metric's name, and how they rank and count."""


@dataclass(frozen=True)
class ReportSection:
    """One row of the suite with its result for each model."""

    row: Row
    task_title: str
    headline: str
    """The metric that represents the row in the overview."""
    size_summary: str
    """The data set's sizes, in one line."""
    notes: Sequence[str]
    """Remarks on the data set."""
    results: dict[str, RowResult]
    """By the name of the model."""

    def headline_score(self, model: str) -> Score:
        """Return a model's score of the headline metric."""
        score = _score(self.results[model], self.headline)
        assert score is not None, f"{model} has no {self.headline}"
        return score


@dataclass(frozen=True)
class TableCell:
    """One number of a table, in per cent."""

    value: str
    interval: str
    place: int = 0
    """1 for the best model, 2 for the second best, 0 for the others and for a model alone."""


@dataclass(frozen=True)
class TableRow:
    """One row of a table: a model's scores, or the chance levels."""

    name: str
    scoring: str
    cells: Sequence[TableCell]


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


def short_title(metric: str) -> str:
    """Return a metric's title in lower case; names such as mIoU and CIDEr keep their capitals."""
    title = metric_title(metric)[0]
    return title.lower() if title[1:].islower() or " " in title else title


def section_table(results: Mapping[str, RowResult]) -> list[TableRow]:
    """Return a row for each scoring and model, and one of chance levels after each scoring."""
    rows = []
    scores = scores_by_metric(results)
    for scoring in dict.fromkeys(metric_title(score.metric)[1] for score in scores):
        metrics = [score.metric for score in scores if metric_title(score.metric)[1] == scoring]
        rows += [
            TableRow(model, scoring, [_cell(results, model, metric) for metric in metrics])
            for model in results
        ]
        chances = {score.metric: TableCell(percent(score.chance), "") for score in scores}
        chance = [chances[metric] for metric in metrics]
        if any(cell.value for cell in chance):
            rows.append(TableRow("chance", scoring, chance))
    return rows


def headline_table(sections: Sequence[ReportSection], models: Sequence[str]) -> list[TableRow]:
    """Return a row of headline scores for each model, and one of chance levels."""
    rows = [
        TableRow(model, "", [_cell(section.results, model, section.headline) for section in sections])
        for model in models
    ]
    chance = [TableCell(percent(section.headline_score(models[0]).chance), "") for section in sections]
    return [*rows, TableRow("chance", "", chance)]


def row_labels(sections: Sequence[ReportSection], with_split: bool = False) -> list[str]:
    """Return a label for each row: its data set, and the split, preset and seed that distinguish it.

    A value is part of the label only where rows of one task on the data set differ in it.

    Args:
        sections: The rows.
        with_split: Name the split in any case.
    """
    rows = [section.row for section in sections]
    labels = [f"{row.dataset} ({row.split})" if with_split else row.dataset for row in rows]
    splits = [] if with_split else [[f"({row.split})" for row in rows]]
    for values in (*splits, [row.preset_label for row in rows], [f"seed {row.seed}" for row in rows]):
        values_of: dict[tuple[str, str], set[str]] = {}
        for row, label, value in zip(rows, labels, values, strict=True):
            values_of.setdefault((row.task, label), set()).add(value)
        labels = [
            f"{label} {value}" if len(values_of[row.task, label]) > 1 else label
            for row, label, value in zip(rows, labels, values, strict=True)
        ]
    return labels


def scores_by_metric(results: Mapping[str, RowResult]) -> list[Score]:
    """Return one score of each metric that any model has.

    Models may differ: a result from before Java was installed has no METEOR.
    """
    scores: dict[str, Score] = {}
    for result in results.values():
        for score in result.scores:
            scores.setdefault(score.metric, score)
    return [*scores.values()]


def percent(share: float | None) -> str:
    """Return a share in per cent with one decimal; "" for None."""
    return "" if share is None else f"{100 * share:.1f}"


def _cell(results: Mapping[str, RowResult], model: str, metric: str) -> TableCell:
    score = _score(results[model], metric)
    if score is None:
        return TableCell("", "")
    values = [other.value for result in results.values() if (other := _score(result, metric))]
    place = sorted(set(values), reverse=True).index(score.value) + 1 if len(results) > 1 else 0
    interval = ""
    if score.ci_low is not None and score.ci_high is not None:
        interval = f"{percent(score.ci_low)} to {percent(score.ci_high)}"
    return TableCell(percent(score.value), interval, place if place <= 2 else 0)


def _score(result: RowResult, metric: str) -> Score | None:
    return next((score for score in result.scores if score.metric == metric), None)
