"""Answer a query from an index: the tiles nearest to a text or an image, best first.

The box is applied before the search, so a small box still gives `top` results. The score is the cosine
similarity of the two embeddings; the matching head does not re-rank.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusar_klip import models
from fusar_klip.errors import CheckpointError, SearchError
from fusar_klip.files import sha256
from fusar_klip.search.geography import BBox, check_bbox, intersects
from fusar_klip.search.index import Embeddings, SearchIndex, check_finite, open_index

_LOG = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff")
"""A query that ends in one of these is the path of an image; any other query is a text."""


@dataclass(frozen=True)
class SearchHit:
    """One result of a query."""

    rank: int
    """1 is the best."""
    tile_id: str
    path: str
    """Absolute path of the tile."""
    score: float
    """Cosine similarity of query and tile, in [-1, 1]; not comparable between checkpoints."""
    lon: float | None
    lat: float | None
    scale: str
    text: str | None
    """The tile's segments, "Field: text", one per line; None if the tile has no text."""


@dataclass(frozen=True)
class SearchResults:
    """All results of a query, best first."""

    query: str
    bbox: list[float] | None
    searched: int
    """Number of ranked tiles: those in `bbox`, or all."""
    indexed: int
    hits: list[SearchHit]


def search(index: Path, query: str, *, bbox: BBox | None = None, top: int = 10) -> SearchResults:
    """Return the tiles nearest to `query`, best first; equal scores are ordered by tile_id.

    Args:
        index: A folder made by `build_index`.
        query: A text, or the path of an image file (recognised by its suffix, `IMAGE_SUFFIXES`).
        bbox: (west, south, east, north) in degrees, west > east across the antimeridian; only tiles whose
            footprint's bounding box intersects it are ranked.
        top: Maximum number of results.

    Raises:
        SearchError: The index, the query, the box or `top` is invalid, no tile intersects the box, or the
            index's checkpoint is missing or has changed.
        DatasetError: The query's image cannot be read.
        CheckpointError: The checkpoint does not load.
    """
    if top < 1:
        raise SearchError(f"--top must be at least 1, not {top}")
    opened = open_index(index)
    if bbox is None:
        candidates = np.ones(opened.count, dtype=bool)
    else:
        candidates = intersects(opened.bounds, check_bbox(bbox))
    searched = int(candidates.sum())
    if searched == 0:
        raise SearchError(
            f"none of the {opened.count} indexed tiles lies in the bounding box: give a wider one"
        )
    _warn_of_changes(opened)
    scores, rows = opened.nearest(embed_query(opened, query), min(top, searched), candidates)
    hits = [
        SearchHit(
            rank=rank,
            tile_id=entry["tile_id"],
            path=str(opened.dataset / entry["path"]),
            score=float(score),
            lon=entry["lon"],
            lat=entry["lat"],
            scale=entry["scale"],
            text=entry["text"],
        )
        for rank, (score, entry) in enumerate(zip(scores, opened.entries(rows), strict=True), start=1)
    ]
    return SearchResults(
        query=query,
        bbox=None if bbox is None else list(bbox),
        searched=searched,
        indexed=opened.count,
        hits=hits,
    )


def embed_query(opened: SearchIndex, query: str) -> Embeddings:
    """Return the embedding of `query` (text or image path): (D,) float32, L2-normalised.

    Raises:
        SearchError: The query is empty, the image is missing, or the index's checkpoint is missing or has
            changed.
        DatasetError: The image cannot be read.
    """
    text = query.strip()
    if not text:
        raise SearchError('the query is empty: say what to look for, such as "ships at a quay"')
    image = Path(text) if text.lower().endswith(IMAGE_SUFFIXES) else None
    if image is not None and not image.is_file():
        raise SearchError(f"no such image file: {image}")
    model = models.load(_unchanged_checkpoint(opened))
    embeddings = model.embed_text([text]) if image is None else model.embed_image([image])
    embedding: Embeddings = check_finite(embeddings, opened.checkpoint)[0]
    return embedding


def _unchanged_checkpoint(opened: SearchIndex) -> str:
    again = f"index {opened.dataset} again with fusar-klip index"
    try:
        digest = models.ModelRef.parse(opened.checkpoint).digest()
    except (CheckpointError, OSError):
        raise SearchError(
            f"the checkpoint {opened.checkpoint} of this index is missing: restore it, or {again}"
        ) from None
    if digest != opened.checkpoint_digest:
        raise SearchError(f"the checkpoint {opened.checkpoint} has changed since it made this index: {again}")
    return opened.checkpoint


def _warn_of_changes(opened: SearchIndex) -> None:
    """Warn if the data set has moved or changed; the index still answers with the indexed state."""
    manifest = opened.dataset / "dataset.json"
    if not manifest.is_file():
        _LOG.warning(
            "the data set %s of this index is missing: the paths of the results do not exist", opened.dataset
        )
    elif sha256(manifest) != opened.dataset_digest:
        _LOG.warning("the data set %s has changed since it was indexed: index it again", opened.dataset)
