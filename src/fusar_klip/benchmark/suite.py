"""Benchmark suites: TOML files whose rows give task, data set, split, preset and every other value.

This module reads and validates suites; `runner.py` runs them. The suite that runs without `--suite` is
`default_suite.toml` beside this module.
"""

import difflib
import os
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fusar_klip.benchmark.settings import Row
from fusar_klip.benchmark.tasks.registry import TASKS
from fusar_klip.config import Settings, load_settings, validate_settings
from fusar_klip.datasets.labelled_data import DatasetNotFoundError
from fusar_klip.errors import DatasetError, SettingsError

DEFAULT_SUITE = Path(__file__).with_name("default_suite.toml")
DEFAULT_DATA = Path("../shared/data")
DATA_VARIABLE = "FUSAR_KLIP_DATA"
MissingData = Literal["fail", "skip"]


class SuiteFile(Settings):
    """The values of a suite file; each row is then validated by its task."""

    name: str
    """The suite's name, the title of the report."""
    missing: MissingData = "fail"
    """How to treat a missing data set: `fail`, or `skip` its rows and list them in the report."""
    row: list[dict[str, Any]]
    """The rows, in the order of the report."""


@dataclass(frozen=True)
class Suite:
    """A validated suite."""

    name: str
    missing: MissingData
    rows: tuple[Row, ...]
    folder: Path
    """The folder of the suite file, for tasks with `path_from_suite`."""


def load_suite(file: Path | None = None, tasks: Sequence[str] = ()) -> Suite:
    """Read a suite file (or the default suite), and keep the rows of `tasks` (default: all).

    Raises:
        SettingsError: The file is missing or invalid, a key or task is unknown, or no row is left.
    """
    _check_tasks(tasks)
    path = file or DEFAULT_SUITE
    written = load_settings(SuiteFile, path)
    rows = [_row(number, values, path) for number, values in enumerate(written.row, start=1)]
    kept = tuple(row for row in rows if not tasks or row.task in tasks)
    if not kept:
        available = ", ".join(sorted({row.task for row in rows})) or "none"
        raise SettingsError(
            f"the suite {path} has no row for --task {', '.join(tasks) or 'any'}; its tasks: {available}"
        )
    return Suite(written.name, written.missing, kept, path.parent)


def data_folder(given: Path | None) -> Path:
    """Return the folder of the real data: `given`, else FUSAR_KLIP_DATA, else ../shared/data."""
    return given or Path(os.environ.get(DATA_VARIABLE) or DEFAULT_DATA)


def row_path(row: Row, suite: Suite, data: Path) -> Path:
    """Return the folder of the row's data set (see `Row.path`).

    Raises:
        DatasetNotFoundError: The path names an environment variable that is not set.
        DatasetError: The path has a stray $.
    """
    try:
        path = Path(string.Template(row.path).substitute(os.environ))
    except KeyError as error:
        raise DatasetNotFoundError(
            f"the path of {row.dataset}, {row.path}, names the environment variable {error.args[0]}: set it"
        ) from None
    except ValueError:
        raise DatasetError(
            f"the path of {row.dataset}, {row.path}, has a stray $: write $$ for a dollar sign"
        ) from None
    return (suite.folder if TASKS[row.task].path_from_suite else data) / path


def _check_tasks(tasks: Sequence[str]) -> None:
    for task in tasks:
        if task not in TASKS:
            near = difflib.get_close_matches(task, TASKS, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"tasks: {', '.join(TASKS)}"
            raise SettingsError(f'unknown task "{task}"; {hint}')


def _row(number: int, values: dict[str, Any], path: Path) -> Row:
    where = f"{path}, row {number}"
    task = values.get("task")
    if not isinstance(task, str):
        raise SettingsError(f"{where} has no task; tasks: {', '.join(TASKS)}")
    try:
        _check_tasks([task])
        row: Row = validate_settings(TASKS[task].row, values)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    return row
