"""A data set's tiles, resized once and kept as memory-mapped Arrow shards: DATASET/cache/tiles_<size>/.

Reading whole GeoTIFFs for every epoch would cost more than the training step of a small model. Arrow
(pyarrow) holds the tiles: the catalog needs it anyway, its files are read in place without a copy, and one
file per 16,384 tiles makes some sixty files of a data set of a million tiles.

    DATASET/cache/tiles_224/00000.arrow   one column `tile`, fixed-size binary; null = unreadable

A shard is complete or absent, so an interrupted run continues with the missing shards.
"""

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from fusar_klip.catalog import read_tiles
from fusar_klip.errors import DatasetError
from fusar_klip.files import replaced
from fusar_klip.models.preprocess import Preprocess
from fusar_klip.progress import progress_bar

_log = logging.getLogger(__name__)

_SHARD_TILES = 16_384
# Tiles of one record batch of a shard, which are in memory while a shard is written.
_BLOCK_TILES = 64
# Tiles read ahead per thread: four of 5120 x 5120 pixels take 105 MB.
_AHEAD = 2
_FORMAT = 1
# These columns change when a tile's pixels change: the tile_id follows from the scene's content, the
# statistics from the mapping to 8 bits.
_IDENTITY = ("tile_id", "path", "width", "height", "mean", "std", "valid_fraction")


class TileImages:
    """The pixels of all tiles, (N, S, S) uint8, 0 = no data: indexed by row or rows like an array.

    Args:
        blocks: (n, S, S) uint8 each, `_BLOCK_TILES` tiles but for a shard's last one.
        size: S.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, blocks: Sequence[npt.NDArray[np.uint8]], size: int) -> None:
        self._blocks = blocks
        self._starts = np.cumsum([0, *(len(block) for block in blocks)])
        self.shape = (int(self._starts[-1]), size, size)

    def __len__(self) -> int:
        """Return N."""
        return self.shape[0]

    def __getitem__(self, rows: "int | slice | Sequence[int] | npt.NDArray[Any]") -> npt.NDArray[np.uint8]:
        """Return (S, S) of one row, in place, or (n, S, S) of several, copied."""
        if isinstance(rows, (int, np.integer)):
            row = range(len(self))[rows]
            block = int(np.searchsorted(self._starts, row, "right")) - 1
            tile: npt.NDArray[np.uint8] = self._blocks[block][row - self._starts[block]]
            return tile
        wanted = np.arange(len(self))[rows]
        chosen = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        for place, row in enumerate(wanted):
            chosen[place] = self[int(row)]
        return chosen

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all tiles as one array; for small data sets."""
        return self[:].astype(dtype or self.dtype, copy=False)


class _Rows(dict[str, int]):
    """The rows of readable tiles; another key raises an error that says how to fix the tile."""

    def __init__(self, rows: Mapping[str, int], unreadable: Mapping[str, str]) -> None:
        super().__init__(rows)
        self._unreadable = unreadable

    def __missing__(self, tile_id: str) -> int:
        if tile_id in self._unreadable:
            raise DatasetError(self._unreadable[tile_id])
        raise KeyError(tile_id)


@dataclass(frozen=True)
class TileCache:
    """All tiles of a data set, kept or not, in the catalog's order.

    Attributes:
        images: (N, S, S) uint8, memory-mapped read-only, 0 = no data; undefined for unreadable tiles.
        rows: The row of each readable tile_id; an unreadable one raises a `DatasetError`.
        unreadable: {tile_id: a sentence that states why and how to fix it} of the unreadable tiles.
    """

    images: TileImages
    rows: Mapping[str, int]
    unreadable: Mapping[str, str]


def open_tile_cache(dataset: Path, size: int, *, tell: bool = True) -> TileCache:
    """Return the tiles of `dataset` at `size` x `size` pixels; write missing and stale shards.

    A shard is stale if its tiles differ from the catalog, or if a tile that was unreadable is readable now.
    Unreadable tiles are skipped, and named in the log.

    Args:
        dataset: The data set.
        size: Side of the tiles in pixels.
        tell: Whether the log names unreadable tiles.

    Raises:
        DatasetError: The data set is missing or unfinished, or the cache cannot be written.
    """
    tiles = read_tiles(dataset, _IDENTITY)
    folder = dataset / "cache" / f"tiles_{size}"
    shards = [tiles[start : start + _SHARD_TILES] for start in range(0, len(tiles), _SHARD_TILES)]
    blocks: list[npt.NDArray[np.uint8]] = []
    unreadable: dict[str, str] = {}
    try:
        for number, shard in enumerate(shards):
            path = folder / f"{number:05d}.arrow"
            if not _is_current(path, dataset, shard, size):
                _fill(path, dataset, shard, size, f"Tiles to cache, shard {number + 1} of {len(shards)}")
            arrays, bad = _open(path, size)
            blocks += arrays
            unreadable.update(bad)
        for path in sorted(folder.glob("*.arrow"))[len(shards) :]:
            path.unlink()
    except OSError as error:
        raise DatasetError(
            f"cannot write the tile cache {folder} ({error.strerror}): free disk space, or make it writable"
        ) from error
    for sentence in unreadable.values() if tell else ():
        _log.warning("left out: %s", sentence)
    readable = {tile_id: row for row, tile_id in enumerate(tiles["tile_id"]) if tile_id not in unreadable}
    return TileCache(TileImages(blocks, size), _Rows(readable, unreadable), unreadable)


def _digest(shard: pd.DataFrame, size: int) -> str:
    rows = pd.util.hash_pandas_object(shard, index=False).to_numpy()
    return hashlib.sha256(rows.tobytes() + f"{size} {_FORMAT}".encode()).hexdigest()


def _is_current(path: Path, dataset: Path, shard: pd.DataFrame, size: int) -> bool:
    try:
        about = _about(pa.ipc.open_file(pa.memory_map(str(path))))
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return False  # absent or damaged
    if about["digest"] != _digest(shard, size):
        return False
    paths = dict(zip(shard["tile_id"], shard["path"], strict=True))
    return not any(_readable(dataset / paths[tile_id], size) for tile_id in about["unreadable"])


def _about(file: pa.ipc.RecordBatchFileReader) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(file.schema.metadata[b"fusar_klip"])
    # The unreadable tiles are known only at the end, after the schema is written, so they are stored in the
    # metadata of the last batch.
    last = file.get_batch_with_custom_metadata(file.num_record_batches - 1)
    return {**about, **json.loads(last.custom_metadata[b"fusar_klip"])}


def _readable(path: Path, size: int) -> bool:
    try:
        Preprocess(size).resize(path)
    except DatasetError:
        return False
    return True


def _open(path: Path, size: int) -> tuple[list[npt.NDArray[np.uint8]], dict[str, str]]:
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    arrays = []
    for number in range(file.num_record_batches):
        column = file.get_batch(number).column(0)
        # The column's buffer is the mapped file; the array keeps it alive.
        pixels = np.frombuffer(column.buffers()[1], np.uint8, len(column) * size * size)
        arrays.append(pixels.reshape(len(column), size, size))
    return arrays, _about(file)["unreadable"]


def _fill(path: Path, dataset: Path, shard: pd.DataFrame, size: int, description: str) -> None:
    names, paths = list(shard["tile_id"]), [dataset / name for name in shard["path"]]
    about = json.dumps({"digest": _digest(shard, size)}).encode()
    schema = pa.schema([("tile", pa.binary(size * size))], metadata={b"fusar_klip": about})
    unreadable: dict[str, str] = {}
    resize = Preprocess(size).resize

    def read(place: int) -> bytes | None:
        try:
            return resize(paths[place]).tobytes()
        except DatasetError as error:
            unreadable[names[place]] = str(error)
            return None

    with (
        replaced(path) as partial,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
        progress_bar() as bar,
    ):
        task = bar.add_task(description, total=len(names))
        block: list[bytes | None] = []
        for done, tile in enumerate(_in_order(read, len(names)), 1):
            block.append(tile)
            if len(block) == _BLOCK_TILES or done == len(names):
                batch = pa.record_batch([pa.array(block, schema.field(0).type)], schema=schema)
                known = json.dumps({"unreadable": dict(sorted(unreadable.items()))}).encode()
                writer.write_batch(batch, custom_metadata={b"fusar_klip": known})
                block = []
            bar.update(task, completed=done)


def _in_order(read: Callable[[int], bytes | None], count: int) -> Iterator[bytes | None]:
    """Yield read(0) to read(count - 1), prefetched by threads: Pillow decodes without Python's lock."""
    threads = os.cpu_count() or 1
    waiting: deque[Future[bytes | None]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for place in range(count):
            if len(waiting) == _AHEAD * threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(read, place))
        while waiting:
            yield waiting.popleft().result()
