"""Reads captions that other projects wrote: CSV, TSV, Parquet, JSON, JSON lines and plain text.

    read_captions        any of these files, as records of (image id, captions)
    open_caption_table   a table (CSV, TSV, Parquet) of image paths and captions, in blocks of rows

This module opens no image and splits no caption into sentences. It writes nothing.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fusar_klip.errors import SettingsError

TABLE_KINDS = (".csv", ".tsv", ".parquet")
CAPTION_FILE_KINDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")

# Column names (JSON keys) in order of precedence; upper and lower case are equal. The two readers differ in
# precedence, and in what they need of an image: an id that groups its captions, or a path that can be opened.
CAPTION_COLUMNS = (
    *("caption", "captions", "text", "texts", "sentence", "sentences"),
    *("raw", "title", "description"),
)
IMAGE_ID_COLUMNS = (
    *("image_id", "image", "filename", "file_name", "filepath", "image_path", "img"),
    *("id", "key", "url", "file_path", "path"),
)
TABLE_CAPTION_COLUMNS = (
    *("caption", "captions", "text", "sentence", "sentences", "title", "description"),
    *("texts", "raw"),
)
IMAGE_PATH_COLUMNS = (
    *("image", "image_path", "filepath", "file_path", "path", "filename", "file_name", "img"),
    "image_id",
)

_ROWS_PER_BLOCK = 1024
_READ_ERRORS = (ValueError, OSError, pa.ArrowException)

Record: TypeAlias = tuple[str | None, list[str]]
"""(image id, captions). The id is None if the file has none."""


@dataclass(frozen=True)
class CaptionTable:
    """A table with a column of image paths and a column of captions.

    Attributes:
        path: CSV, TSV or Parquet.
        image_column: Holds the image paths.
        caption_column: Holds a caption, or a list of sentences, per row.
        image_folder: The folder that relative image paths start from.
        schema: All columns and their types; the columns of a CSV are strings.
    """

    path: Path
    image_column: str
    caption_column: str
    image_folder: Path
    schema: pa.Schema

    @property
    def separator(self) -> str:
        """The separator of a CSV or TSV."""
        return _separator(self.path)

    def blocks(self) -> Iterator[pd.DataFrame]:
        """Yield the rows in order, in blocks, with all columns.

        Raises:
            ValueError, OSError, pyarrow.ArrowException: The table is damaged.
        """
        return _blocks(self.path)


def open_caption_table(
    path: Path,
    *,
    image_folder: Path | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> CaptionTable:
    """Find the columns of image paths and captions in a table.

    Args:
        path: CSV, TSV or Parquet.
        image_folder: The folder that relative image paths start from; None: the folder of the table.
        image_column: Column of the image paths; None: the first of `IMAGE_PATH_COLUMNS`.
        caption_column: Column of the captions; None: the first of `TABLE_CAPTION_COLUMNS`.

    Raises:
        SettingsError: The table is missing, empty, damaged or of another kind, a column is missing, or the
            image column does not hold paths.
    """
    if not path.is_file():
        raise SettingsError(f"no such table: {path}")
    if path.suffix.lower() not in TABLE_KINDS:
        raise SettingsError(f"{path} is neither a data set nor a table: give one of {', '.join(TABLE_KINDS)}")
    if image_folder is not None and not image_folder.is_dir():
        raise SettingsError(
            f"no folder at {image_folder}: give the folder that the table's image paths start from"
        )
    try:
        schema = _schema(path)
        _refuse_long_rows(path)
    except _READ_ERRORS as error:
        raise SettingsError(f"{path} cannot be read ({one_line(error)}): {_fix(path)}") from error
    names = schema.names
    if repeated := sorted(name for name, times in Counter(names).items() if times > 1):
        raise SettingsError(f'{path} has two columns "{repeated[0]}": rename one')

    def column(given: str | None, known: Iterable[str], content: str, option: str) -> str:
        found = find_column(names, known) if given is None else given
        if found is None or found not in names:
            missing = f"of {content}" if given is None else f'"{given}"'
            raise SettingsError(
                f"{path} has no column {missing} (there: {', '.join(names)}): name it with {option}"
            )
        return found

    image = column(image_column, IMAGE_PATH_COLUMNS, "image paths", "--image-column")
    caption = column(caption_column, TABLE_CAPTION_COLUMNS, "captions", "--caption-column")
    if image == caption:
        raise SettingsError(
            f'"{image}" cannot hold both image paths and captions: name two columns with --image-column and '
            "--caption-column"
        )
    kind = schema.field(image).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)):
        raise SettingsError(
            f'the column "{image}" of {path} holds {kind}, not paths: save its pictures as files, and give '
            "their paths"
        )
    return CaptionTable(path, image, caption, image_folder or path.parent, schema)


def read_captions(path: Path, column: str | None = None) -> Iterator[Record]:
    """Yield the image id and the captions of each record of a caption file.

    JSON may be a list of records, COCO captions, sentences as in RSICD, or conversations of an instruction
    set; of these, the assistant's answers are the captions. A text file has one caption per line.

    Args:
        path: A file of one of `CAPTION_FILE_KINDS`.
        column: Column or key of the captions; None: the first of `CAPTION_COLUMNS`.

    Raises:
        SettingsError: The file cannot be read, or has no column of captions.
    """
    kind = path.suffix.lower()
    try:
        if kind == ".txt":
            yield from ((None, [line]) for line in path.read_text(encoding="utf-8-sig").splitlines())
        elif kind in (".json", ".jsonl"):
            yield from _json_records(path, kind, column)
        else:
            yield from _table_records(path, column)
    except _READ_ERRORS as error:
        raise SettingsError(f"{path} cannot be read as captions ({one_line(error)}): {_fix(path)}") from error


def find_column(names: Iterable[str], known: Iterable[str]) -> str | None:
    """Return the column that has the first of the `known` names; None if there is none."""
    by_lower = {str(name).lower(): name for name in names}
    return next((by_lower[name] for name in known if name in by_lower), None)


def one_line(error: Exception) -> str:
    """Return an error's message without line breaks."""
    return " ".join(str(error).split())


def _fix(path: Path) -> str:
    kind = path.suffix.lower()
    return "repair or replace it" if kind == ".parquet" else f"give UTF-8 {kind[1:]}"


def _schema(path: Path) -> pa.Schema:
    if path.suffix.lower() == ".parquet":
        return pq.read_schema(path)
    return pa.schema([(str(name), pa.string()) for name in next(_csv_blocks(path, 1)).columns])


def _blocks(path: Path) -> Iterator[pd.DataFrame]:
    if path.suffix.lower() != ".parquet":
        yield from _csv_blocks(path, _ROWS_PER_BLOCK)
        return
    for batch in pq.ParquetFile(path).iter_batches(_ROWS_PER_BLOCK):
        # The stored columns: a pandas index is a column too, and integers with nulls do not become floats.
        yield batch.to_pandas(ignore_metadata=True, integer_object_nulls=True)


def _csv_blocks(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    # All columns as strings, and no missing values: a caption may be "NA".
    with pd.read_csv(
        path,
        sep=_separator(path),
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        chunksize=rows,
    ) as reader:
        yield from reader


def _separator(path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    return "\t" if "\t" in header and "," not in header else ","


def _refuse_long_rows(path: Path) -> None:
    """Refuse a CSV whose rows are longer than its header: pandas takes their first field as an index."""
    if path.suffix.lower() != ".parquet" and not isinstance(next(_csv_blocks(path, 1)).index, pd.RangeIndex):
        raise ValueError("its rows have more fields than its header: quote captions that hold commas")


def _table_records(path: Path, column: str | None) -> Iterator[Record]:
    names = _schema(path).names
    caption = column or find_column(names, CAPTION_COLUMNS)
    if caption is None or caption not in names:
        raise SettingsError(f"{path} has no column of captions ({', '.join(names)}): name it with --column")
    image = find_column([name for name in names if name != caption], IMAGE_ID_COLUMNS)
    for block in _blocks(path):
        images = block[image] if image else [None] * len(block)
        for image_id, value in zip(images, block[caption], strict=True):
            yield _image_id(image_id), _captions(value)


def _json_records(path: Path, kind: str, key: str | None) -> Iterator[Record]:
    text = path.read_text(encoding="utf-8-sig")
    content = (
        [json.loads(line) for line in text.splitlines() if line.strip()]
        if kind == ".jsonl"
        else json.loads(text)
    )
    if isinstance(content, dict):
        # COCO has its captions under "annotations", RSICD under "images", other sets under other keys.
        lists = [content.get(name) for name in ("annotations", "images", "data")]
        lists += list(content.values())
        content = next((c for c in lists if isinstance(c, list) and c and _has_captions(c[0], key)), [])
    for record in content:
        if isinstance(record, str):
            yield None, [record]
        elif isinstance(record, dict):
            image = next((record[name] for name in IMAGE_ID_COLUMNS if name in record), None)
            yield _image_id(image), _captions_of_record(record, key)


def _has_captions(record: Any, key: str | None) -> bool:
    return isinstance(record, str) or (isinstance(record, dict) and bool(_captions_of_record(record, key)))


def _captions_of_record(record: Mapping[str, Any], key: str | None) -> list[str]:
    if key is None and isinstance(record.get("conversations"), list):
        # The questions are the instruction set's own; the answers describe the image.
        turns = [turn for turn in record["conversations"] if isinstance(turn, dict)]
        return [str(t.get("value", "")) for t in turns if t.get("from") in ("gpt", "assistant")]
    key = key or find_column(record, CAPTION_COLUMNS)
    return [] if key is None else _captions(record.get(key))


def _captions(value: Any) -> list[str]:
    """Return the captions of a value: a text, a list of texts, or records that hold texts."""
    if value is None or isinstance(value, float):
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return _captions_of_record(value, None)
    if isinstance(value, Iterable):
        return [text for part in value for text in _captions(part)]
    return [str(value)]


def _image_id(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)
