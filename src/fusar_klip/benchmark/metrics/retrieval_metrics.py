"""Retrieval by a matrix of similarities: recalls in both directions, the second pass by ITM, examples.

Knows neither where images and texts come from nor how they are embedded. An image may have several texts.

Letters: N images, M texts, D distinct texts (equal word for word), K length of a list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.metrics.scores import Score, recall_chance, recall_hits, recall_scores
from fusar_klip.benchmark.report.thumbnails import thumbnail
from fusar_klip.benchmark.results import RetrievalExample, RetrievedImage
from fusar_klip.progress import track

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Match = Callable[[int, Sequence[int]], NDArray[np.float32]]
"""From an image and distinct texts, by number, to the probabilities that they belong together."""

DIRECTIONS = ("image_to_text", "text_to_image")
RERANKED = "_reranked"
DUPLICATES = "_duplicates"

_QUERIES_SHOWN = 4
_HITS_SHOWN = 5


@dataclass(frozen=True)
class ImageTextPairs:
    """Which text belongs to which image."""

    owner: Ints
    """(M,) the image of each text; every image has at least one."""
    wording: Ints
    """(M,) number of each text among the distinct ones: equal texts have equal numbers."""
    groups: Ints | None
    """(N,) group of each image, or None."""

    @property
    def images(self) -> int:
        """N."""
        return int(self.owner.max()) + 1

    @property
    def first(self) -> Ints:
        """(D,) where each distinct text stands first."""
        return np.unique(self.wording, return_index=True)[1].astype(np.int64)

    def relevant(self, counting: str) -> NDArray[np.bool_]:
        """Return (N, M) which texts answer an image: its own, or with `DUPLICATES` all equal to one."""
        own = self.owner[None, :] == np.arange(self.images)[:, None]
        if counting != DUPLICATES:
            return np.asarray(own)
        says = np.zeros((self.images, int(self.wording.max()) + 1), dtype=np.bool_)
        says[self.owner, self.wording] = True
        return np.asarray(says[:, self.wording])

    def by_image(self, of_texts: Floats) -> Floats:
        """Return (N,) the mean of each image's texts of (M,) values."""
        return np.bincount(self.owner, weights=of_texts) / np.bincount(self.owner)


def similarities(
    images: NDArray[np.float32], distinct: NDArray[np.float32], pairing: ImageTextPairs
) -> Floats:
    """Return (N, M) cosines of (N, E) images and (D, E) distinct texts; equal texts tie exactly."""
    similarity = images.astype(np.float64) @ distinct.T.astype(np.float64)
    return np.asarray(similarity[:, pairing.wording])


def retrieval_scores(
    image_to_text: Floats,
    text_to_image: Floats,
    pairing: ImageTextPairs,
    recall_at: Sequence[int],
    scoring: str,
    seed: int,
) -> list[Score]:
    """Score both directions, strictly and duplicate-aware.

    Every text is a query. An image's texts are not independent, so their hits are averaged for each image:
    n counts images, and whole images (or groups of them) are resampled.

    Args:
        image_to_text: (N, M), queries in the rows.
        text_to_image: (M, N), queries in the rows.
        pairing: Which text belongs to which image.
        recall_at: The K of recall at K.
        scoring: "" or `RERANKED`: goes into the metrics' names.
        seed: Fixes the bootstrap.
    """
    scores: list[Score] = []
    for counting in ("", DUPLICATES):
        relevant = pairing.relevant(counting)
        names, hits, chance = [], [], []
        for direction in DIRECTIONS:
            of_image = direction == DIRECTIONS[0]
            for k in recall_at:
                names.append(f"{direction}_r{k}{scoring}{counting}")
                if of_image:
                    hits.append(recall_hits(image_to_text, relevant, k))
                    chance.append(recall_chance(relevant, k))
                else:
                    hits.append(pairing.by_image(recall_hits(text_to_image, relevant.T, k)))
                    chance.append(pairing.by_image(recall_chance(relevant.T, k)))
        scores += recall_scores(
            np.stack(hits, axis=1),
            np.stack(chance, axis=1),
            names,
            f"mean_recall{scoring}{counting}",
            pairing.groups,
            seed,
        )
    return scores


def rerank(
    match: Match, similarity: Floats, pairing: ImageTextPairs, shortlist: int
) -> tuple[Floats, Floats]:
    """Return both directions' scores, (N, M) and (M, N): the shortlist in ITM's order, then ITC's order."""
    directions = (similarity, similarity.T)
    listed = [_shortlisted(itc, shortlist) for itc in directions]
    wanted = listed[0] | listed[1].T
    probability = np.zeros_like(similarity)
    for image in track(range(len(similarity)), "Matching images and texts"):
        # Equal texts are matched once, so that they tie exactly.
        texts = np.unique(pairing.wording[wanted[image]])
        matched = np.zeros(int(pairing.wording.max()) + 1)
        matched[texts] = match(image, texts.tolist())
        probability[image] = matched[pairing.wording]
    # A cosine is at most 1 and a probability at least 0, so the shortlist stays in front.
    itm = (probability, probability.T)
    reranked = [
        np.where(kept, 2.0 + match_, itc) for kept, match_, itc in zip(listed, itm, directions, strict=True)
    ]
    return reranked[0], reranked[1]


def example_queries(
    text_to_image: Floats, texts: Sequence[str], files: Sequence[Path], pairing: ImageTextPairs, seed: int
) -> list[RetrievalExample]:
    """Return texts, drawn at random, with their first images by ITC."""
    drawn = np.random.default_rng(seed).permutation(len(text_to_image))[:_QUERIES_SHOWN]
    queries = []
    for query in sorted(drawn.tolist()):
        own = int(pairing.owner[query])
        order = np.argsort(-text_to_image[query], kind="stable")
        hits = [
            RetrievedImage(
                thumbnail(files[item]), round(float(text_to_image[query, item]), 4), bool(item == own)
            )
            for item in order[:_HITS_SHOWN]
        ]
        queries.append(RetrievalExample(texts[query], int(np.flatnonzero(order == own)[0]) + 1, hits))
    return queries


def _shortlisted(similarity: Floats, shortlist: int) -> NDArray[np.bool_]:
    """Return (N, G) whether an item is among its query's most similar ones, ties with the last included."""
    if shortlist >= similarity.shape[1]:
        return np.ones_like(similarity, dtype=np.bool_)
    last = -np.partition(-similarity, shortlist - 1, axis=1)[:, shortlist - 1 : shortlist]
    return np.asarray(similarity >= last)
