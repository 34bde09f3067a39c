"""Atomic writing of an export: the folder holds either the complete new export or its previous content."""

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

EXPORT_MANIFEST = "export.json"
"""Describes the export and lists its entries. A folder with this file is an export, and may be replaced."""


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on success it takes `out`'s place, on failure it is removed.

    Only an earlier export is replaced.

    Raises:
        DatasetError: `out` is a file, holds anything that is not part of an export, or is a mount point.
    """
    partial = out.with_name(f".{out.name}.partial")
    previous = out.with_name(f".{out.name}.previous")
    if previous.exists() and not out.exists():  # the process ended between the two renames below
        previous.rename(out)
    _refuse_other_content(out)
    for leftover in (partial, previous):  # of an interrupted export
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.sync()  # once for all files: an export can have millions, and each fsync takes milliseconds
        if (out / EXPORT_MANIFEST).exists():
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


def write_export_manifest(folder: Path, about: Mapping[str, Any]) -> None:
    """Write `export.json`: `about`, and the names of the files and folders of the export."""
    entries = sorted({path.name for path in folder.iterdir()} | {EXPORT_MANIFEST})
    write_json(folder / EXPORT_MANIFEST, {**about, "entries": entries})


def _refuse_other_content(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise DatasetError(f"{out} is a file: give a folder for --out")
    present = {path.name for path in out.iterdir()}
    try:
        exported = set(json.loads((out / EXPORT_MANIFEST).read_text(encoding="utf-8"))["entries"])
    except (OSError, ValueError, KeyError, TypeError):
        exported = set()
    if others := sorted(present - exported):
        raise DatasetError(f"{out} holds other files ({others[0]}): give a new or empty folder for --out")
