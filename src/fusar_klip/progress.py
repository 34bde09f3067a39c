"""Progress bars with the remaining time, on standard error: standard output is for results only."""

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def progress_bar() -> Progress:
    """Return a progress bar on standard error: description, n of m, remaining time.

    It is hidden where standard error is not a terminal, and in all processes but rank 0 under torchrun.
    """
    console = Console(stderr=True)
    shown = console.is_terminal and os.environ.get("RANK", "0") == "0"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not shown)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` and show a progress bar meanwhile."""
    with progress_bar() as bar:
        yield from bar.track(items, description=description, total=total)
