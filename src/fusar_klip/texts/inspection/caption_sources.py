"""The captions that `inspect` measures: text versions of a data set, and caption files of other projects."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fusar_klip.caption_table import CAPTION_FILE_KINDS, read_captions
from fusar_klip.catalog import TEXT_SCHEMA, Task, described_versions, open_texts, read_text_metadata
from fusar_klip.errors import SettingsError

_TEXT_COLUMNS = ["tile_id", "task", "field", "text", "verdict"]


@dataclass(frozen=True)
class ImageCaptions:
    """The captions of one image.

    Attributes:
        image_id: The tile, or the image id in the file.
        task: The tile's task; None in a file without tasks.
        captions: (field, sentence) of a tile; (None, caption) in other files.
    """

    image_id: str
    task: Task | None
    captions: tuple[tuple[str | None, str], ...]


@dataclass(frozen=True)
class CaptionSource:
    """A set of captions that can be read several times.

    Attributes:
        name: "v000", or a file's name.
        about: Provider, model and mode, as far as they are known: "openai/gpt-4.1, chain".
        mode: The prompting mode; None if unknown.
        read: Yields the captions of each image.
    """

    name: str
    about: str
    mode: str | None
    read: Callable[[], Iterator[ImageCaptions]]


def dataset_sources(dataset: Path) -> list[CaptionSource]:
    """Return the text versions of a data set, oldest first.

    Raises:
        DatasetError: There is no data set, or it has no texts.
    """
    return [_version_source(dataset, version) for version in described_versions(dataset)]


def file_source(path: Path, column: str | None = None) -> CaptionSource:
    """Return the captions of a file.

    Args:
        path: A file of one of `caption_table.CAPTION_FILE_KINDS`.
        column: Column or key of the captions; None: the first known one (caption, text, sentence, ...).

    Raises:
        SettingsError: The file is missing, its kind is not supported, or it holds no captions.
    """
    kind = path.suffix.lower()
    if not path.is_file():
        raise SettingsError(f"no such file: {path}")
    if kind not in CAPTION_FILE_KINDS:
        raise SettingsError(f"{path} is not a caption file: give one of {', '.join(CAPTION_FILE_KINDS)}")
    if kind == ".parquet" and set(TEXT_SCHEMA.names) <= set(_parquet_columns(path)):
        return CaptionSource(
            path.name, "", None, lambda: _tiles(pq.ParquetFile(path).iter_batches(columns=_TEXT_COLUMNS))
        )

    def read() -> Iterator[ImageCaptions]:
        by_image: dict[str, list[str]] = {}
        for row, (image_id, captions) in enumerate(read_captions(path, column)):
            found = by_image.setdefault(f"row {row}" if image_id is None else image_id, [])
            found += [caption for caption in captions if caption.strip()]
        if not any(by_image.values()):
            raise SettingsError(f"{path} holds no captions: name their column with --column")
        for image_id, captions in by_image.items():
            if captions:
                yield ImageCaptions(image_id, None, tuple((None, caption) for caption in captions))

    return CaptionSource(path.name, "", None, read)


def _version_source(dataset: Path, version: str) -> CaptionSource:
    maker = read_text_metadata(dataset, version)["maker"] or {}
    provider, model, mode = (
        str(maker[key]) if maker.get(key) else "" for key in ("provider", "model", "mode")
    )
    who = f"{provider}/{model}" if model and not model.startswith(f"{provider}/") else model or provider
    about = ", ".join(part for part in (who, mode) if part)

    def read() -> Iterator[ImageCaptions]:
        return _tiles(open_texts(dataset, version).to_batches(columns=_TEXT_COLUMNS))

    return CaptionSource(version, about, mode or None, read)


def _tiles(batches: Iterable[pa.RecordBatch]) -> Iterator[ImageCaptions]:
    """Yield the texts of each tile, without noise; the rows of a tile are consecutive."""
    rows = (row for batch in batches for row in batch.to_pylist() if row["verdict"] != "noise")
    for tile_id, group in groupby(rows, key=lambda row: row["tile_id"]):
        texts = list(group)
        yield ImageCaptions(tile_id, texts[0]["task"], tuple((row["field"], row["text"]) for row in texts))


def _parquet_columns(path: Path) -> list[str]:
    try:
        names: list[str] = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise SettingsError(f"{path} is not a readable Parquet file: give another file") from error
    return names
