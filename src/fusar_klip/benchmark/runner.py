"""The benchmark: every row of a suite for every checkpoint, then the reports, results.csv and results.json.

All data sets are read before the first row runs, so that a wrong path is known at once. Each row is seeded
by itself: two checkpoints in one command give the same figures as one by one.

    fusar-klip benchmark RUN untrained:RUN --out RESULTS --suite SUITE.toml
"""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusar_klip.benchmark.datasets.samples import (
    ClassificationData,
    DatasetNotFoundError,
    DetectionData,
    SegmentationData,
)
from fusar_klip.benchmark.language.records import LanguageData
from fusar_klip.benchmark.plain_vit import refuse_other_towers
from fusar_klip.benchmark.report import Section, write_report
from fusar_klip.benchmark.rows import RowOutcome, read_outcome, row_identity, write_outcome
from fusar_klip.benchmark.settings import Row
from fusar_klip.benchmark.splits import write_split
from fusar_klip.benchmark.subject import (
    Subject,
    refuse_language_models,
    refuse_without_decoder,
    refuse_without_texts,
    subject_digest,
    subject_names,
)
from fusar_klip.benchmark.suite import DATA_VARIABLE, Suite, data_folder, load_suite, row_path
from fusar_klip.benchmark.tasks import TASKS, TaskData
from fusar_klip.errors import CheckpointError, DatasetError
from fusar_klip.files import write_bytes, write_json

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
        SettingsError: The suite is wrong, or a task is unknown.
        DatasetError: A data set is missing, empty or wrong.
        CheckpointError: A checkpoint is missing or is none, none is given, one is given twice, or one
            cannot run a task of the suite.
        ProviderError: A language model cannot be asked.
    """
    loaded = load_suite(suite, tasks)
    names = subject_names(checkpoints)
    _refuse_what_cannot_run(checkpoints, loaded.rows)
    digests = [subject_digest(checkpoint) for checkpoint in checkpoints]
    if len(set(digests)) < len(digests):
        raise CheckpointError("two of the checkpoints have the same content: name each once")
    plan, skipped = _read_data(loaded, data_folder(data))
    outcomes: list[list[RowOutcome]] = [[] for _ in plan]
    run = 0
    for checkpoint, name, digest in zip(checkpoints, names, digests, strict=True):
        subject = Subject(checkpoint, name, out, base_url)
        for place, (row, read) in enumerate(plan):
            identity = row_identity(row, digest, read.digest)
            outcome = read_outcome(out, identity)
            if outcome is None:
                logger.info("%s: %s on %s (%s)", name, row.task, row.dataset, row.split)
                outcome = TASKS[row.task].evaluate(row, read, subject)
                write_outcome(out, identity, outcome)
                run += 1
            outcomes[place].append(outcome)
    sections = [
        Section(row, read.facts, read.notes, dict(zip(names, results, strict=True)))
        for (row, read), results in zip(plan, outcomes, strict=True)
    ]
    _write_splits(out, plan)
    markdown, html = write_report(out, loaded.name, sections, skipped)
    entries = [entry for section in sections for entry in _entries(section)]
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
            {key: entry[key] for key in ("model", "task", "dataset", "split", "metric", "value")}
            for section in sections
            for entry in _entries(section)
            if entry["metric"] == section.headline
        ],
    )


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
        if task.needs_decoder and getattr(row, "text_side", None) is None:
            refuse_without_decoder(checkpoints, row.task)


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


def _entries(section: Section) -> list[dict[str, str | float | int | None]]:
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
        for model, outcome in section.outcomes.items()
        for score in outcome.scores
    ]


def _as_csv(entries: Sequence[dict[str, str | float | int | None]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(entries[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(entries)
    return text.getvalue().encode()
