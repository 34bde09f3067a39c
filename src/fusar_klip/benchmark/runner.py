"""The benchmark: every row of a suite for every checkpoint, then the reports, results.csv and results.json.

All data sets are read before the first row runs, so that a wrong path is known at once. Each row is seeded
by itself: two checkpoints in one command give the same figures as one by one.

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

from fusar_klip.benchmark.evaluated_model import (
    EvaluatedModel,
    language_model,
    refuse_language_models,
    refuse_without_decoder,
    refuse_without_texts,
    subject_digest,
    subject_names,
)
from fusar_klip.benchmark.report.report import write_report
from fusar_klip.benchmark.report.tables import ReportSection
from fusar_klip.benchmark.results import RowResult, read_result, row_identity, write_result
from fusar_klip.benchmark.settings import LanguageRow, Row
from fusar_klip.benchmark.suite import DATA_VARIABLE, Suite, data_folder, load_suite, row_path
from fusar_klip.benchmark.tasks.language import saved_model_folder
from fusar_klip.benchmark.tasks.registry import TASKS, TaskData
from fusar_klip.datasets.label_texts.records import LanguageData
from fusar_klip.datasets.samples import (
    ClassificationData,
    DatasetNotFoundError,
    DetectionData,
    SegmentationData,
)
from fusar_klip.datasets.splits import write_split
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.files import write_bytes, write_json
from fusar_klip.models.pretrained.plain_vit import refuse_other_towers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkSummary:
    """What a benchmark left behind."""

    results: str
    report_md: str
    report_html: str
    rows_run: int
    rows_reused: int
    skipped: list[str]
    """Why rows were left out: their data set was not there."""
    headlines: list[dict[str, str | float | None]]
    """Each row's and model's headline: {model, task, dataset, split, metric, value}."""


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
        checkpoints: RUN folders or checkpoint files; `untrained:RUN` is RUN's architecture, fresh; or
            names of the zoo with their weights, `remoteclip:FILE`; or `llm:NAME`, a language model.
        out: The RESULTS folder. Rows that it holds already, for the same checkpoint, data and values, are
            reused; reports and results.json tell of this command's checkpoints and rows only.
        suite: The suite file; None for the default suite (`default_suite.toml`).
        data: The data folder; None for FUSAR_KLIP_DATA or ../shared/data.
        tasks: Only the suite's rows of these tasks; empty for all.
        base_url: The server of language models; None for OPENAI_BASE_URL or OpenAI's own.

    Raises:
        SettingsError: The suite is wrong, a task is unknown, or two models would be kept in one folder.
        DatasetError: A data set is missing, empty or wrong.
        CheckpointError: A checkpoint is missing or is none, none is given, one is given twice, or one
            cannot run a task of the suite.
        ProviderError: A language model cannot be asked.
    """
    loaded = load_suite(suite, tasks)
    names = subject_names(checkpoints)
    _refuse_what_cannot_run(checkpoints, loaded.rows)
    _refuse_one_folder_for_two(names, loaded.rows)
    digests = [subject_digest(checkpoint) for checkpoint in checkpoints]
    _tell_of_equal_ones(names, digests)
    plan, skipped = _read_data(loaded, data_folder(data))
    lenders = [_text_side_digest(row) for row, _ in plan]
    outcomes: list[list[RowResult]] = [[] for _ in plan]
    run = 0
    for checkpoint, name, digest in zip(checkpoints, names, digests, strict=True):
        subject = EvaluatedModel(checkpoint, name, out, base_url)
        for place, (row, read) in enumerate(plan):
            outcome, is_new = _outcome(row, read, subject, digest, lenders[place])
            run += is_new
            outcomes[place].append(outcome)
    sections = [
        ReportSection(row, read.facts, read.notes, dict(zip(names, results, strict=True)))
        for (row, read), results in zip(plan, outcomes, strict=True)
    ]
    _write_splits(out, plan)
    markdown, html = write_report(out, loaded.name, sections, skipped)
    entries_of = [_entries(section) for section in sections]
    entries = [entry for of_section in entries_of for entry in of_section]
    write_bytes(out / "results.csv", _as_csv(entries))
    write_json(out / "results.json", entries)
    return BenchmarkSummary(
        results=str(out / "results.json"),
        report_md=str(markdown),
        report_html=str(html),
        rows_run=run,
        rows_reused=len(plan) * len(names) - run,
        skipped=skipped,
        headlines=[
            _headline(entry)
            for section, of_section in zip(sections, entries_of, strict=True)
            for entry in of_section
            if entry["metric"] == section.headline
        ],
    )


def _outcome(
    row: Row, read: TaskData, subject: EvaluatedModel, digest: str, lender: str | None
) -> tuple[RowResult, bool]:
    """Return a row's outcome for one model, and whether it was run for it: else it was there."""
    identity = row_identity(row, digest, read.digest, lender)
    outcome = None if _lost(subject.results, subject.name, row) else read_result(subject.results, identity)
    if outcome is not None:
        return outcome, False
    logger.info("%s: %s on %s (%s)", subject.name, row.task, row.dataset, row.split)
    outcome = TASKS[row.task].evaluate(row, read, subject)
    write_result(subject.results, identity, outcome)
    return outcome, True


def _headline(entry: Mapping[str, str | float | int | None]) -> dict[str, str | float | None]:
    """Return what `BenchmarkSummary` has of a model's headline."""
    return {key: entry[key] for key in ("model", "task", "dataset", "split", "metric", "value")}


def _refuse_what_cannot_run(checkpoints: Sequence[str], rows: Sequence[Row]) -> None:
    """Refuse models that cannot run a row, before anything runs.

    Raises:
        CheckpointError: One of them cannot.
    """
    tasks = [(row, TASKS[row.task]) for row in rows]
    if any(task.needs_texts for _, task in tasks):
        refuse_without_texts(checkpoints)
    refuse_language_models(checkpoints, [row.task for row, task in tasks if not task.for_language_models])
    for row, task in tasks:
        if task.needs_plain_vit:
            refuse_other_towers(checkpoints, row.task)
        if task.needs_decoder:
            lender: str | None = getattr(row, "text_side", None)
            refuse_without_decoder(checkpoints if lender is None else [lender], row.task)


def _refuse_one_folder_for_two(names: Sequence[str], rows: Sequence[Row]) -> None:
    """Refuse rows that would keep two models in one folder, before anything runs.

    Raises:
        SettingsError: Two would.
    """
    kept = Counter(
        saved_model_folder(Path(), name, row)
        for row in rows
        if isinstance(row, LanguageRow) and row.save
        for name in names
        if language_model(name) is None
    )
    if twice := next((folder.name for folder, count in kept.items() if count > 1), None):
        raise SettingsError(
            f"two models would be kept as models/{twice}: set save = true in one of its rows alone, or give "
            "the rows' data sets, and the RUNs, names that differ in more than marks"
        )


def _lost(out: Path, name: str, row: Row) -> bool:
    """Tell whether a row keeps its model, and it is not there: then the row is run again."""
    if not (isinstance(row, LanguageRow) and row.save) or language_model(name) is not None:
        return False
    return not saved_model_folder(out, name, row).is_dir()


def _tell_of_equal_ones(names: Sequence[str], digests: Sequence[str]) -> None:
    """Warn of checkpoints with the same content, which have the same figures: rows are known by content."""
    first: dict[str, str] = {}
    for name, digest in zip(names, digests, strict=True):
        if (other := first.setdefault(digest, name)) != name:
            logger.warning("%s and %s have the same content, and so the same figures", other, name)


def _text_side_digest(row: Row) -> str | None:
    """Return the digest of the RUN that lends a row its text side; None where none does."""
    lender: str | None = getattr(row, "text_side", None)
    return None if lender is None else subject_digest(lender)


def _write_splits(out: Path, plan: Sequence[tuple[Row, TaskData]]) -> None:
    for row, read in plan:
        images = read.source if isinstance(read, LanguageData) else read
        if isinstance(images, (ClassificationData, DetectionData, SegmentationData)):
            write_split(out, row.dataset, row.split, images)


def _read_data(suite: Suite, data: Path) -> tuple[list[tuple[Row, TaskData]], list[str]]:
    """Read each data set of the suite once; return the rows with their data, and why rows are left out."""
    plan: list[tuple[Row, TaskData]] = []
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
            logger.warning("%s on %s is left out: %s", row.task, row.dataset, error)
            skipped.append(f"{row.task} on {row.dataset} ({row.split}): the data set is not there")
            continue
        plan.append((row, known[key]))
    if not plan:
        raise DatasetError(
            f"none of the suite's data sets is in {data}: give --data DIR, or set {DATA_VARIABLE} to the "
            "folder that holds them"
        )
    return plan, skipped


def _entries(section: ReportSection) -> list[dict[str, str | float | int | None]]:
    """Return the section's lines of results.json: its contract, and then ci_unit and chance."""
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
        for model, outcome in section.results.items()
        for score in outcome.scores
    ]


def _as_csv(entries: Sequence[dict[str, str | float | int | None]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(entries[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(entries)
    return text.getvalue().encode()
