"""Recall at K in both directions from a similarity matrix, and re-ranking of a shortlist by ITM.

Knows neither where images and texts come from nor how they are embedded. An image may have several texts.

Letters: N images, M texts, D distinct texts (equal word for word), G gallery items, K length of a ranked
    list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.metrics.bootstrap import Floats, Ints, Score, mean_of_sums, score_of_sums
from fusar_klip.progress import track

MatchFunction = Callable[[int, Sequence[int]], NDArray[np.float32]]
"""Maps an image and distinct texts, by number, to the probabilities that they belong together."""

DIRECTIONS = ("image_to_text", "text_to_image")
RERANKED = "_reranked"
DUPLICATES = "_duplicates"


@dataclass(frozen=True)
class ImageTextPairs:
    """Which text belongs to which image."""

    image_of_text: Ints
    """(M,) the image of each text; every image has at least one."""
    text_ids: Ints
    """(M,) number of each text among the D distinct ones: equal texts have equal numbers."""
    groups: Ints | None
    """(N,) group of each image, or None."""

    @property
    def images(self) -> int:
        """The number of images, N."""
        return int(self.image_of_text.max()) + 1

    def relevant(self, counting: str) -> NDArray[np.bool_]:
        """Return (N, M) which texts are relevant to an image.

        Args:
            counting: "" for an image's own texts, `DUPLICATES` for all texts that equal one of them.
        """
        own = self.image_of_text[None, :] == np.arange(self.images)[:, None]
        if counting != DUPLICATES:
            return np.asarray(own)
        has_text = np.zeros((self.images, int(self.text_ids.max()) + 1), dtype=np.bool_)
        has_text[self.image_of_text, self.text_ids] = True
        return np.asarray(has_text[:, self.text_ids])

    def mean_per_image(self, of_texts: Floats) -> Floats:
        """Return the (N,) means over each image's texts of (M,) values."""
        return np.bincount(self.image_of_text, weights=of_texts) / np.bincount(self.image_of_text)


def cosine_similarities(
    images: NDArray[np.float32], distinct_texts: NDArray[np.float32], pairs: ImageTextPairs
) -> Floats:
    """Return (N, M) cosines of (N, E) images and (D, E) distinct texts; equal texts tie exactly."""
    similarity = images.astype(np.float64) @ distinct_texts.T.astype(np.float64)
    return np.asarray(similarity[:, pairs.text_ids])


def retrieval_scores(
    image_to_text: Floats,
    text_to_image: Floats,
    pairs: ImageTextPairs,
    recall_at: Sequence[int],
    scoring: str,
    seed: int,
) -> list[Score]:
    """Score both directions, strictly and duplicate-aware.

    Every text is a query. The texts of one image are not independent, so their hits are averaged for each
    image: n counts images, and the bootstrap resamples whole images (or groups of them).

    Args:
        image_to_text: (N, M) similarities, queries in the rows.
        text_to_image: (M, N) similarities, queries in the rows.
        pairs: Which text belongs to which image.
        recall_at: The K of recall at K.
        scoring: "" or `RERANKED`; part of the metrics' names.
        seed: Fixes the bootstrap.
    """
    scores: list[Score] = []
    for counting in ("", DUPLICATES):
        relevant = pairs.relevant(counting)
        names, hits, chance = [], [], []
        for direction in DIRECTIONS:
            of_image = direction == DIRECTIONS[0]
            for k in recall_at:
                names.append(f"{direction}_r{k}{scoring}{counting}")
                if of_image:
                    hits.append(recall_hits(image_to_text, relevant, k))
                    chance.append(recall_chance(relevant, k))
                else:
                    hits.append(pairs.mean_per_image(recall_hits(text_to_image, relevant.T, k)))
                    chance.append(pairs.mean_per_image(recall_chance(relevant.T, k)))
        scores += recall_scores(
            np.stack(hits, axis=1),
            np.stack(chance, axis=1),
            names,
            f"mean_recall{scoring}{counting}",
            pairs.groups,
            seed,
        )
    return scores


def recall_scores(
    hits: Floats, chance: Floats, names: Sequence[str], mean_name: str, groups: Ints | None, seed: int
) -> list[Score]:
    """Score R recalls of N images, and the mean of the R.

    Args:
        hits: (N, R) each image's hits, 0 to 1.
        chance: (N, R) the probability of each hit when the gallery is shuffled.
        names: R names of metrics.
        mean_name: The name of the mean's metric.
        groups: (N,) the group of each image, or None.
        seed: Fixes the bootstrap.
    """
    columns = [(name, hits[:, r], chance[:, r]) for r, name in enumerate(names)]
    columns.append((mean_name, hits.mean(axis=1), chance.mean(axis=1)))
    ones = np.ones(len(hits))
    return [
        score_of_sums(
            name, np.stack([values, ones], axis=1), mean_of_sums, groups, float(chances.mean()), seed
        )
        for name, values, chances in columns
    ]


def recall_hits(similarity: Floats, relevant: NDArray[np.bool_], k: int) -> Floats:
    """Return (N,) the probability that a relevant item is among the k most similar ones.

    It is 0 or 1 unless items tie. Ties are broken at random, in expectation, so that a collapsed model scores
    chance and not what the order of the gallery happens to give.

    Args:
        similarity: (N, G) similarity of each query to each gallery item.
        relevant: (N, G) which items are relevant to the query, at least one for each.
        k: The length of the ranked list.
    """
    best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)
    above = (similarity > best).sum(axis=1)
    tied = similarity == best
    return _any_drawn(tied.sum(axis=1), (tied & relevant).sum(axis=1), k - above)


def recall_chance(relevant: NDArray[np.bool_], k: int) -> Floats:
    """Return (N,) the probability that one of k items drawn at random from the gallery is relevant."""
    items = np.full(len(relevant), relevant.shape[1], dtype=np.int64)
    return _any_drawn(items, relevant.sum(axis=1), np.full(len(relevant), k, dtype=np.int64))


def rerank(
    match: MatchFunction, similarity: Floats, pairs: ImageTextPairs, shortlist: int
) -> tuple[Floats, Floats]:
    """Rerank each query's `shortlist` best candidates by ITM; the others keep ITC's order below them.

    Args:
        match: Gives the ITM probabilities of one image and some distinct texts.
        similarity: (N, M) ITC similarities.
        pairs: Which text belongs to which image.
        shortlist: The number of candidates of each query.

    Returns:
        Image-to-text scores (N, M) and text-to-image scores (M, N).
    """
    directions = (similarity, similarity.T)
    shortlists = [_in_shortlist(itc, shortlist) for itc in directions]
    needed = shortlists[0] | shortlists[1].T
    probability = np.zeros_like(similarity)
    for image in track(range(len(similarity)), "Matching images and texts"):
        # Equal texts are matched once, so that they tie exactly.
        texts = np.unique(pairs.text_ids[needed[image]])
        matched = np.zeros(int(pairs.text_ids.max()) + 1)
        matched[texts] = match(image, texts.tolist())
        probability[image] = matched[pairs.text_ids]
    # A cosine is at most 1 and a probability at least 0, so the shortlist stays in front.
    reranked = [
        np.where(listed, 2.0 + itm, itc)
        for listed, itm, itc in zip(shortlists, (probability, probability.T), directions, strict=True)
    ]
    return reranked[0], reranked[1]


def _in_shortlist(similarity: Floats, shortlist: int) -> NDArray[np.bool_]:
    """Return (N, G) whether an item is among its query's most similar ones, ties with the last included."""
    if shortlist >= similarity.shape[1]:
        return np.ones_like(similarity, dtype=np.bool_)
    last = -np.partition(-similarity, shortlist - 1, axis=1)[:, shortlist - 1 : shortlist]
    return np.asarray(similarity >= last)


def _any_drawn(items: Ints, relevant: Ints, draws: Ints) -> Floats:
    """Return the probability that `draws` of `items`, without replacement, hold a relevant one."""
    draws = np.clip(draws, 0, items)
    missed = np.ones(len(items))
    for step in range(int(draws.max(initial=0))):
        left = items - step
        missed *= np.where(step < draws, np.maximum(left - relevant, 0) / np.maximum(left, 1), 1.0)
    return 1.0 - missed
