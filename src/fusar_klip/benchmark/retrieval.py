"""Zero-shot retrieval between a data set's tiles and their texts, both ways (paper 4.4, table 6).

Every tile has one text. ITC ranks by the towers' cosine similarity; ITM then ranks a shortlist again
(decisions.md, "Retrieval re-ranking"). Recall is strict (only a tile's own text counts), and beside it
duplicate-aware: a text that is the same word for word counts as well.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.datasets.samples import DatasetNotFoundError
from fusar_klip.benchmark.metrics import Score, recall_chance, recall_hits, recall_scores
from fusar_klip.benchmark.pictures import thumbnail
from fusar_klip.benchmark.rows import Hit, Query, RowOutcome
from fusar_klip.benchmark.settings import RetrievalRow
from fusar_klip.benchmark.subject import Subject
from fusar_klip.benchmark.zoo.encoder import ZooEncoder
from fusar_klip.catalog import read_texts, read_tiles, segments_by_tile
from fusar_klip.errors import DatasetError
from fusar_klip.files import sha256
from fusar_klip.models import Klip, TileCache, open_tile_cache
from fusar_klip.progress import track

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK = 256
_QUERIES_SHOWN = 4
_HITS_SHOWN = 5

DIRECTIONS = ("image_to_text", "text_to_image")
RERANKED = "_reranked"
DUPLICATES = "_duplicates"


@dataclass(frozen=True)
class RetrievalData:
    """N tiles of one split and their texts, in the catalog's order."""

    dataset: Path
    tile_ids: tuple[str, ...]
    files: tuple[Path, ...]
    segments: tuple[tuple[str, ...], ...]
    grounds: NDArray[np.int64]
    """(N,) number of the group of overlapping ground that each tile lies in."""
    digest: str

    @property
    def facts(self) -> str:
        """What was searched, in one line."""
        return f"{len(self.tile_ids)} tiles with their texts, from {self.grounds.max() + 1} separate grounds"

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers has to know."""
        repeated = len(self.segments) - len(set(self.segments))
        if not repeated:
            return []
        return [
            f"{repeated} of {len(self.segments)} texts repeat another text word for word, so strict recall "
            "cannot be full; see the duplicate-aware one."
        ]


def read_retrieval(row: RetrievalRow, path: Path) -> RetrievalData:
    """Read the tiles of the row's split and scales that are kept and have a text.

    Raises:
        DatasetNotFoundError: There is no data set.
        DatasetError: It is unfinished, has no such texts, or the split is empty.
    """
    if not path.is_dir():
        raise DatasetNotFoundError(
            f"{row.dataset} was looked for at {path}, and there is no data set: make one with fusar-klip "
            "build and describe, or mend the row's path"
        )
    tiles = read_tiles(path, ["tile_id", "path", "ground_id", "scale", "split", "kept"])
    segments = segments_by_tile(read_texts(path, row.texts))
    wanted = tiles["kept"] & (tiles["split"] == row.split) & tiles["scale"].isin(row.scales)
    chosen = tiles[wanted & tiles["tile_id"].isin(list(segments))]
    if len(chosen) < 2:
        raise DatasetError(
            f"the split {row.split} of {path} has {len(chosen)} kept tiles with a text, and retrieval needs "
            "at least 2: add scenes, or name another split in the suite"
        )
    sources = ("dataset.json", "tiles.parquet", f"texts/{row.texts}.parquet")
    digest = hashlib.sha256(json.dumps([sha256(path / source) for source in sources]).encode()).hexdigest()
    return RetrievalData(
        dataset=path,
        tile_ids=tuple(chosen["tile_id"]),
        files=tuple(path / name for name in chosen["path"]),
        segments=tuple(tuple(segments[tile_id]) for tile_id in chosen["tile_id"]),
        grounds=np.unique(chosen["ground_id"].to_numpy(dtype=str), return_inverse=True)[1].astype(np.int64),
        digest=digest,
    )


def evaluate_retrieval(row: RetrievalRow, data: RetrievalData, subject: Subject) -> RowOutcome:
    """Run one retrieval row for one model."""
    model = subject.model
    cache = open_tile_cache(data.dataset, model.preprocess.size)
    # Each distinct text is embedded once, so that equal texts tie exactly.
    distinct = sorted(set(data.segments))
    number = {text: index for index, text in enumerate(distinct)}
    text_of = np.array([number[text] for text in data.segments])
    images = np.concatenate([model.embed_image(block) for block in _tile_blocks(data, cache)])
    texts = np.concatenate(
        [model.embed_text(distinct[start : start + _BLOCK]) for start in range(0, len(distinct), _BLOCK)]
    )[text_of]
    similarity = images.astype(np.float64) @ texts.T.astype(np.float64)
    # Rows of a matrix product may differ in the last bit between equal columns.
    similarity = similarity[:, np.unique(text_of, return_index=True)[1]][:, text_of]
    scores = _both_recalls(similarity, similarity.T, text_of, data, row, "")
    notes = []
    if row.shortlist:
        if isinstance(model, ZooEncoder) and not model.can_match:
            reranked = similarity, similarity.T
            notes = ["has no head for matching, so its second pass keeps ITC's order"]
        else:
            reranked = _rerank(model, data, cache, similarity, text_of, row.shortlist)
        scores += _both_recalls(*reranked, text_of, data, row, RERANKED)
    return RowOutcome(scores=scores, notes=notes, queries=_queries(data, similarity.T, row.seed))


def _both_recalls(
    image_to_text: Floats,
    text_to_image: Floats,
    text_of: Ints,
    data: RetrievalData,
    row: RetrievalRow,
    scoring: str,
) -> list[Score]:
    """Score both directions, strictly and duplicate-aware; each (N, N) has its queries in the rows."""
    strict = np.eye(len(text_of), dtype=np.bool_)
    scores: list[Score] = []
    for counting, relevant in (("", strict), (DUPLICATES, text_of[:, None] == text_of[None, :])):
        names, hits, chance = [], [], []
        for direction, similarity in zip(DIRECTIONS, (image_to_text, text_to_image), strict=True):
            for k in row.recall_at:
                names.append(f"{direction}_r{k}{scoring}{counting}")
                hits.append(recall_hits(similarity, relevant, k))
                chance.append(recall_chance(relevant, k))
        scores += recall_scores(
            np.stack(hits, axis=1),
            np.stack(chance, axis=1),
            names,
            f"mean_recall{scoring}{counting}",
            data.grounds,
            row.seed,
        )
    return scores


def _rerank(
    model: Klip | ZooEncoder,
    data: RetrievalData,
    cache: TileCache,
    similarity: Floats,
    text_of: Ints,
    shortlist: int,
) -> tuple[Floats, Floats]:
    """Return both directions' (N, N) scores: the shortlist in ITM's order, in front of ITC's order."""
    directions = (similarity, similarity.T)
    listed = [_shortlisted(itc, shortlist) for itc in directions]
    wanted = listed[0] | listed[1].T
    first = np.unique(text_of, return_index=True)[1]
    probability = np.zeros_like(similarity)
    for image in track(range(len(similarity)), "Matching images and texts"):
        # Equal texts are matched once, so that they tie exactly.
        texts = np.unique(text_of[wanted[image]])
        tile = cache.images[cache.rows[data.tile_ids[image]]]
        matched = np.zeros(len(first))
        matched[texts] = model.match(tile, [data.segments[first[text]] for text in texts])
        probability[image] = matched[text_of]
    # A cosine is at most 1 and a probability at least 0, so the shortlist stays in front.
    itm = (probability, probability.T)
    reranked = [
        np.where(kept, 2.0 + match, itc) for kept, match, itc in zip(listed, itm, directions, strict=True)
    ]
    return reranked[0], reranked[1]


def _shortlisted(similarity: Floats, shortlist: int) -> NDArray[np.bool_]:
    """Return (N, G) whether an item is among its query's most similar ones, ties with the last included."""
    if shortlist >= similarity.shape[1]:
        return np.ones_like(similarity, dtype=np.bool_)
    last = -np.partition(-similarity, shortlist - 1, axis=1)[:, shortlist - 1 : shortlist]
    return np.asarray(similarity >= last)


def _tile_blocks(data: RetrievalData, cache: TileCache) -> Iterator[Sequence[NDArray[np.uint8]]]:
    for start in range(0, len(data.tile_ids), _BLOCK):
        yield [cache.images[cache.rows[tile_id]] for tile_id in data.tile_ids[start : start + _BLOCK]]


def _queries(data: RetrievalData, text_to_image: Floats, seed: int) -> list[Query]:
    """Return texts, drawn at random, with their first tiles by ITC."""
    drawn = np.random.default_rng(seed).permutation(len(text_to_image))[:_QUERIES_SHOWN]
    queries = []
    for query in sorted(drawn.tolist()):
        order = np.argsort(-text_to_image[query], kind="stable")
        hits = [
            Hit(thumbnail(data.files[item]), round(float(text_to_image[query, item]), 4), bool(item == query))
            for item in order[:_HITS_SHOWN]
        ]
        rank = int(np.flatnonzero(order == query)[0]) + 1
        queries.append(Query(" ".join(data.segments[query]), rank, hits))
    return queries
