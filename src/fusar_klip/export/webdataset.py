"""WebDataset: tar shards by split, with up to three members per tile.

`KEY.png` (8 bits, single-channel, 0 = no data), `KEY.json` (the catalog's row) and `KEY.txt` (the text in
use, one segment per line; absent if the tile has no text). `webdataset` takes the part of a name before its
first dot as the key, so every dot of a tile_id becomes "_" in KEY; the row holds the exact tile_id.
"""

import io
import json
import tarfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fusar_klip.export.tile_reader import ExportedTile, TileReader, encode_png, iso_time
from fusar_klip.progress import track

_SHARD_BYTES = 256 << 20


class ShardWriter:
    """Writes `SPLIT-000000.tar`, `SPLIT-000001.tar`, ..., each closed before it exceeds `shard_bytes`."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder, self._split, self._shard_bytes = folder, split, shard_bytes
        self._shards = 0
        self._open: tarfile.TarFile | None = None

    def write(self, members: Sequence[tuple[str, bytes]]) -> None:
        """Add the members of one tile to one shard."""
        if self._open is None or self._open.offset + _tar_bytes(members) > self._shard_bytes:
            self.close()
            path = self._folder / f"{self._split}-{self._shards:06d}.tar"
            self._open = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 - stays open for many tiles
            self._shards += 1
        for name, content in members:
            member = tarfile.TarInfo(name)  # mode 0644, no owner, time 0: deterministic bytes
            member.size = len(content)
            self._open.addfile(member, io.BytesIO(content))

    def close(self) -> None:
        """Finish the open shard, if any."""
        if self._open is not None:
            self._open.close()
            self._open = None


def write_webdataset(reader: TileReader, folder: Path, *, shard_bytes: int = _SHARD_BYTES) -> None:
    """Write the shards of every split into `folder`."""
    for split in reader.distinct("split"):
        shards = ShardWriter(folder, split, shard_bytes)
        encoded = reader.with_files(reader.tiles(split=split), encode_png)
        try:
            for tile, pixels in track(encoded, f"Exporting {split}", reader.count(split=split)):
                shards.write(_members(tile, pixels))
        finally:
            shards.close()


def _members(tile: ExportedTile, pixels: bytes) -> list[tuple[str, bytes]]:
    key = tile.tile_id.replace(".", "_")
    row = {k: iso_time(v) if isinstance(v, datetime) else v for k, v in tile.row.items()}
    members = [(f"{key}.png", pixels), (f"{key}.json", json.dumps(row, ensure_ascii=False).encode())]
    if tile.text:
        members.append((f"{key}.txt", tile.text.encode()))
    return members


def _tar_bytes(members: Sequence[tuple[str, bytes]]) -> int:
    """Return the size of members in a tar file: a header each (two more for a long name) and whole blocks."""
    block = tarfile.BLOCKSIZE
    return sum(3 * block + -(-len(content) // block) * block for _, content in members)
