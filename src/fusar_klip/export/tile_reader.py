"""Reads the tiles of a data set with their texts in batches; memory does not grow with the data set."""

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
class ExportedTile:
    """One tile with its texts.

    Attributes:
        row: The catalog's columns by name, without the geometry; non-finite numbers are None.
        footprint: In EPSG:4326; None for a tile without coordinates.
        task: The task of its texts; None if it has no texts.
        segments: Its texts in use, "Field: text", in the order of the fields.
    """

    row: dict[str, Any]
    footprint: BaseGeometry | None
    task: str | None
    segments: list[str]

    @property
    def tile_id(self) -> str:
        """The id of the tile."""
        return str(self.row["tile_id"])

    @property
    def text(self) -> str | None:
        """The segments, one per line; None if there are none."""
        return "\n".join(self.segments) or None


class TileReader:
    """Iterates over the tiles to export: all tiles of a data set, or the kept ones.

    Attributes:
        dataset: The data set's folder.
        text_version: The text version to export; None if the data set has no texts.
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
        self.text_version = texts or (versions[-1] if versions else None)
        self._texts = open_texts(dataset, self.text_version) if self.text_version else None

    def count(self, **equal: str) -> int:
        """Return the number of tiles with the given column values, such as split="train"."""
        return int(self._tiles.count_rows(filter=self._filter(equal)))

    def distinct(self, column: str) -> list[str]:
        """Return the sorted distinct values of a string column."""
        values: set[str] = set()
        for batch in self._tiles.to_batches([column], filter=self._filter({})):
            values.update(pc.unique(batch[column]).drop_null().to_pylist())
        return sorted(values)

    def tiles(self, **equal: str) -> Iterator[ExportedTile]:
        """Yield the tiles with the given column values, ordered by tile_id."""
        for batch in self._tiles.to_batches(filter=self._filter(equal), batch_size=_BATCH_ROWS):
            if batch.num_rows == 0:
                continue
            rows = batch.drop_columns(["geometry"]).to_pylist()
            footprints = shapely.from_wkb(np.asarray(batch["geometry"].to_pylist(), dtype=object))
            task_of, segments = self._texts_between(rows[0]["tile_id"], rows[-1]["tile_id"])
            for row, footprint in zip(rows, footprints, strict=True):
                tile_id = row["tile_id"]
                yield ExportedTile(
                    finite_or_null(row), footprint, task_of.get(tile_id), segments.get(tile_id, [])
                )

    def with_files(
        self, tiles: Iterable[ExportedTile], read: Callable[[Path], T]
    ) -> Iterator[tuple[ExportedTile, T]]:
        """Yield each tile with the result of `read` on its GeoTIFF, in order; files are read in threads.

        Raises:
            DatasetError: A file is missing or cannot be read.
        """
        tiles = iter(tiles)

        def read_file(tile: ExportedTile) -> T:
            path = self.dataset / tile.row["path"]
            try:
                return read(path)
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises all three
                raise DatasetError(f"{path} cannot be read ({error}): build the data set again") from error

        with ThreadPoolExecutor(_THREADS) as pool:
            while batch := list(islice(tiles, _FILES_AT_A_TIME)):
                yield from zip(batch, pool.map(read_file, batch), strict=True)

    def _filter(self, equal: dict[str, str]) -> pc.Expression:
        where = self._where
        for column, value in equal.items():
            where &= pc.field(column) == value
        return where

    def _texts_between(self, first: str, last: str) -> tuple[dict[str, str], dict[str, list[str]]]:
        """Return task and segments by tile_id. The file is ordered by tile_id, so few row groups are read."""
        if self._texts is None:
            return {}, {}
        tile_id = pc.field("tile_id")
        texts = self._texts.to_table(
            ["tile_id", "task", "field", "text"],
            filter=(tile_id >= first) & (tile_id <= last) & (pc.field("verdict") != "noise"),
        ).to_pandas()
        return dict(zip(texts["tile_id"], texts["task"], strict=True)), segments_by_tile(texts)


def encode_png(path: Path) -> bytes:
    """Return a tile's pixels as PNG: 8 bits, single-channel, 0 = no data."""
    encoded = io.BytesIO()
    with Image.open(path) as image:
        image.convert("L").save(encoded, "PNG")
    return encoded.getvalue()


def iso_time(time: datetime) -> str:
    """Return a time as RFC 3339 in UTC, without fractions if they are zero: 2020-11-07T13:52:41Z."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
