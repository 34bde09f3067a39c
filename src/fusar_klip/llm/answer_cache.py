"""A cache of answers on disk, so that no request is paid for twice.

One SQLite file, `DATASET/cache/answers.sqlite`, in write-ahead mode: several processes read and write it at
the same time, and after SIGKILL or a power failure it holds every answer for which `put` returned. Answers
that arrive together share one commit. A lock on the key of an answer keeps two processes from requesting the
same; the operating system releases it when a process ends. The file system must support POSIX locks (some
network shares do not).

The file holds no prompt, no image and no API key: only digests, answers and token counts.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from fusar_klip.errors import DatasetError
from fusar_klip.llm.provider import Completion, EncodedImage, Request

_TABLES = """
    CREATE TABLE IF NOT EXISTS answers (
        key BLOB PRIMARY KEY, text TEXT NOT NULL,
        input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, batch INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS used (
        name TEXT NOT NULL, batch INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, PRIMARY KEY (name, batch)
    );
"""
_ADD_ANSWER = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)"
_ADD_USE = """
    INSERT INTO used VALUES (?, ?, ?, ?) ON CONFLICT (name, batch) DO UPDATE SET
    input_tokens = input_tokens + excluded.input_tokens,
    output_tokens = output_tokens + excluded.output_tokens
"""
_BUSY_S = 120.0
_CLAIM_POLL_S = 0.2


class AnswerCache:
    """The cached answers of one data set.

    Attributes:
        path: The SQLite file.
    """

    def __init__(self, dataset: Path) -> None:
        """Open the cache; create it if it does not exist.

        Raises:
            DatasetError: The file is damaged, or cannot be written.
        """
        self.path = dataset / "cache" / "answers.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._usable():
            self._reader = self._connect()
            self._writer = self._connect()
            self._writer.executescript(_TABLES)
        self._claims = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        self._claimed: set[int] = set()
        self._waiting: list[tuple[str, bytes | None, Completion]] = []
        self._writing = asyncio.Lock()
        self._failed: DatasetError | None = None

    def get(self, key: bytes) -> Completion | None:
        """Return the answer to a request, or None."""
        with self._usable():
            row = self._reader.execute(
                "SELECT text, input_tokens, output_tokens, batch FROM answers WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Completion(row[0], row[1], row[2], bool(row[3]))

    async def put(self, name: str, key: bytes | None, answer: Completion) -> None:
        """Store an answer of the provider `name`; it is on disk when this returns.

        With `key` None only its tokens are counted: the request may be billed although its answer is lost.

        Raises:
            DatasetError: It cannot be written.
        """
        self._waiting.append((name, key, answer))
        async with self._writing:
            if self._waiting:
                rows, self._waiting = self._waiting, []
                try:
                    await asyncio.to_thread(self._write, rows)
                except DatasetError as error:
                    self._failed = error
            # Otherwise the previous holder of the lock has written this answer together with its own.
        if self._failed is not None:
            raise self._failed

    def used(self, name: str) -> Iterator[tuple[bool, int, int]]:
        """Yield (batch, input tokens, output tokens): totals of a provider's answers for this data set."""
        with self._usable():
            rows = self._reader.execute(
                "SELECT batch, input_tokens, output_tokens FROM used WHERE name = ?", (name,)
            ).fetchall()
        for batch, input_tokens, output_tokens in rows:
            yield bool(batch), input_tokens, output_tokens

    @asynccontextmanager
    async def claim(self, key: bytes) -> AsyncIterator[None]:
        """Hold the lock on an answer, among all tasks and processes that work on this data set."""
        place = int.from_bytes(key[:7], "big")
        while not self._try_lock(place):
            await asyncio.sleep(_CLAIM_POLL_S)
        try:
            yield
        finally:
            self._claimed.discard(place)
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, place)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._writer.close()
        os.close(self._claims)

    def _try_lock(self, place: int) -> bool:
        if place in self._claimed:  # POSIX locks hold between processes only
            return False
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except BlockingIOError:
            return False
        self._claimed.add(place)
        return True

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _write(self, rows: list[tuple[str, bytes | None, Completion]]) -> None:
        with self._usable(), self._writer:
            for name, key, answer in rows:
                counts = (answer.input_tokens, answer.output_tokens)
                if key is not None:
                    values = (key, answer.text, *counts, answer.batch)
                    if not self._writer.execute(_ADD_ANSWER, values).rowcount:
                        continue  # of a batch that was imported before
                self._writer.execute(_ADD_USE, (name, answer.batch, *counts))

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise DatasetError(
                f"{self.path} cannot be used ({error}): free disk space, or move the file away, which means "
                "paying for its answers again"
            ) from error


def answer_key(
    name: str, parameters: Mapping[str, Any], request: Request, image: EncodedImage | None, attempt: int = 0
) -> bytes:
    """Return the key of a request, 32 bytes: SHA-256 of model, parameters, whole prompt and image.

    The server's address is not part of it: a model has the same key on every server. `attempt` gives a
    repeated request after a rejected answer a key of its own.
    """
    asked = {
        "name": name,
        "parameters": dict(parameters),
        "system": request.system,
        "history": [list(message) for message in request.history],
        "user": request.user,
        "schema": request.schema,
        "image": image.digest if image is not None else None,
        "attempt": attempt,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()
