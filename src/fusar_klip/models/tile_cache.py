"""A data set's tiles, resized once and kept as one memory-mapped array: DATASET/cache/tiles_<size>.npy.

Reading whole GeoTIFFs for every epoch would cost more than the training step of a small model.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusar_klip.catalog import read_tiles
from fusar_klip.errors import DatasetError
from fusar_klip.files import replaced, sha256, write_json
from fusar_klip.models.preprocess import Preprocess
from fusar_klip.progress import track

# Tiles read ahead at once: 64 tiles of 5120 x 5120 pixels would take 1.6 GiB, so a few per core do.
_READ_AHEAD = 16


@dataclass(frozen=True)
class TileCache:
    """All tiles of a data set, kept or not, in the catalog's order.

    Attributes:
        images: (N, S, S) uint8, memory-mapped read-only, 0 = no data.
        rows: The row of each tile_id.
    """

    images: npt.NDArray[np.uint8]
    rows: Mapping[str, int]


def open_tile_cache(dataset: Path, size: int) -> TileCache:
    """Return the tiles of `dataset` at `size` x `size` pixels; make the array where it is missing or stale.

    It is stale when `tiles.parquet` has changed since: a tile_id follows from the scene's content, so an
    equal catalog means equal tiles.

    Raises:
        DatasetError: The data set is missing or unfinished, a tile cannot be read, or the cache cannot be
            written.
    """
    tiles = read_tiles(dataset, ["tile_id", "path"])
    array, manifest = (dataset / "cache" / f"tiles_{size}{suffix}" for suffix in (".npy", ".json"))
    about = {"size": size, "tiles": len(tiles), "tiles_parquet_sha256": sha256(dataset / "tiles.parquet")}
    if not _is_current(array, manifest, about):
        try:
            manifest.unlink(missing_ok=True)
            _fill(array, [dataset / path for path in tiles["path"]], size)
            write_json(manifest, about)
        except OSError as error:
            raise DatasetError(
                f"cannot write the tile cache {array} ({error.strerror}): make room"
            ) from error
    images = np.load(array, mmap_mode="r") if len(tiles) else np.empty((0, size, size), np.uint8)
    return TileCache(images, {tile_id: row for row, tile_id in enumerate(tiles["tile_id"])})


def _is_current(array: Path, manifest: Path, about: Mapping[str, object]) -> bool:
    try:
        return array.is_file() and bool(json.loads(manifest.read_text(encoding="utf-8")) == about)
    except (OSError, ValueError):
        return False


def _fill(array: Path, paths: list[Path], size: int) -> None:
    if not paths:
        return
    resize = Preprocess(size).resize
    with replaced(array) as partial, ThreadPoolExecutor(os.cpu_count()) as pool:
        images = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(paths), size, size))
        for start in track(range(0, len(paths), _READ_AHEAD), "Tiles to cache"):
            block = list(pool.map(resize, paths[start : start + _READ_AHEAD]))
            images[start : start + len(block)] = block
        images.flush()
