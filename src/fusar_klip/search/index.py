"""The search index of a data set: a folder with one embedding per kept tile.

    INDEX/vectors.faiss     faiss IndexFlatIP over (N, D) float32, L2-normalised: the score is the cosine
    INDEX/entries.parquet   N rows in the order of the vectors: the columns that a result shows
    INDEX/index.json        written last: version, counts, data set, and the checkpoint that embeds queries

The search is exact: no quantisation, no approximation. To write an index:
`fusar-klip index DATASET --checkpoint RUN --out INDEX`.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from fusar_klip import catalog, models
from fusar_klip.errors import SearchError
from fusar_klip.files import replaced, sha256, write_json
from fusar_klip.progress import track
from fusar_klip.search.geography import footprint_bounds

KIND = "fusar_klip index"
VERSION = 1
FILES = ("entries.parquet", "index.json", "vectors.faiss")
ENTRY_SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("scale", pa.string(), nullable=False),
        ("gsd_m", pa.float64()),
        ("acquired", pa.timestamp("us", tz="UTC")),
        ("lon", pa.float64()),
        ("lat", pa.float64()),
        ("west", pa.float64()),
        ("south", pa.float64()),
        ("east", pa.float64()),
        ("north", pa.float64()),
        ("text", pa.string()),
    ]
)
"""Columns of `entries.parquet`. `path` is relative to the data set; west to north are the footprint's
bounding box in degrees, west > east across the antimeridian; `text` is the tile's segments, one per line, or
null."""

Embeddings = npt.NDArray[np.float32]

_BATCH = 64
# A result is read from one row group, not from the whole file.
_ROW_GROUP = 4096


@dataclass(frozen=True)
class IndexSummary:
    """The index that `build_index` wrote."""

    index: str
    dataset: str
    checkpoint: str
    tiles: int
    dim: int
    texts: str | None
    """The text version that results show; None if the data set has no texts."""


@dataclass(frozen=True)
class SearchIndex:
    """An opened index. Vectors and texts stay on disk until they are needed."""

    folder: Path
    dataset: Path
    checkpoint: str
    checkpoint_digest: str
    dataset_digest: str
    count: int
    vectors: Any
    """faiss.IndexFlatIP, memory-mapped."""
    bounds: npt.NDArray[np.float64]
    """(count, 4) float64, degrees: west, south, east, north of each tile's footprint."""

    def nearest(
        self, query_d: Embeddings, count: int, among: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Embeddings, npt.NDArray[np.int64]]:
        """Return scores and rows of the `count` tiles nearest to a query, best first.

        Args:
            query_d: (D,) float32, L2-normalised.
            count: Number of tiles to return; at most the number of candidates.
            among: (N,) bool, the candidates; None: all tiles.
        """
        params = None
        if among is not None:
            bits = np.packbits(among, bitorder="little")
            params = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))  # type: ignore[call-arg,arg-type]
        scores, rows = self.vectors.search(query_d[np.newaxis], count, params=params)
        # faiss does not define the order of equal scores. Rows are ordered by tile_id.
        order = np.lexsort((rows[0], -scores[0]))
        return scores[0][order], rows[0][order]

    def entries(self, rows: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return the entries of the tiles at `rows`, in this order."""
        table = ds.dataset(self.folder / "entries.parquet").take(rows)
        entries: list[dict[str, Any]] = table.to_pylist()
        return entries


def build_index(dataset: Path, checkpoint: str | Path, out: Path) -> IndexSummary:
    """Embed every kept tile of `dataset`, and write the index `out`; an existing index is replaced.

    The index includes the newest text version, which results show; the ranking does not use it. Memory holds
    one batch of tiles, the catalog and the (N, D) float32 vectors.

    Args:
        dataset: The data set's folder.
        checkpoint: A run, a checkpoint file, or "untrained:RUN", as `models.load` takes it.
        out: The folder of the index: new, empty, or an existing index.

    Raises:
        DatasetError: The data set is missing or incomplete.
        CheckpointError: The checkpoint is missing or does not load.
        SearchError: `out` holds other files, no tile is kept, or the embeddings are not finite.
    """
    _check_replaceable(out)
    table, texts = _entries(dataset)
    model = models.load(checkpoint)
    # An absolute path, so that queries find the checkpoint from any folder.
    reference = models.ModelRef.parse(checkpoint).resolved()
    digest = reference.digest()
    cache = models.open_tile_cache(dataset, model.preprocess.size)
    vectors = faiss.IndexFlatIP(model.embed_image([]).shape[1])
    tile_ids = table["tile_id"].to_pylist()
    batches = range(0, len(tile_ids), _BATCH)
    for start in track(batches, "embedding tiles", total=len(batches)):
        rows = [cache.rows[tile_id] for tile_id in tile_ids[start : start + _BATCH]]
        vectors.add(check_finite(model.embed_image(list(cache.images[rows])), checkpoint))
    manifest: dict[str, Any] = {
        "kind": KIND,
        "version": VERSION,
        "count": len(tile_ids),
        "dim": vectors.d,
        "dataset": str(dataset.resolve()),
        "dataset_sha256": sha256(dataset / "dataset.json"),
        "texts": texts,
        "checkpoint": reference.text,
        "checkpoint_sha256": digest,
    }
    with _atomic_folder(out) as folder:
        with replaced(folder / "vectors.faiss") as path, path.open("wb") as file:
            # Writing through a Python file reports a full disk as OSError.
            faiss.write_index(vectors, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
        with replaced(folder / "entries.parquet") as path:
            pq.write_table(table, path, compression="zstd", row_group_size=_ROW_GROUP)
        write_json(folder / "index.json", manifest)
    return IndexSummary(
        index=str(out),
        dataset=manifest["dataset"],
        checkpoint=manifest["checkpoint"],
        tiles=len(tile_ids),
        dim=vectors.d,
        texts=texts,
    )


def open_index(folder: Path) -> SearchIndex:
    """Open an index for searching.

    Raises:
        SearchError: There is no index, its version is unsupported, or its files cannot be read.
    """
    fix = f"make it with fusar-klip index DATASET --checkpoint RUN --out {folder}"
    manifest = _read_manifest(folder)
    if manifest is None:
        raise SearchError(f"{folder} is not an index: {fix}")
    if manifest["version"] != VERSION:
        raise SearchError(
            f"{folder} is an index of version {manifest['version']}, not {VERSION}: {fix} again"
        )
    try:
        vectors = faiss.read_index(str(folder / "vectors.faiss"), faiss.IO_FLAG_MMAP_IFC)
        edges = pq.read_table(folder / "entries.parquet", columns=["west", "south", "east", "north"])
    except (OSError, RuntimeError, pa.ArrowInvalid) as error:
        raise SearchError(f"the index {folder} cannot be read ({_first_line(error)}): {fix} again") from error
    if not vectors.ntotal == edges.num_rows == manifest["count"]:
        raise SearchError(f"the files of the index {folder} do not belong together: {fix} again")
    return SearchIndex(
        folder=folder,
        dataset=Path(manifest["dataset"]),
        checkpoint=manifest["checkpoint"],
        checkpoint_digest=manifest["checkpoint_sha256"],
        dataset_digest=manifest["dataset_sha256"],
        count=manifest["count"],
        vectors=vectors,
        bounds=np.column_stack([edges[name].to_numpy() for name in edges.column_names]),
    )


def check_finite(embeddings: Embeddings, checkpoint: str | Path) -> Embeddings:
    """Return `embeddings` if they are finite; raise a `SearchError` otherwise, as after diverged training."""
    if not np.isfinite(embeddings).all():
        raise SearchError(f"{checkpoint} gives embeddings that are not finite: pretrain the model again")
    return embeddings


def _entries(dataset: Path) -> tuple[pa.Table, str | None]:
    """Return the kept tiles as `ENTRY_SCHEMA`, ordered by tile_id, and their text version."""
    columns = ("tile_id", "path", "scene_id", "scale", "gsd_m", "acquired", "lon", "lat", "kept", "geometry")
    tiles = catalog.read_tiles(dataset, columns)
    tiles = tiles[tiles["kept"]].reset_index(drop=True)
    if tiles.empty:
        raise SearchError(f"{dataset} keeps no tile to index: build it from more scenes")
    versions = catalog.text_versions(dataset)
    segments = catalog.segments_by_tile(catalog.read_texts(dataset, versions[-1])) if versions else {}
    bounds = footprint_bounds(tiles["geometry"].to_list())
    texts = {tile_id: "\n".join(lines) for tile_id, lines in segments.items()}
    entries = tiles.assign(
        west=bounds[:, 0],
        south=bounds[:, 1],
        east=bounds[:, 2],
        north=bounds[:, 3],
        text=tiles["tile_id"].map(texts),
    )
    table = pa.Table.from_pandas(entries[ENTRY_SCHEMA.names], schema=ENTRY_SCHEMA, preserve_index=False)
    return table, versions[-1] if versions else None


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return `index.json`, or None if `folder` is not an index."""
    try:
        manifest = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_index = isinstance(manifest, dict) and manifest.get("kind") == KIND
    return manifest if is_index else None


def _check_replaceable(out: Path) -> None:
    """Refuse to replace anything but an index without other files."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if _read_manifest(out) is None or {path.name for path in out.iterdir()} != set(FILES):
        raise SearchError(f"{out} holds other files than an index: give --out a new folder")


@contextmanager
def _atomic_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on success it takes `out`'s place, on failure it is removed."""
    out = out.resolve()
    partial, previous = (out.with_name(f".{out.name}.{os.getpid()}.{end}") for end in ("partial", "previous"))
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            out.rename(previous)
        partial.rename(out)
    finally:
        if previous.exists() and not out.exists():
            previous.rename(out)
        for leftover in (partial, previous):
            shutil.rmtree(leftover, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
