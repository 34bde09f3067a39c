"""The part of a data set that a run reads: cached tiles, texts as token ids, and the split.

It is read once at the start; `image_text_batches.py` makes batches from it.
"""

import hashlib
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusar_klip.catalog import read_texts, read_tiles, segments_by_tile
from fusar_klip.errors import DatasetError
from fusar_klip.files import sha256
from fusar_klip.models import Preprocess, Tokenizer, open_tile_cache
from fusar_klip.models.tile_cache import TileImages
from fusar_klip.models.tokenizer import Segments

# Enough tiles for mean and standard deviation to three digits; bounded for a data set of a million.
_STATISTICS_TILES = 2000
# Share of the draws in which a tile's ground spacing is hidden.
_SPACING_HIDDEN = 0.1


class SegmentTable:
    """The segments of all texts as token ids, in three flat arrays.

    A million texts of 160 tokens take 0.65 GB; as Python lists they would take ten times as much.
    """

    def __init__(self, texts: Iterable[Segments]) -> None:
        ids, segment_ends, text_ends = array("i"), array("q"), array("q")
        for text in texts:
            for segment in text:
                ids.extend(segment)
                segment_ends.append(len(ids))
            text_ends.append(len(segment_ends))
        self._ids = np.array(ids, np.int32)
        self._segment_ends, self._text_ends = np.array(segment_ends, np.int64), np.array(text_ends, np.int64)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._text_ends)

    def tokens(self) -> npt.NDArray[np.int64]:
        """Return (N,) the number of tokens of each text."""
        ends = np.concatenate([[0], self._segment_ends])[np.concatenate([[0], self._text_ends])]
        tokens: npt.NDArray[np.int64] = np.diff(ends)
        return tokens

    def __getitem__(self, index: int) -> Segments:
        """Return the segments of one text."""
        first, end = (self._text_ends[index - 1] if index else 0), self._text_ends[index]
        starts = [self._segment_ends[i - 1] if i else 0 for i in range(first, end)]
        ends = self._segment_ends[first:end]
        return [self._ids[a:b].tolist() for a, b in zip(starts, ends, strict=True)]


@dataclass(frozen=True)
class ImageTextTiles:
    """Tiles of one split that have a text.

    Attributes:
        images: (M, S, S) uint8, the cache of *all* tiles.
        rows: (N,) int64, each tile's row in `images`; also its identity among positives.
        gsd_m: (N,) float32, ground spacing of a pixel of `images` in metres; nan where it is not known.
        segments: The N texts.
        tile_ids: (N,) the tiles' names.
        noise: The indices of the segments that SCIO marks as noise, by index of the text.
    """

    images: TileImages
    rows: npt.NDArray[np.int64]
    gsd_m: npt.NDArray[np.float32]
    segments: SegmentTable
    tile_ids: npt.NDArray[np.object_]
    noise: Mapping[int, frozenset[int]]

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


def image_text_tiles(
    dataset: Path, split: str, segments: Mapping[str, Sequence[str]], image_size: int
) -> pd.DataFrame:
    """Return the catalog's rows of the tiles that `read_split` takes."""
    tiles = kept_tiles(dataset, split, image_size)
    return tiles[tiles["tile_id"].isin(list(segments))]


def kept_tiles(dataset: Path, split: str, image_size: int) -> pd.DataFrame:
    """Return the catalog's rows of the kept tiles of `split` that can be read, with a text or without."""
    tiles = read_tiles(dataset, ["tile_id", "split", "kept", "gsd_m", "width", "height"])
    known = tiles["tile_id"].isin(list(open_tile_cache(dataset, image_size, tell=False).rows))
    return tiles[(tiles["split"] == split) & tiles["kept"] & known]


def read_split(
    dataset: Path,
    split: str,
    segments: Mapping[str, Sequence[str]],
    tokenizer: Tokenizer,
    *,
    image_size: int,
    max_tokens: int,
) -> ImageTextTiles:
    """Return the kept tiles of `split` that have a text and can be read, in the catalog's order."""
    tiles = image_text_tiles(dataset, split, segments, image_size)
    cache = open_tile_cache(dataset, image_size, tell=False)
    return ImageTextTiles(
        cache.images,
        np.array([cache.rows[tile_id] for tile_id in tiles["tile_id"]], np.int64),
        input_gsd_m(tiles, image_size),
        SegmentTable(tokenizer.segments(segments[tile_id], max_tokens) for tile_id in tiles["tile_id"]),
        tiles["tile_id"].to_numpy(object),
        noise={},
    )


def with_text_version(
    tiles: ImageTextTiles,
    dataset: Path,
    judged_version: str,
    shown_version: str,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
) -> ImageTextTiles:
    """Return `tiles` with the texts of another version, made by SCIO; tiles and order do not change.

    Args:
        tiles: The tiles so far.
        dataset: Their data set.
        judged_version: The version that marks noise.
        shown_version: The version whose texts in use are shown. If it is not `judged_version`, segments that
            are noise in `judged_version` are shown and marked; if it is the same, they are left out.
        tokenizer: The run's tokenizer.
        max_tokens: Longest text.

    Raises:
        DatasetError: A version cannot be read.
    """
    shown, judged = read_texts(dataset, shown_version), read_texts(dataset, judged_version, in_use=False)
    # A text that is all noise is shown unchanged, because its tile needs a text; MLM masks none of it.
    all_noise = judged[~judged["tile_id"].isin(shown["tile_id"])]
    shown = pd.concat([shown, all_noise], ignore_index=True)
    segments = segments_by_tile(shown)
    noisy = judged.loc[judged["verdict"] == "noise", ["tile_id", "field"]]
    is_noise = pd.MultiIndex.from_frame(shown[["tile_id", "field"]]).isin(pd.MultiIndex.from_frame(noisy))
    indices = shown.groupby("tile_id", sort=False).cumcount().to_numpy()
    noise: dict[str, set[int]] = {}
    for tile_id, index in zip(shown["tile_id"].to_numpy()[is_noise], indices[is_noise], strict=True):
        noise.setdefault(tile_id, set()).add(int(index))
    table = SegmentTable(tokenizer.segments(segments[t], max_tokens) for t in tiles.tile_ids)
    by_index = {index: frozenset(noise[t]) for index, t in enumerate(tiles.tile_ids) if t in noise}
    return replace(tiles, segments=table, noise=by_index)


def input_gsd_m(tiles: pd.DataFrame, image_size: int) -> npt.NDArray[np.float32]:
    """Return the ground spacing of the resized pixels in metres: the spacing that the image tower sees."""
    sides = np.sqrt(tiles["width"].to_numpy(np.float64) * tiles["height"].to_numpy(np.float64))
    gsd_m: npt.NDArray[np.float32] = (tiles["gsd_m"].to_numpy(np.float64) * sides / image_size).astype(
        np.float32
    )
    return gsd_m


def gsd_m_or_hidden(gsd_m: float, rng: np.random.Generator) -> float:
    """Return a tile's spacing, or nan one time in ten.

    Search, caption tables and benchmarks mostly give no spacing: a tower that uses it must know that case.
    """
    return math.nan if rng.random() < _SPACING_HIDDEN else gsd_m


def training_texts(dataset: Path, segments: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the segments of the training tiles, for the vocabulary: validation must not leak into it."""
    tiles = read_tiles(dataset, ["tile_id", "split"])
    train = tiles.loc[tiles["split"] == "train", "tile_id"]
    return [segment for tile_id in train for segment in segments.get(tile_id, ())]


def measure_preprocess(dataset: Path, image_size: int) -> Preprocess:
    """Return the preprocessing with mean and standard deviation of the training tiles' valid pixels.

    Raises:
        DatasetError: There is no training tile with a valid pixel.
    """
    tiles = read_tiles(dataset, ["tile_id", "split", "kept"])
    cache = open_tile_cache(dataset, image_size, tell=False)
    train = tiles.loc[(tiles["split"] == "train") & tiles["kept"], "tile_id"]
    rows = [cache.rows[tile_id] for tile_id in train if tile_id in cache.rows]
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
    # Rounded for readability; an image of one value would have a standard deviation of 0.
    return Preprocess(image_size, round(mean, 4), max(round(std, 4), 0.01))


def input_checksums(dataset: Path, version: str | None, image_size: int) -> dict[str, str]:
    """Return the checksums of the files that a run depends on; a resumed run must find the same.

    It is called first, so the tiles that cannot be read are logged here.

    Args:
        dataset: The data set.
        version: The text version; None of a run without texts.
        image_size: Side of the model's input.
    """
    unreadable = open_tile_cache(dataset, image_size).unreadable
    files = ["tiles.parquet", *([f"texts/{version}.parquet"] if version is not None else [])]
    return {
        **{name: sha256(dataset / name) for name in files},
        "tiles that cannot be read": hashlib.sha256("\n".join(sorted(unreadable)).encode()).hexdigest(),
    }
