"""Hugging Face: Parquet shards that contain the pixels, and the data set card that `datasets` reads."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image

from fusar_klip.catalog import TILE_SCHEMA
from fusar_klip.export.tile_reader import ExportedTile, TileReader, encode_png
from fusar_klip.progress import track

_SHARD_BYTES = 512 << 20
# Readers and the Hub's viewer load a whole row group at a time.
_GROUP_BYTES = 32 << 20
_GROUP_ROWS = 256

_ADDED_COLUMNS = [
    ("footprint", pa.string()),  # WKT, degrees
    ("task", pa.string()),
    ("text", pa.string()),
    ("segments", pa.list_(pa.string())),
]
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_huggingface(
    reader: TileReader, folder: Path, *, shard_bytes: int = _SHARD_BYTES, group_bytes: int = _GROUP_BYTES
) -> None:
    """Write `data/SPLIT-00000-of-0000N.parquet`, `README.md` and the map into `folder`."""
    columns = Features.from_arrow_schema(pa.schema([*TILE_SCHEMA, *_ADDED_COLUMNS]))
    schema = Features({"image": Image(), **columns}).arrow_schema
    splits = {split: reader.count(split=split) for split in reader.distinct("split")}
    (folder / "data").mkdir(parents=True)
    for split, tiles in splits.items():
        encoded = track(reader.with_files(reader.tiles(split=split), encode_png), f"Exporting {split}", tiles)
        _write_shards(_groups(encoded, schema, group_bytes), schema, folder / "data", split, shard_bytes)
    (folder / "README.md").write_text(
        _front_matter(splits, has_texts=reader.text_version is not None) + _body(reader.dataset),
        encoding="utf-8",
    )
    if (reader.dataset / "dataset.png").exists():
        shutil.copyfile(reader.dataset / "dataset.png", folder / "dataset.png")


def _groups(
    encoded: Iterable[tuple[ExportedTile, bytes]], schema: pa.Schema, group_bytes: int
) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    size = 0
    for tile, pixels in encoded:
        if rows and (size + len(pixels) > group_bytes or len(rows) == _GROUP_ROWS):
            yield pa.Table.from_pylist(rows, schema)
            rows, size = [], 0
        rows.append(_row(tile, pixels))
        size += len(pixels)
    if rows:
        yield pa.Table.from_pylist(rows, schema)


def _row(tile: ExportedTile, pixels: bytes) -> dict[str, Any]:
    return {
        **tile.row,
        "image": {"bytes": pixels, "path": f"{tile.tile_id}.png"},
        "footprint": None if tile.footprint is None else tile.footprint.wkt,
        "task": tile.task,
        "text": tile.text,
        "segments": tile.segments,
    }


def _write_shards(
    groups: Iterable[pa.Table], schema: pa.Schema, folder: Path, split: str, shard_bytes: int
) -> None:
    """Write the row groups; begin a new shard before one exceeds `shard_bytes`. Names hold their count."""
    shards: list[Path] = []
    writer, size = None, 0
    try:
        for group in groups:
            if writer is None or size + group.nbytes > shard_bytes:
                if writer:
                    writer.close()
                shards.append(folder / f"{split}-{len(shards):05d}.parquet")
                # PNG does not compress further, and the other columns are small: zstd costs little time here.
                writer, size = pq.ParquetWriter(shards[-1], schema, compression="zstd"), 0
            writer.write_table(group)
            size += group.nbytes
    finally:
        if writer:
            writer.close()
    for number, shard in enumerate(shards):
        shard.rename(folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")


def _front_matter(splits: Mapping[str, int], *, has_texts: bool) -> str:
    """YAML for `datasets` and the Hub. The licence is unknown, because those of the scenes are."""
    size = next((name for most, name in _SIZES if sum(splits.values()) < most), "1M<n<10M")
    files = [line for s in splits for line in (f"  - split: {s}", f"    path: data/{s}-*.parquet")]
    tasks = ["task_categories:", "- image-to-text"] if has_texts else []
    lines = [
        *("---", "license: unknown", *tasks, "tags:", "- remote-sensing", "- sar"),
        *("- synthetic-aperture-radar", "size_categories:", f'- "{size}"'),
        *("configs:", "- config_name: default", "  data_files:", *files, "---", ""),
    ]
    return "\n".join(lines)


def _body(dataset: Path) -> str:
    card = dataset / "dataset.md"
    return "\n" + (card.read_text(encoding="utf-8") if card.exists() else "# SAR tiles\n")
