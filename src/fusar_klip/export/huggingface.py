"""Hugging Face: Parquet shards with the pixels inside, and the card by which `datasets` reads them."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image

from fusar_klip.catalog import TILE_SCHEMA
from fusar_klip.export.samples import Sample, Samples, png
from fusar_klip.progress import track

_SHARD_BYTES = 512 << 20
# Readers hold and the Hub's viewer fetches a whole group of rows at a time.
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
    samples: Samples, folder: Path, *, shard_bytes: int = _SHARD_BYTES, group_bytes: int = _GROUP_BYTES
) -> None:
    """Write `data/SPLIT-00000-of-0000N.parquet`, `README.md` and the map into `folder`."""
    columns = Features.from_arrow_schema(pa.schema([*TILE_SCHEMA, *_ADDED_COLUMNS]))
    schema = Features({"image": Image(), **columns}).arrow_schema
    splits = {split: samples.count(split=split) for split in samples.distinct("split")}
    (folder / "data").mkdir(parents=True)
    for split, tiles in splits.items():
        encoded = track(samples.with_files(samples(split=split), png), f"Exporting {split}", tiles)
        _write_shards(_groups(encoded, schema, group_bytes), schema, folder / "data", split, shard_bytes)
    (folder / "README.md").write_text(
        _front_matter(splits, has_texts=samples.texts is not None) + _body(samples.dataset), encoding="utf-8"
    )
    if (samples.dataset / "dataset.png").exists():
        shutil.copyfile(samples.dataset / "dataset.png", folder / "dataset.png")


def _groups(
    encoded: Iterable[tuple[Sample, bytes]], schema: pa.Schema, group_bytes: int
) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    size = 0
    for sample, pixels in encoded:
        if rows and (size + len(pixels) > group_bytes or len(rows) == _GROUP_ROWS):
            yield pa.Table.from_pylist(rows, schema)
            rows, size = [], 0
        rows.append(_row(sample, pixels))
        size += len(pixels)
    if rows:
        yield pa.Table.from_pylist(rows, schema)


def _row(sample: Sample, pixels: bytes) -> dict[str, Any]:
    return {
        **sample.row,
        "image": {"bytes": pixels, "path": f"{sample.tile_id}.png"},
        "footprint": None if sample.footprint is None else sample.footprint.wkt,
        "task": sample.task,
        "text": sample.text,
        "segments": sample.segments,
    }


def _write_shards(
    groups: Iterable[pa.Table], schema: pa.Schema, folder: Path, split: str, shard_bytes: int
) -> None:
    """Write the groups, a new shard before one grows over `shard_bytes`; names tell how many there are."""
    shards: list[Path] = []
    writer, size = None, 0
    try:
        for group in groups:
            if writer is None or size + group.nbytes > shard_bytes:
                if writer:
                    writer.close()
                shards.append(folder / f"{split}-{len(shards):05d}.parquet")
                # PNG does not get smaller, and the rest is small: zstd costs nothing here.
                writer, size = pq.ParquetWriter(shards[-1], schema, compression="zstd"), 0
            writer.write_table(group)
            size += group.nbytes
    finally:
        if writer:
            writer.close()
    for number, shard in enumerate(shards):
        shard.rename(folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")


def _front_matter(splits: Mapping[str, int], *, has_texts: bool) -> str:
    """YAML which `datasets` and the Hub read. The licence follows from the scenes', which are not known."""
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
