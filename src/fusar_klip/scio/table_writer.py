"""Writes tables in the same format as the table that was read: CSV, TSV or Parquet, block by block."""

from pathlib import Path
from typing import Protocol, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


class TableWriter(Protocol):
    """Writes blocks of rows with the same columns."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def write(self, frame: pd.DataFrame) -> None:
        """Append rows."""


class CsvWriter:
    """Writes blocks of rows with the same columns as CSV or TSV in UTF-8."""

    def __init__(self, path: Path, separator: str) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._separator = separator
        self._header = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, frame: pd.DataFrame) -> None:
        """Append rows."""
        frame.to_csv(self._file, sep=self._separator, index=False, header=self._header, lineterminator="\n")
        self._header = False


class ParquetWriter:
    """Writes blocks of rows with the same columns as Parquet."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, frame: pd.DataFrame) -> None:
        """Append rows."""
        bare = self._schema.remove_metadata()  # The pandas metadata may name an index column
        table = pa.Table.from_pandas(frame, schema=bare, preserve_index=False)
        self._writer.write_table(table.cast(self._schema))


def table_writer(path: Path, schema: pa.Schema, separator: str | None) -> TableWriter:
    """Return a writer of a table: a CSV with `separator`, or a Parquet file if it is None.

    Only Parquet stores the types of `schema`.
    """
    return ParquetWriter(path, schema) if separator is None else CsvWriter(path, separator)
