"""A folder that is either the whole export or what was there before."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusar_klip.errors import DatasetError
from fusar_klip.files import write_json

MARKER = "export.json"
"""What was exported, and the names beside it. By this file an export knows an earlier one as its own."""


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on success it takes `out`'s place, on failure it is removed.

    An earlier export is replaced; anything else is left alone.

    Raises:
        DatasetError: `out` is a file, holds something else than an export, or cannot be replaced.
    """
    partial = out.with_name(f".{out.name}.partial")
    previous = out.with_name(f".{out.name}.previous")
    if previous.exists() and not out.exists():  # killed between the two renames below
        previous.rename(out)
    _refuse_foreign(out)
    for leftover in (partial, previous):  # of an export that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.sync()  # once for all files: an export can have millions, and each fsync takes milliseconds
        if (out / MARKER).exists():
            out.rename(previous)
        partial.rename(out)
    except OSError as error:
        if previous.exists() and not out.exists():
            previous.rename(out)
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        raise DatasetError(f"{out} is a mount point: give a folder inside it for --out") from error
    finally:
        for leftover in (partial, previous):
            shutil.rmtree(leftover, ignore_errors=True)


def write_marker(folder: Path, about: Mapping[str, Any]) -> None:
    """Write `export.json`: `about`, and the names of what the export consists of."""
    entries = sorted({path.name for path in folder.iterdir()} | {MARKER})
    write_json(folder / MARKER, {**about, "entries": entries})


def _refuse_foreign(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise DatasetError(f"{out} is a file: give a folder for --out")
    there = {path.name for path in out.iterdir()}
    try:
        ours = set(json.loads((out / MARKER).read_text(encoding="utf-8"))["entries"])
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    if strangers := sorted(there - ours):
        raise DatasetError(f"{out} holds other files ({strangers[0]}): give a new or empty folder for --out")
