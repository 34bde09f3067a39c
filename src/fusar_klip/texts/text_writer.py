"""Collects the results of all tiles and writes them as a text version, in the order of the catalog.

Writes `texts/vNNN.parquet`, and beside it `rejected.jsonl` (tiles without a text, with the raw answers) and
`flagged.jsonl` (texts that contradict the measured evidence). If an earlier version has the same texts, it
writes none and returns the name of that version.
"""

import fcntl
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusar_klip.catalog import FIELDS, TEXT_SCHEMA, Task, read_text_metadata, text_versions, write_texts
from fusar_klip.errors import ProviderError
from fusar_klip.files import replaced

# Kinds of results; `texts_sha256` in a version's metadata is computed over them.
_DESCRIBED, _REJECTED = "Described", "Rejected"
# 4096 rows: small enough to hold, large enough for a row group of its own.
_TILES_PER_PART = 512


@dataclass(frozen=True)
class DescribedTile:
    """A tile with its text.

    Attributes:
        tile_id: The tile.
        task: The schema of its text.
        fields: The sentence of each field.
        flags: Names of contradictions between the text and the measured evidence.
    """

    tile_id: str
    task: Task
    fields: Mapping[str, str]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class RejectedTile:
    """A tile whose answers could not be used.

    Attributes:
        tile_id: The tile.
        reason: Why the last answer is not usable.
        answers: The raw answers, the repaired one last.
    """

    tile_id: str
    reason: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class UnansweredTile:
    """A tile without an answer.

    Attributes:
        tile_id: The tile.
        reason: Why it has none; None if its request is not sent yet: it is in a batch, its parent has no
            answer, or the run was stopped.
    """

    tile_id: str
    reason: str | None


TileResult = DescribedTile | RejectedTile | UnansweredTile


@dataclass
class TextCounts:
    """Number of tiles by kind of result.

    Attributes:
        by_task: Described tiles by the schema of their text.
        rejected: Tiles whose answers could not be used.
        flagged: Described tiles that contradict the evidence.
        unanswered: Tiles without an answer.
        reason: Why the first of them has none; None if no reason is known.
    """

    by_task: dict[Task, int] = field(default_factory=dict)
    rejected: int = 0
    flagged: int = 0
    unanswered: int = 0
    reason: str | None = None

    @property
    def described(self) -> int:
        """Tiles with a text."""
        return sum(self.by_task.values())

    @property
    def texts(self) -> int:
        """Texts of single fields: the rows of the text version."""
        return sum(len(FIELDS[task]) * tiles for task, tiles in self.by_task.items())


class TextWriter:
    """Collects results in any order, in a file that the system removes when the process ends.

    Attributes:
        counts: Number of results so far.
    """

    def __init__(self) -> None:
        self.counts = TextCounts()
        # A nameless database is a temporary file; memory holds a few pages of it.
        self._spool = sqlite3.connect("")
        self._spool.execute("CREATE TABLE results (tile_id TEXT PRIMARY KEY, content TEXT)")

    def add(self, result: TileResult) -> None:
        """Add the result of one tile."""
        counts = self.counts
        if isinstance(result, DescribedTile):
            kind = _DESCRIBED
            counts.by_task[result.task] = counts.by_task.get(result.task, 0) + 1
            counts.flagged += bool(result.flags)
        elif isinstance(result, RejectedTile):
            kind = _REJECTED
            counts.rejected += 1
        else:
            counts.unanswered += 1
            counts.reason = counts.reason or result.reason
            return
        content = {**asdict(result), "kind": kind}
        self._spool.execute("INSERT INTO results VALUES (?, ?)", (result.tile_id, json.dumps(content)))

    def write(self, dataset: Path, *, source: str, prompt_version: str, maker: Mapping[str, Any]) -> str:
        """Write the next text version, or find the one that holds the same texts; return its name.

        Raises:
            ProviderError: There is no text at all; the rejected answers are written nevertheless.
            DatasetError: The version cannot be written.
        """
        maker = {**maker, "texts_sha256": self._digest()}
        texts = dataset / "texts"
        texts.mkdir(exist_ok=True)
        with _alone(dataset / "cache" / "texts.lock"):
            versions = text_versions(dataset)
            for version in versions:
                if read_text_metadata(dataset, version)["maker"] == maker:
                    return version
            version = f"v{int(versions[-1][1:]) + 1 if versions else 0:03d}"
            parts = self._parts(source, prompt_version)
            # The version comes last: whoever sees it sees what belongs to it.
            _set_lines(texts / "rejected.jsonl", version, self._lines(_REJECTED, ("reason", "answers")))
            _set_lines(texts / "flagged.jsonl", version, self._lines(_DESCRIBED, ("flags",)))
            if not self.counts.described:
                raise ProviderError(
                    f"no answer could be used: {texts / 'rejected.jsonl'} holds them all with the reasons; "
                    "see to the model or the settings"
                )
            write_texts(dataset, version, parts, parent=None, maker=maker)
        return version

    def clear(self) -> None:
        """Remove all results."""
        self.counts = TextCounts()
        self._spool.execute("DELETE FROM results")

    def close(self) -> None:
        """Remove the file."""
        self._spool.close()

    def _contents(self) -> Iterator[dict[str, Any]]:
        """Yield the results in the order of the catalog: by tile_id."""
        for (content,) in self._spool.execute("SELECT content FROM results ORDER BY tile_id"):
            yield json.loads(content)

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for content in self._contents():
            digest.update(json.dumps(content, sort_keys=True).encode())
        return digest.hexdigest()

    def _lines(self, kind: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the named parts of the results of a kind, where the first of them is not empty."""
        for content in self._contents():
            if content["kind"] == kind and content[names[0]]:
                yield {name: content[name] for name in ("tile_id", *names)}

    def _parts(self, source: str, prompt_version: str) -> Iterator[pd.DataFrame]:
        described = (content for content in self._contents() if content["kind"] == _DESCRIBED)
        while part := list(islice(described, _TILES_PER_PART)):
            rows = [(c["tile_id"], c["task"], *sentence) for c in part for sentence in c["fields"].items()]
            frame = pd.DataFrame(rows, columns=["tile_id", "task", "field", "text"])
            frame = frame.assign(
                source=source, prompt_version=prompt_version, verdict="original", previous=None
            )
            yield frame.assign(delta_itc=np.nan, delta_itm=np.nan, itm_score=np.nan)[TEXT_SCHEMA.names]


def _set_lines(path: Path, version: str, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace the lines of one version in a file of JSON lines; those of other versions stay."""
    lines = iter(lines)
    first = next(lines, None)
    if first is None and not path.exists():
        return
    with replaced(path) as partial, partial.open("w", encoding="utf-8") as file:
        if path.exists():
            with path.open(encoding="utf-8") as before:
                file.writelines(line for line in before if json.loads(line)["version"] != version)
        for line in chain([first] if first is not None else [], lines):
            file.write(json.dumps({"version": version, **line}, ensure_ascii=False) + "\n")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in here; the system lets go of the lock when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
