"""Answer a query from an index: the tiles nearest to some words or to an image, best first.

The filter comes before the search, so that a small box still fills its `top` results. Nothing is re-ranked
by the matching head: the score is the cosine of the two embeddings.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusar_klip import models
from fusar_klip.errors import CheckpointError, SearchError
from fusar_klip.files import sha256
from fusar_klip.search.geography import BBox, check_bbox, touching
from fusar_klip.search.index import Embeddings, OpenIndex, check_finite, open_index

_LOG = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff")
"""A query that ends in one of these names an image file; anything else is words."""


@dataclass(frozen=True)
class Hit:
    """One tile of the answer."""

    rank: int
    """1 is the best."""
    tile_id: str
    path: str
    """The tile's file, absolute."""
    score: float
    """Cosine similarity of query and tile, in [-1, 1]; comparable within one checkpoint only."""
    lon: float | None
    lat: float | None
    scale: str
    text: str | None
    """The tile's segments, "Field: text", one a line; None where the data set has no texts."""


@dataclass(frozen=True)
class SearchResults:
    """The answer to a query."""

    query: str
    bbox: list[float] | None
    searched: int
    """How many tiles were ranked: those in `bbox`, or all."""
    indexed: int
    hits: list[Hit]


def search(index: Path, query: str, *, bbox: BBox | None = None, top: int = 10) -> SearchResults:
    """Return the tiles nearest to `query`, best first; equal scores stand in the order of their tile_id.

    Args:
        index: A folder made by `build_index`.
        query: Words, or the path of an image file (told by its suffix).
        bbox: (west, south, east, north) in degrees, west > east across the antimeridian; only tiles whose
            footprint's box touches it are ranked.
        top: How many results to return at most.

    Raises:
        SearchError: The index, the query, the box or `top` is wrong, no tile lies in the box, or the index's
            checkpoint is gone or has changed.
        DatasetError: The query's image cannot be read.
        CheckpointError: The checkpoint does not load.
    """
    if top < 1:
        raise SearchError(f"--top must be at least 1, not {top}")
    opened = open_index(index)
    wanted = np.ones(opened.count, dtype=bool) if bbox is None else touching(opened.bounds, check_bbox(bbox))
    searched = int(wanted.sum())
    if searched == 0:
        raise SearchError(
            f"none of the {opened.count} indexed tiles lies in the bounding box: give a wider one"
        )
    _warn_of_changes(opened)
    scores, rows = opened.nearest(embed_query(opened, query), min(top, searched), wanted)
    hits = [
        Hit(
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


def embed_query(opened: OpenIndex, query: str) -> Embeddings:
    """Return (D,) float32, L2-normalised: the words of `query`, or the image that it names.

    Raises:
        SearchError: The query is empty, names an image that is not there, or the index's checkpoint is gone
            or has changed.
        DatasetError: The image cannot be read.
    """
    words = query.strip()
    if not words:
        raise SearchError('the query is empty: say what to look for, such as "ships at a quay"')
    image = Path(words) if words.lower().endswith(IMAGE_SUFFIXES) else None
    if image is not None and not image.is_file():
        raise SearchError(f"no such image file: {image}")
    model = models.load(_unchanged_checkpoint(opened))
    embeddings = model.embed_text([words]) if image is None else model.embed_image([image])
    embedding: Embeddings = check_finite(embeddings, opened.checkpoint)[0]
    return embedding


def _unchanged_checkpoint(opened: OpenIndex) -> str:
    again = f"index {opened.dataset} again with fusar-klip index"
    try:
        digest = models.ModelRef.parse(opened.checkpoint).digest()
    except (CheckpointError, OSError):
        raise SearchError(
            f"the checkpoint {opened.checkpoint} of this index is gone: put it back, or {again}"
        ) from None
    if digest != opened.checkpoint_digest:
        raise SearchError(f"the checkpoint {opened.checkpoint} has changed since it made this index: {again}")
    return opened.checkpoint


def _warn_of_changes(opened: OpenIndex) -> None:
    """Say that the data set has moved or changed: the index still answers, as of when it was made."""
    manifest = opened.dataset / "dataset.json"
    if not manifest.is_file():
        _LOG.warning("the data set %s of this index is gone: its paths lead nowhere", opened.dataset)
    elif sha256(manifest) != opened.dataset_digest:
        _LOG.warning("the data set %s has changed since it was indexed: index it again", opened.dataset)
