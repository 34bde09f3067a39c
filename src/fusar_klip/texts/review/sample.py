"""Which tiles are reviewed: a simple random sample that follows from the seed and the tiles' ids alone."""

import hashlib
import math
from pathlib import Path

import pyarrow.compute as pc

from fusar_klip.catalog import open_texts
from fusar_klip.errors import DatasetError


def sample_tiles(dataset: Path, version: str, fraction: float, seed: int) -> list[str]:
    """Return the sampled tiles' ids in the order in which they are shown; at least one.

    Tiles are ordered by a hash of seed and id, and the first ones taken: a larger fraction holds the smaller
    one, and the order on the page tells nothing of scenes.

    Args:
        dataset: The data set's folder.
        version: The text version.
        fraction: Share of the tiles with texts, 0 < fraction <= 1.
        seed: The same seed draws the same tiles.

    Raises:
        DatasetError: There is no such version, or it holds no text.
    """
    rows = open_texts(dataset, version).to_table(["tile_id"], filter=pc.field("verdict") != "noise")
    tile_ids = rows["tile_id"].unique().to_pylist()
    if not tile_ids:
        raise DatasetError(f"the texts {version} of {dataset} are empty: describe the data set again")
    count = max(1, math.ceil(fraction * len(tile_ids) - 1e-9))
    ordered = sorted(tile_ids, key=lambda tile_id: hashlib.sha256(f"{seed}:{tile_id}".encode()).digest())
    return ordered[:count]
