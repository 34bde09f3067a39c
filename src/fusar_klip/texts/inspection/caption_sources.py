"""Captions from anywhere, one image at a time: text versions of a data set, and other people's files.

Read are CSV and TSV, JSON and JSON lines (lists of records, COCO captions, the `sentences` of RSICD's kind,
conversations of instruction sets), Parquet, and plain text with a caption a line.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fusar_klip.catalog import TEXT_SCHEMA, Task, described_versions, open_texts, read_text_metadata
from fusar_klip.errors import SettingsError

FILE_KINDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
_CAPTION_KEYS = (
    "caption",
    "captions",
    "text",
    "texts",
    "sentence",
    "sentences",
    "raw",
    "title",
    "description",
)
_IMAGE_KEYS = (
    "image_id",
    "image",
    "filename",
    "file_name",
    "filepath",
    "image_path",
    "img",
    "id",
    "key",
    "url",
)
_TEXT_COLUMNS = ["tile_id", "task", "field", "text", "verdict"]
_Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class ImageText:
    """All that is said of one image.

    Attributes:
        image_id: The tile, or the file's own id of the image.
        task: The tile's task; None in files that know no tasks.
        captions: (field, sentence) of a tile; (None, caption) in other files.
    """

    image_id: str
    task: Task | None
    captions: tuple[tuple[str | None, str], ...]


@dataclass(frozen=True)
class CaptionSource:
    """A set of captions that can be read as often as needed.

    Attributes:
        name: "v000", or a file's name.
        about: Who made it and how, as far as that is known: "openai/gpt-4.1, chain".
        mode: The reasoning mode of its maker; None where it has none.
        read: Yields its images.
    """

    name: str
    about: str
    mode: str | None
    read: Callable[[], Iterator[ImageText]]


def dataset_sources(dataset: Path) -> list[CaptionSource]:
    """Return the text versions of a data set, oldest first.

    Raises:
        DatasetError: There is no data set, or it has no texts.
    """
    return [_version_source(dataset, version) for version in described_versions(dataset)]


def file_source(path: Path, column: str | None = None) -> CaptionSource:
    """Return the captions of a file.

    Args:
        path: A file of one of `FILE_KINDS`.
        column: Column or key of the captions; None: the first known one (caption, text, sentence, ...).

    Raises:
        SettingsError: The file is missing, is of no known kind, or holds no captions.
    """
    kind = path.suffix.lower()
    if not path.is_file():
        raise SettingsError(f"no such file: {path}")
    if kind not in FILE_KINDS:
        raise SettingsError(f"{path} is no caption file: give one of {', '.join(FILE_KINDS)}")
    if kind == ".parquet" and set(TEXT_SCHEMA.names) <= set(_parquet_columns(path)):
        return CaptionSource(
            path.name, "", None, lambda: _tiles(pq.ParquetFile(path).iter_batches(columns=_TEXT_COLUMNS))
        )

    def read() -> Iterator[ImageText]:
        by_image: dict[str, list[str]] = {}
        for place, (image_id, captions) in enumerate(_captions(path, kind, column)):
            found = by_image.setdefault(f"row {place}" if image_id is None else image_id, [])
            found += [caption for caption in captions if caption.strip()]
        if not any(by_image.values()):
            raise SettingsError(f"{path} holds no captions: name their column with --column")
        for image_id, captions in by_image.items():
            if captions:
                yield ImageText(image_id, None, tuple((None, caption) for caption in captions))

    return CaptionSource(path.name, "", None, read)


def _version_source(dataset: Path, version: str) -> CaptionSource:
    maker = read_text_metadata(dataset, version)["maker"] or {}
    provider, model, mode = (
        str(maker[key]) if maker.get(key) else "" for key in ("provider", "model", "mode")
    )
    who = f"{provider}/{model}" if model and not model.startswith(f"{provider}/") else model or provider
    about = ", ".join(part for part in (who, mode) if part)

    def read() -> Iterator[ImageText]:
        return _tiles(open_texts(dataset, version).to_batches(columns=_TEXT_COLUMNS))

    return CaptionSource(version, about, mode or None, read)


def _tiles(batches: Iterable[pa.RecordBatch]) -> Iterator[ImageText]:
    """Put the rows of each tile together; they stand one after the other. Noise is left out."""
    rows = (row for batch in batches for row in batch.to_pylist() if row["verdict"] != "noise")
    for tile_id, of_tile in groupby(rows, key=lambda row: row["tile_id"]):
        said = list(of_tile)
        yield ImageText(tile_id, said[0]["task"], tuple((row["field"], row["text"]) for row in said))


def _captions(path: Path, kind: str, column: str | None) -> Iterator[tuple[str | None, list[str]]]:
    """Yield (image, captions) of each record of a file."""
    try:
        if kind == ".txt":
            for line in path.read_text(encoding="utf-8-sig").splitlines():
                yield None, [line]
            return
        if kind in (".json", ".jsonl"):
            yield from _json_captions(path, kind, column)
            return
        frame = _table(path, kind)
        key = column or _first(frame.columns, _CAPTION_KEYS)
        if key is None or key not in frame.columns:
            names = ", ".join(map(str, frame.columns))
            raise SettingsError(f"{path} has no column of captions ({names}): name it with --column")
        image_key = _first([name for name in frame.columns if name != key], _IMAGE_KEYS)
        images = frame[image_key] if image_key else [None] * len(frame)
        for image, value in zip(images, frame[key], strict=True):
            yield _image_id(image), _texts(value)
    except (ValueError, OSError, pa.ArrowException) as error:
        what = " ".join(str(error).split())
        raise SettingsError(f"{path} cannot be read as captions ({what}): give UTF-8 {kind[1:]}") from error


def _table(path: Path, kind: str) -> pd.DataFrame:
    if kind == ".parquet":
        return cast(pd.DataFrame, pq.read_table(path).to_pandas())
    with path.open(encoding="utf-8-sig") as file:
        head = file.readline()
    separator = "\t" if kind == ".tsv" or ("\t" in head and "," not in head) else ","
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def _parquet_columns(path: Path) -> list[str]:
    try:
        names: list[str] = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise SettingsError(f"{path} is no Parquet file that can be read: give another") from error
    return names


def _json_captions(path: Path, kind: str, column: str | None) -> Iterator[tuple[str | None, list[str]]]:
    text = path.read_text(encoding="utf-8-sig")
    content = (
        [json.loads(line) for line in text.splitlines() if line.strip()]
        if kind == ".jsonl"
        else json.loads(text)
    )
    if isinstance(content, dict):
        # COCO's captions stand under "annotations", RSICD's under "images"; others under some name.
        lists = [content.get(key) for key in ("annotations", "images", "data")]
        lists += list(content.values())
        content = next((c for c in lists if isinstance(c, list) and c and _says_something(c[0], column)), [])
    for record in content:
        if isinstance(record, str):
            yield None, [record]
        elif isinstance(record, dict):
            image = next((record[key] for key in _IMAGE_KEYS if key in record), None)
            yield _image_id(image), _said(record, column)


def _says_something(record: Any, column: str | None) -> bool:
    return isinstance(record, str) or (isinstance(record, dict) and bool(_said(record, column)))


def _said(record: _Record, column: str | None) -> list[str]:
    if column is None and isinstance(record.get("conversations"), list):
        # What the assistant says; the questions are the instruction set's own.
        turns = [turn for turn in record["conversations"] if isinstance(turn, dict)]
        return [str(t.get("value", "")) for t in turns if t.get("from") in ("gpt", "assistant")]
    key = column or _first(record, _CAPTION_KEYS)
    return [] if key is None else _texts(record.get(key))


def _texts(value: Any) -> list[str]:
    """Return the captions in a value: a text, a list of them, or of records that hold one."""
    if value is None or isinstance(value, float):
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return _said(value, None)
    if isinstance(value, Iterable):
        return [text for part in value for text in _texts(part)]
    return [str(value)]


def _first(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    by_lower = {str(name).lower(): name for name in names}
    return next((by_lower[name] for name in wanted if name in by_lower), None)


def _image_id(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)
