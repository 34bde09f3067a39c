"""Runs a suite: every row for every checkpoint, then the reports, results.csv and, last, results.json.

It reads all data sets before the first row runs, so that a wrong path is reported at once. Each row has its
own seed: two checkpoints in one command give the same scores as one by one. It knows no task:
`tasks.registry.TASKS` does.

    fusar-klip benchmark RUN untrained:RUN --out RESULTS --suite SUITE.toml
"""

import csv
import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusar_klip.benchmark.evaluated_model import EvaluatedModel, model_names
from fusar_klip.benchmark.report.report import write_report
from fusar_klip.benchmark.report.tables import ReportSection
from fusar_klip.benchmark.results import RowResult, read_result, row_identity, write_result
from fusar_klip.benchmark.settings import Row
from fusar_klip.benchmark.suite import DATA_VARIABLE, Suite, data_folder, load_suite, row_path
from fusar_klip.benchmark.tasks.registry import TASKS
from fusar_klip.benchmark.tasks.task import TaskData
from fusar_klip.datasets.labelled_data import DatasetNotFoundError
from fusar_klip.datasets.splits import write_split
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.files import write_bytes, write_json
from fusar_klip.models import ModelRef

logger = logging.getLogger(__name__)

ResultEntry = dict[str, str | float | int | None]
"""One entry of results.json."""


@dataclass(frozen=True)
class BenchmarkSummary:
    """The outcome of a benchmark."""

    results: str
    report_md: str
    report_html: str
    rows_run: int
    rows_reused: int
    skipped: list[str]
    """A sentence for each row that is skipped because its data set is missing."""
    headlines: list[dict[str, str | float | None]]
    """Each row's and model's headline: {model, task, dataset, split, metric, value}."""


@dataclass(frozen=True)
class _PlannedRow:
    """A row with its data."""

    row: Row
    data: TaskData
    text_side_digest: str | None
    """Digest of the RUN whose text side the row attaches to the models; None where it names none."""


def benchmark(
    checkpoints: Sequence[str],
    out: Path,
    *,
    suite: Path | None = None,
    data: Path | None = None,
    tasks: Sequence[str] = (),
    base_url: str | None = None,
) -> BenchmarkSummary:
    """Run a suite on checkpoints, and write OUT/report.md, report.html and, last, results.json.

    Args:
        checkpoints: RUN folders or checkpoint files; `untrained:RUN`, RUN's architecture with random weights;
            published models with their weights, `remoteclip:FILE`; or `llm:NAME`, a language model.
        out: The RESULTS folder. Its rows for the same checkpoint, data and values are reused; reports and
            results.json hold this command's checkpoints and rows only.
        suite: The suite file; None for the default suite (`default_suite.toml`).
        data: The data folder; None for FUSAR_KLIP_DATA or ../shared/data.
        tasks: Only the suite's rows of these tasks; empty for all.
        base_url: The server of language models; None for OPENAI_BASE_URL or OpenAI's own.

    Raises:
        SettingsError: The suite is wrong, a task is unknown, or two models would be saved in one folder.
        DatasetError: A data set is missing, empty or wrong.
        CheckpointError: A checkpoint is missing or invalid, none is given, one is given twice, or one cannot
            run a task of the suite.
        ProviderError: A language model cannot be asked.
    """
    loaded = load_suite(suite, tasks)
    refs = [ModelRef.parse(checkpoint) for checkpoint in checkpoints]
    names = model_names(refs)
    for row in loaded.rows:
        _check_models(refs, row)
    _check_saved_models(dict(zip(names, refs, strict=True)), loaded.rows)
    digests = [ref.digest() for ref in refs]
    _warn_of_equal_models(names, digests)
    plan, skipped = _read_data(loaded, data_folder(data))
    sections = [_section(planned) for planned in plan]
    rows_run = 0
    for ref, name, digest in zip(refs, names, digests, strict=True):
        evaluated = EvaluatedModel(ref, name, out, base_url)
        for planned, section in zip(plan, sections, strict=True):
            section.results[name], is_new = _row_result(planned, evaluated, digest)
            rows_run += is_new
    _write_splits(out, plan)
    markdown, html = write_report(out, loaded.name, sections, skipped)
    _write_results(out, sections)
    return BenchmarkSummary(
        results=str(out / "results.json"),
        report_md=str(markdown),
        report_html=str(html),
        rows_run=rows_run,
        rows_reused=len(plan) * len(names) - rows_run,
        skipped=skipped,
        headlines=[headline for section in sections for headline in _headlines(section)],
    )


def _section(planned: _PlannedRow) -> ReportSection:
    """Return a row's section of the report, without results yet."""
    task, row, data = TASKS[planned.row.task], planned.row, planned.data
    return ReportSection(row, task.title, task.headline_of(row), data.size_summary, data.notes, {})


def _row_result(planned: _PlannedRow, evaluated: EvaluatedModel, digest: str) -> tuple[RowResult, bool]:
    """Return a row's result for one model, and whether the row ran for it: else RESULTS held it."""
    row, data = planned.row, planned.data
    identity = row_identity(row, digest, data.digest, planned.text_side_digest)
    if not _saved_model_is_missing(row, evaluated):
        kept = read_result(evaluated.results, identity)
        if kept is not None:
            return kept, False
    logger.info("%s: %s on %s (%s)", evaluated.name, row.task, row.dataset, row.split)
    result = TASKS[row.task].evaluate(row, data, evaluated)
    write_result(evaluated.results, identity, result)
    return result, True


def _check_models(refs: Sequence[ModelRef], row: Row) -> None:
    """Refuse models that cannot run a row, before any row runs.

    Raises:
        CheckpointError: A model, or the RUN that the row takes a text side from, cannot run the row.
    """
    task = TASKS[row.task]
    text_side = task.text_side(row)
    if text_side is not None:
        ModelRef.parse(text_side).require(task.requires, row.task)
    for ref in refs:
        if not (ref.kind == "llm" and task.for_language_models):
            ref.require("image_features" if text_side is not None else task.requires, row.task)


def _check_saved_models(models: Mapping[str, ModelRef], rows: Sequence[Row]) -> None:
    """Refuse rows that would save two models in one folder, before any row runs.

    Raises:
        SettingsError: Two rows or models have the same folder.
    """
    folders = Counter(
        folder
        for row in rows
        for name, ref in models.items()
        if ref.kind != "llm" and (folder := TASKS[row.task].saved_model(row, name)) is not None
    )
    if twice := next((folder.name for folder, count in folders.items() if count > 1), None):
        raise SettingsError(
            f"two models would be saved as models/{twice}: set save = true in one of its rows only, or give "
            "the rows' data sets, and the RUNs, names that differ in more than punctuation"
        )


def _saved_model_is_missing(row: Row, evaluated: EvaluatedModel) -> bool:
    """Return whether the row saves its model and the folder is gone: then the row runs again."""
    if evaluated.language_model is not None:
        return False
    folder = TASKS[row.task].saved_model(row, evaluated.name)
    return folder is not None and not (evaluated.results / folder).is_dir()


def _warn_of_equal_models(names: Sequence[str], digests: Sequence[str]) -> None:
    """Warn of checkpoints with the same content, which share their results."""
    first: dict[str, str] = {}
    for name, digest in zip(names, digests, strict=True):
        if (other := first.setdefault(digest, name)) != name:
            logger.warning("%s and %s have the same content, and so the same scores", other, name)


def _read_data(suite: Suite, data: Path) -> tuple[list[_PlannedRow], list[str]]:
    """Read each data set of the suite once; return the rows with their data, and why rows are skipped."""
    plan: list[_PlannedRow] = []
    skipped: list[str] = []
    known: dict[tuple[Any, ...], TaskData] = {}
    for row in suite.rows:
        task = TASKS[row.task]
        try:
            path = row_path(row, suite, data)
            key = (task.read, path, *(getattr(row, name) for name in task.read_by))
            if key not in known:
                known[key] = task.read(row, path)
        except DatasetNotFoundError as error:
            if suite.missing == "fail":
                raise
            logger.warning("%s on %s is skipped: %s", row.task, row.dataset, error)
            skipped.append(f"{row.task} on {row.dataset} ({row.split}): the data set is missing")
            continue
        plan.append(_PlannedRow(row, known[key], _text_side_digest(row)))
    if not plan:
        raise DatasetError(
            f"none of the suite's data sets is in {data}: give --data DIR, or set {DATA_VARIABLE} to the "
            "folder that holds them"
        )
    return plan, skipped


def _text_side_digest(row: Row) -> str | None:
    text_side = TASKS[row.task].text_side(row)
    return None if text_side is None else ModelRef.parse(text_side).digest()


def _write_splits(out: Path, plan: Sequence[_PlannedRow]) -> None:
    for planned in plan:
        images = TASKS[planned.row.task].labelled_images(planned.data)
        if images is not None:
            write_split(out, planned.row.dataset, planned.row.split, images)


def _write_results(out: Path, sections: Sequence[ReportSection]) -> None:
    """Write results.csv and, last, results.json."""
    entries = [entry for section in sections for entry in _entries(section)]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(entries[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(entries)
    write_bytes(out / "results.csv", text.getvalue().encode())
    write_json(out / "results.json", entries)


def _entries(section: ReportSection) -> list[ResultEntry]:
    """Return the section's entries of results.json."""
    row = section.row
    return [
        {
            "model": model,
            "task": row.task,
            "dataset": row.dataset,
            "split": row.split,
            "preset": row.preset_label,
            "metric": score.metric,
            "value": score.value,
            "n": score.n,
            "ci_low": score.ci_low,
            "ci_high": score.ci_high,
            "seed": row.seed,
            "ci_unit": score.ci_unit,
            "chance": score.chance,
        }
        for model, result in section.results.items()
        for score in result.scores
    ]


def _headlines(section: ReportSection) -> list[dict[str, str | float | None]]:
    """Return each model's headline, as `BenchmarkSummary` holds it."""
    keys = ("model", "task", "dataset", "split", "metric", "value")
    return [
        {key: entry[key] for key in keys}
        for entry in _entries(section)
        if entry["metric"] == section.headline
    ]
