"""WebDataset: tar shards by split, up to three members a tile.

`KEY.png` (8-bit grey, 0 = no data), `KEY.json` (the catalog's row) and `KEY.txt` (the text in use, a segment
a line; left out where a tile has no text). `webdataset` takes a name up to its first dot for its key, so a
dot of a tile_id is a "_" in KEY; the row has the tile_id itself.
"""

import io
import json
import tarfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fusar_klip.export.samples import Sample, Samples, iso_time, png
from fusar_klip.progress import track

_SHARD_BYTES = 256 << 20


class Shards:
    """Writes `SPLIT-000000.tar` and on, each closed before it grows over `shard_bytes`."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder, self._split, self._shard_bytes = folder, split, shard_bytes
        self._shards = 0
        self._open: tarfile.TarFile | None = None

    def write(self, members: Sequence[tuple[str, bytes]]) -> None:
        """Add the members of one tile, which stay together."""
        if self._open is None or self._open.offset + _tar_bytes(members) > self._shard_bytes:
            self.close()
            path = self._folder / f"{self._split}-{self._shards:06d}.tar"
            self._open = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 - many tiles long
            self._shards += 1
        for name, content in members:
            member = tarfile.TarInfo(name)  # mode 0644, no owner, time 0: the same bytes each time
            member.size = len(content)
            self._open.addfile(member, io.BytesIO(content))

    def close(self) -> None:
        """Finish the shard that is open, if any."""
        if self._open is not None:
            self._open.close()
            self._open = None


def write_webdataset(samples: Samples, folder: Path, *, shard_bytes: int = _SHARD_BYTES) -> None:
    """Write the shards of every split into `folder`."""
    for split in samples.distinct("split"):
        shards = Shards(folder, split, shard_bytes)
        encoded = samples.with_files(samples(split=split), png)
        try:
            for sample, pixels in track(encoded, f"Exporting {split}", samples.count(split=split)):
                shards.write(_members(sample, pixels))
        finally:
            shards.close()


def _members(sample: Sample, pixels: bytes) -> list[tuple[str, bytes]]:
    key = sample.tile_id.replace(".", "_")
    row = {k: iso_time(v) if isinstance(v, datetime) else v for k, v in sample.row.items()}
    members = [(f"{key}.png", pixels), (f"{key}.json", json.dumps(row, ensure_ascii=False).encode())]
    if sample.text:
        members.append((f"{key}.txt", sample.text.encode()))
    return members


def _tar_bytes(members: Sequence[tuple[str, bytes]]) -> int:
    """What members take in a tar file: a head for each (two more for a long name), and whole blocks."""
    block = tarfile.BLOCKSIZE
    return sum(3 * block + -(-len(content) // block) * block for _, content in members)
