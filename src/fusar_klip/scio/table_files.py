"""Tables of image paths and captions on disk: CSV, TSV and Parquet, read and written block by block."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fusar_klip.errors import SettingsError
from fusar_klip.scio.sentences import split_sentences

TABLE_KINDS = (".csv", ".tsv", ".parquet")
_IMAGE_COLUMNS = ("image", "image_path", "filepath", "file_path", "path", "filename", "file_name", "img")
_CAPTION_COLUMNS = ("caption", "captions", "text", "sentence", "sentences", "title", "description")

_ROWS_PER_READ = 1024


@dataclass(frozen=True)
class CaptionTable:
    """A table, and which columns of it are meant."""

    path: Path
    image: str
    caption: str
    images: Path
    """The folder that relative image paths start from."""

    @property
    def schema(self) -> pa.Schema:
        """The columns and their types; of CSV all are text."""
        return _schema(self.path)

    def blocks(self) -> Iterator[pd.DataFrame]:
        """Yield the rows in order, a block at a time, all columns."""
        if self.path.suffix.lower() == ".parquet":
            for batch in pq.ParquetFile(self.path).iter_batches(_ROWS_PER_READ):
                # As they are: what pandas calls an index is a column too, and a missing number leaves the
                # others whole.
                yield batch.to_pandas(ignore_metadata=True, integer_object_nulls=True)
            return
        yield from _read_csv(self.path, chunksize=_ROWS_PER_READ)

    def sentences(self, caption: object) -> list[str]:
        """Return the sentences of a cell: of a text, or of a list of them."""
        if isinstance(caption, str):
            return split_sentences(caption)
        if isinstance(caption, (list, tuple, np.ndarray)):
            return [str(part).strip() for part in caption if part is not None and str(part).strip()]
        return []


def open_table(path: Path, images: Path | None, image: str | None, caption: str | None) -> CaptionTable:
    """Find out which columns of a table are meant.

    Args:
        path: The table.
        images: The folder that relative image paths start from; None: the table's own.
        image: The column of image paths; None: the first of the usual names.
        caption: The column of captions; None: the first of the usual names.

    Raises:
        SettingsError: The table is missing, of another kind, empty or damaged, has no such column, or its
            columns are no image paths and captions.
    """
    if not path.is_file():
        raise SettingsError(f"no such table: {path}")
    if path.suffix.lower() not in TABLE_KINDS:
        raise SettingsError(f"{path} is neither a data set nor a table: give one of {', '.join(TABLE_KINDS)}")
    if images is not None and not images.is_dir():
        raise SettingsError(f"no folder at {images}: give the one that the table's image paths start from")
    try:
        schema = _schema(path)
    except (ValueError, OSError, pa.ArrowException) as error:
        what = " ".join(str(error).split())
        raise SettingsError(f"{path} cannot be read ({what}): give UTF-8 {path.suffix[1:]}") from error

    names = schema.names
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise SettingsError(f'{path} has two columns "{twice[0]}": rename one')

    def column(given: str | None, usual: Sequence[str], what: str, option: str) -> str:
        by_lower = {name.lower(): name for name in names}
        found = given if given in names else None
        if given is None:
            found = next((by_lower[name] for name in usual if name in by_lower), None)
        if found is None:
            missing = f'"{given}"' if given is not None else f"of {what}"
            raise SettingsError(
                f"{path} has no column {missing} (there: {', '.join(names)}): name it with {option}"
            )
        return found

    table = CaptionTable(
        path,
        column(image, _IMAGE_COLUMNS, "image paths", "--image-column"),
        column(caption, _CAPTION_COLUMNS, "captions", "--caption-column"),
        images or path.parent,
    )
    if table.image == table.caption:
        raise SettingsError(
            f'"{table.image}" cannot hold both image paths and captions: name two columns with '
            "--image-column and --caption-column"
        )
    kind = schema.field(table.image).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)):
        raise SettingsError(
            f'the column "{table.image}" of {path} holds {kind}, not paths: save its pictures as files, and '
            "give their paths"
        )
    return table


def _schema(path: Path) -> pa.Schema:
    if path.suffix.lower() == ".parquet":
        return pq.read_schema(path)
    return pa.schema([(str(name), pa.string()) for name in next(iter(_read_csv(path, chunksize=1))).columns])


def _read_csv(path: Path, chunksize: int) -> Iterator[pd.DataFrame]:
    # All text, and nothing taken for a missing value: a caption may be "NA".
    with pd.read_csv(
        path,
        sep="\t" if path.suffix.lower() == ".tsv" else ",",
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        chunksize=chunksize,
    ) as reader:
        for block in reader:
            if not isinstance(block.index, pd.RangeIndex):
                # pandas takes the first column for an index where all rows are longer than the header.
                raise ValueError("its rows have more fields than its header: quote captions that hold commas")
            yield block


class TableWriter(Protocol):
    """Writes frames of the same columns, one after the other."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def write(self, frame: pd.DataFrame) -> None:
        """Write further rows."""


class CsvWriter:
    """Writes frames of the same columns, one after the other, as CSV or TSV in UTF-8."""

    def __init__(self, path: Path, separator: str) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._separator = separator
        self._header = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, frame: pd.DataFrame) -> None:
        """Write further rows."""
        frame.to_csv(self._file, sep=self._separator, index=False, header=self._header, lineterminator="\n")
        self._header = False


class ParquetWriter:
    """Writes frames of the same columns, one after the other, as Parquet."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, frame: pd.DataFrame) -> None:
        """Write further rows."""
        bare = self._schema.remove_metadata()  # which would name an index, where pandas wrote the table
        table = pa.Table.from_pandas(frame, schema=bare, preserve_index=False)
        self._writer.write_table(table.cast(self._schema))


def table_writer(path: Path, kind: str, schema: pa.Schema) -> TableWriter:
    """Return a writer of tables of `kind`, one of `TABLE_KINDS`; only Parquet knows the columns' types."""
    if kind == ".parquet":
        return ParquetWriter(path, schema)
    return CsvWriter(path, "\t" if kind == ".tsv" else ",")
