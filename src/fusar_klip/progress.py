"""Progress bars with time left, on standard error, so that standard output stays for results."""

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def progress_bar() -> Progress:
    """Return a bar on standard error: description, n of m, time left; silent off a terminal.

    Of the processes that torchrun starts, the first one alone shows bars.
    """
    console = Console(stderr=True)
    shown = console.is_terminal and os.environ.get("RANK", "0") == "0"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not shown)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` while a bar shows how far they are."""
    with progress_bar() as bar:
        yield from bar.track(items, description=description, total=total)
