"""What a run reads of a data set: the cached tiles, the texts as token ids, and the split.

It is read once at the start; batches are drawn from it (`batches`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusar_klip.catalog import read_texts, read_tiles, segments_by_tile
from fusar_klip.errors import DatasetError
from fusar_klip.files import sha256
from fusar_klip.models import Preprocess, Tokenizer, open_tile_cache
from fusar_klip.models.tokenizer import Segments

# Enough tiles for mean and spread to three digits, and bounded on a data set of a million.
_STATISTICS_TILES = 2000


class SegmentTable:
    """The segments of all texts as token ids, in three flat arrays.

    A million texts of 160 tokens take 0.65 GB so; as lists of numbers they would take ten times that.
    """

    def __init__(self, texts: Sequence[Segments]) -> None:
        segments = [segment for text in texts for segment in text]
        self._ids = np.array([token for segment in segments for token in segment], np.int32)
        self._segment_ends = np.cumsum([len(segment) for segment in segments], dtype=np.int64)
        self._text_ends = np.cumsum([len(text) for text in texts], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._text_ends)

    def __getitem__(self, index: int) -> Segments:
        """Return the segments of one text."""
        first, end = (self._text_ends[index - 1] if index else 0), self._text_ends[index]
        starts = [self._segment_ends[i - 1] if i else 0 for i in range(first, end)]
        ends = self._segment_ends[first:end]
        return [self._ids[a:b].tolist() for a, b in zip(starts, ends, strict=True)]


@dataclass(frozen=True)
class TextedTiles:
    """Tiles of one split that have a text.

    Attributes:
        images: (M, S, S) uint8, the cache of *all* tiles.
        rows: (N,) int64, each tile's row in `images`; also its identity among positives.
        segments: The N texts.
    """

    images: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]
    segments: SegmentTable

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.rows)


def read_segments(dataset: Path, version: str) -> dict[str, list[str]]:
    """Return the texts in use: {tile_id: ["Field: text", ...]}.

    Raises:
        DatasetError: There are none.
    """
    segments = segments_by_tile(read_texts(dataset, version))
    if not segments:
        raise DatasetError(f"{dataset} has no text in {version}: run fusar-klip describe {dataset} first")
    return segments


def read_split(
    dataset: Path,
    split: str,
    segments: Mapping[str, Sequence[str]],
    tokenizer: Tokenizer,
    *,
    image_size: int,
    max_tokens: int,
) -> TextedTiles:
    """Return the kept tiles of `split` that have a text, in the catalog's order."""
    tiles = read_tiles(dataset, ["tile_id", "split", "kept"])
    chosen = [t for t in tiles.loc[(tiles["split"] == split) & tiles["kept"], "tile_id"] if t in segments]
    cache = open_tile_cache(dataset, image_size)
    rows = np.array([cache.rows[tile_id] for tile_id in chosen], np.int64)
    table = SegmentTable([tokenizer.segments(segments[tile_id], max_tokens) for tile_id in chosen])
    return TextedTiles(cache.images, rows, table)


def training_texts(dataset: Path, segments: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the segments of the training tiles, for the vocabulary: validation must not leak into it."""
    tiles = read_tiles(dataset, ["tile_id", "split"])
    train = tiles.loc[tiles["split"] == "train", "tile_id"]
    return [segment for tile_id in train for segment in segments.get(tile_id, ())]


def measure_preprocess(dataset: Path, image_size: int) -> Preprocess:
    """Return the preprocessing whose mean and spread are those of the training tiles' valid pixels.

    Raises:
        DatasetError: There is no training tile with a valid pixel.
    """
    tiles = read_tiles(dataset, ["tile_id", "split", "kept"])
    cache = open_tile_cache(dataset, image_size)
    train = tiles.loc[(tiles["split"] == "train") & tiles["kept"], "tile_id"]
    rows = [cache.rows[tile_id] for tile_id in train]
    rows = rows[:: max(1, len(rows) // _STATISTICS_TILES)]
    counts = np.zeros(256, np.int64)
    for row in rows:
        counts += np.bincount(cache.images[row].ravel(), minlength=256)
    counts[0] = 0  # no data
    if not counts.any():
        raise DatasetError(
            f"{dataset} has no kept training tile with a valid pixel: build it from more scenes"
        )
    levels = np.arange(256) / 255
    mean = float(np.average(levels, weights=counts))
    std = float(np.sqrt(np.average((levels - mean) ** 2, weights=counts)))
    # Rounded, so that the file reads well; an image of one grey value would have no spread.
    return Preprocess(image_size, round(mean, 4), max(round(std, 4), 0.01))


def fingerprint(dataset: Path, version: str) -> dict[str, str]:
    """Return the checksums of what a run depends on; a resumed run must find the same."""
    return {
        "tiles.parquet": sha256(dataset / "tiles.parquet"),
        f"texts/{version}.parquet": sha256(dataset / "texts" / f"{version}.parquet"),
    }
