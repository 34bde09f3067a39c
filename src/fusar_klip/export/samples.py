"""The tiles of a data set with their texts, part by part, so that memory does not grow with the data set."""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.compute as pc
import shapely
from PIL import Image
from shapely.geometry.base import BaseGeometry

from fusar_klip.catalog import open_texts, open_tiles, segments_by_tile, text_versions
from fusar_klip.errors import DatasetError
from fusar_klip.files import finite_or_null

T = TypeVar("T")

_BATCH_ROWS = 1024
# Twice the threads; the largest tile of the paper (5120 px) is about 20 MB as PNG.
_THREADS = min(8, os.cpu_count() or 1)
_FILES_AT_A_TIME = 2 * _THREADS


@dataclass(frozen=True)
class Sample:
    """One tile.

    Attributes:
        row: The catalog's columns by name, without the geometry; a number that is not finite is None.
        footprint: In EPSG:4326; None for a tile without coordinates.
        task: The kind of its texts; None where it has none.
        segments: Its texts in use, "Field: text", in the order of the fields.
    """

    row: dict[str, Any]
    footprint: BaseGeometry | None
    task: str | None
    segments: list[str]

    @property
    def tile_id(self) -> str:
        """The tile's id."""
        return str(self.row["tile_id"])

    @property
    def text(self) -> str | None:
        """The segments, one a line."""
        return "\n".join(self.segments) or None


class Samples:
    """The tiles of a data set that are exported: all of them, or those that are kept.

    Attributes:
        dataset: The data set's folder.
        texts: The text version that goes along, None where the data set has none.
    """

    def __init__(self, dataset: Path, *, kept_only: bool, texts: str | None) -> None:
        """Open a data set.

        Raises:
            DatasetError: It is missing, unfinished or damaged, or has no such text version.
        """
        self.dataset = dataset
        self._tiles = open_tiles(dataset)
        self._where = pc.field("kept") if kept_only else pc.scalar(True)
        versions = text_versions(dataset)
        self.texts = texts or (versions[-1] if versions else None)
        self._texts = open_texts(dataset, self.texts) if self.texts else None

    def count(self, **equal: str) -> int:
        """Return how many tiles have the given values, such as split="train"."""
        return int(self._tiles.count_rows(filter=self._filter(equal)))

    def distinct(self, column: str) -> list[str]:
        """Return the values of a column of strings, sorted."""
        values: set[str] = set()
        for batch in self._tiles.to_batches([column], filter=self._filter({})):
            values.update(pc.unique(batch[column]).drop_null().to_pylist())
        return sorted(values)

    def __call__(self, **equal: str) -> Iterator[Sample]:
        """Yield the tiles that have the given values, ordered by tile_id."""
        for batch in self._tiles.to_batches(filter=self._filter(equal), batch_size=_BATCH_ROWS):
            if batch.num_rows == 0:
                continue
            rows = batch.drop_columns(["geometry"]).to_pylist()
            footprints = shapely.from_wkb(np.asarray(batch["geometry"].to_pylist(), dtype=object))
            task_of, segments = self._texts_between(rows[0]["tile_id"], rows[-1]["tile_id"])
            for row, footprint in zip(rows, footprints, strict=True):
                tile_id = row["tile_id"]
                yield Sample(finite_or_null(row), footprint, task_of.get(tile_id), segments.get(tile_id, []))

    def with_files(self, samples: Iterable[Sample], read: Callable[[Path], T]) -> Iterator[tuple[Sample, T]]:
        """Yield samples with what `read` makes of their GeoTIFFs, read in threads, in the samples' order.

        Raises:
            DatasetError: A file is missing or cannot be read.
        """
        samples = iter(samples)

        def read_file(sample: Sample) -> T:
            path = self.dataset / sample.row["path"]
            try:
                return read(path)
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises all three
                raise DatasetError(f"{path} cannot be read ({error}): build the data set again") from error

        with ThreadPoolExecutor(_THREADS) as pool:
            while some := list(islice(samples, _FILES_AT_A_TIME)):
                yield from zip(some, pool.map(read_file, some), strict=True)

    def _filter(self, equal: dict[str, str]) -> pc.Expression:
        where = self._where
        for column, value in equal.items():
            where &= pc.field(column) == value
        return where

    def _texts_between(self, first: str, last: str) -> tuple[dict[str, str], dict[str, list[str]]]:
        """Return task and segments by tile_id; the file is ordered by it, so few groups of rows are read."""
        if self._texts is None:
            return {}, {}
        tile_id = pc.field("tile_id")
        texts = self._texts.to_table(
            ["tile_id", "task", "field", "text"],
            filter=(tile_id >= first) & (tile_id <= last) & (pc.field("verdict") != "noise"),
        ).to_pandas()
        return dict(zip(texts["tile_id"], texts["task"], strict=True)), segments_by_tile(texts)


def png(path: Path) -> bytes:
    """Return a tile's pixels as PNG: 8-bit grey, 0 = no data."""
    encoded = io.BytesIO()
    with Image.open(path) as image:
        image.convert("L").save(encoded, "PNG")
    return encoded.getvalue()


def iso_time(time: datetime) -> str:
    """Spell a time as RFC 3339 in UTC, without fractions where there are none: 2020-11-07T13:52:41Z."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
