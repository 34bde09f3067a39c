"""Zero-shot retrieval between a data set's tiles and their texts, in both directions (paper 4.4, table 6).

Every tile has one text. ITC ranks by the towers' cosine similarity; ITM then re-ranks a shortlist
(decisions.md, "Retrieval re-ranking"). Recall is reported in two ways: strict (only a tile's own text counts)
and duplicate-aware (a text that is the same word for word counts, too).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics.retrieval_metrics import (
    RERANKED,
    ImageTextPairs,
    cosine_similarities,
    rerank,
    retrieval_scores,
)
from fusar_klip.benchmark.report.prediction_figures import retrieval_examples
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.settings import Row
from fusar_klip.benchmark.tasks.task import BenchmarkTask
from fusar_klip.catalog import Scale, read_texts, read_tiles, segments_by_tile
from fusar_klip.datasets.labelled_data import DatasetNotFoundError
from fusar_klip.errors import DatasetError
from fusar_klip.files import sha256
from fusar_klip.models import TileCache, open_tile_cache

_BLOCK = 256


class RetrievalRow(Row):
    """Zero-shot retrieval between the tiles of a data set's split and their texts, in both directions."""

    task: Literal["retrieval"]
    split: Literal["train", "val", "test"] = "test"
    preset: Literal["zero_shot"] = "zero_shot"
    texts: str = Field(default="v000", pattern=r"^v\d{3,}$")
    """The text version."""
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = get_args(Scale)
    """The scales of the tiles that are searched."""
    recall_at: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5, 10)
    """The K of recall at K."""
    shortlist: int = Field(default=256, ge=0)
    """Number of best candidates by ITC that ITM re-ranks (decisions.md); 0 skips the re-ranking."""


@dataclass(frozen=True)
class RetrievalData:
    """N tiles of one split and their texts, in the catalog's order."""

    dataset: Path
    tile_ids: tuple[str, ...]
    files: tuple[Path, ...]
    segments: tuple[tuple[str, ...], ...]
    areas: NDArray[np.int64]
    """(N,) number of each tile's area: overlapping tiles share one."""
    digest: str

    @property
    def size_summary(self) -> str:
        """Sizes in one line."""
        return f"{len(self.tile_ids)} tiles with their texts, from {self.areas.max() + 1} separate areas"

    @property
    def notes(self) -> list[str]:
        """Remarks for the reader of the scores."""
        repeated = len(self.segments) - len(set(self.segments))
        if not repeated:
            return []
        return [
            f"{repeated} of {len(self.segments)} texts repeat another text word for word, so strict recall "
            "cannot reach 100 %; see the duplicate-aware recall."
        ]


def read_retrieval(row: RetrievalRow, path: Path) -> RetrievalData:
    """Read the kept tiles of the row's split and scales that have a text.

    Raises:
        DatasetNotFoundError: There is no data set.
        DatasetError: It is unfinished, has no such texts, or the split is empty.
    """
    if not path.is_dir():
        raise DatasetNotFoundError(
            f"{row.dataset}: there is no data set at {path}. Make one with fusar-klip build and describe, or "
            "correct the row's path"
        )
    tiles = read_tiles(path, ["tile_id", "path", "ground_id", "scale", "split", "kept"])
    segments = segments_by_tile(read_texts(path, row.texts))
    selected = tiles["kept"] & (tiles["split"] == row.split) & tiles["scale"].isin(row.scales)
    chosen = tiles[selected & tiles["tile_id"].isin(list(segments))]
    if len(chosen) < 2:
        raise DatasetError(
            f"the split {row.split} of {path} has {len(chosen)} kept tiles with a text; retrieval needs at "
            "least 2: add scenes, or name another split in the suite"
        )
    sources = ("dataset.json", "tiles.parquet", f"texts/{row.texts}.parquet")
    digest = hashlib.sha256(json.dumps([sha256(path / source) for source in sources]).encode()).hexdigest()
    return RetrievalData(
        dataset=path,
        tile_ids=tuple(chosen["tile_id"]),
        files=tuple(path / name for name in chosen["path"]),
        segments=tuple(tuple(segments[tile_id]) for tile_id in chosen["tile_id"]),
        areas=np.unique(chosen["ground_id"].to_numpy(dtype=str), return_inverse=True)[1].astype(np.int64),
        digest=digest,
    )


def evaluate_retrieval(row: RetrievalRow, data: RetrievalData, evaluated: EvaluatedModel) -> RowResult:
    """Evaluate a model's zero-shot retrieval."""
    model = evaluated.model
    cache = open_tile_cache(data.dataset, model.preprocess.size)
    # Each distinct text is embedded once, so that equal texts tie exactly.
    distinct = sorted(set(data.segments))
    number = {text: index for index, text in enumerate(distinct)}
    pairs = ImageTextPairs(
        image_of_text=np.arange(len(data.segments)),
        text_ids=np.array([number[text] for text in data.segments]),
        groups=data.areas,
    )
    images = np.concatenate([model.embed_image(block) for block in _tile_blocks(data, cache)])
    texts = np.concatenate(
        [model.embed_text(distinct[start : start + _BLOCK]) for start in range(0, len(distinct), _BLOCK)]
    )
    similarity = cosine_similarities(images, texts, pairs)
    scores = retrieval_scores(similarity, similarity.T, pairs, row.recall_at, "", row.seed)
    notes = []
    if row.shortlist:
        if not model.can_match:
            reranked = similarity, similarity.T
            notes = ["has no matching head, so re-ranking keeps the order by ITC"]
        else:

            def match(image: int, numbers: Sequence[int]) -> NDArray[np.float32]:
                tile = cache.images[cache.rows[data.tile_ids[image]]]
                return model.match(tile, [distinct[number] for number in numbers])

            reranked = rerank(match, similarity, pairs, row.shortlist)
        scores += retrieval_scores(*reranked, pairs, row.recall_at, RERANKED, row.seed)
    texts_in_full = [" ".join(segments) for segments in data.segments]
    queries = retrieval_examples(similarity.T, texts_in_full, data.files, pairs, row.seed)
    return RowResult(scores=scores, notes=notes, queries=queries)


def _tile_blocks(data: RetrievalData, cache: TileCache) -> Iterator[Sequence[NDArray[np.uint8]]]:
    for start in range(0, len(data.tile_ids), _BLOCK):
        yield [cache.images[cache.rows[tile_id]] for tile_id in data.tile_ids[start : start + _BLOCK]]


RETRIEVAL = BenchmarkTask(
    "Image-text retrieval",
    RetrievalRow,
    read_retrieval,
    evaluate_retrieval,
    ("texts", "split", "scales"),
    headline="mean_recall",
    requires="text_features",
    path_from_suite=True,
)
