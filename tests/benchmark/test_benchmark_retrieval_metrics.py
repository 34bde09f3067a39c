"""The second pass of retrieval against a plain one, query by query."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from fusar_klip.benchmark.metrics.retrieval_metrics import ImageTextPairs, recall_hits, rerank


@pytest.mark.parametrize("shortlist", [1, 3, 7, 50])
def test_the_shortlist_comes_in_the_order_of_matching_and_the_rest_as_it_was(shortlist: int) -> None:
    rng = np.random.default_rng(shortlist)
    images, texts_each = 9, 2
    texts = images * texts_each
    pairing = ImageTextPairs(np.repeat(np.arange(images), texts_each), np.arange(texts), None)
    similarity = rng.uniform(-1, 1, (images, texts))
    matching = rng.random((images, texts))
    asked: list[tuple[int, int]] = []

    def match(image: int, numbers: Sequence[int]) -> NDArray[np.float32]:
        asked.extend((image, number) for number in numbers)
        return matching[image, list(numbers)].astype(np.float32)

    directions = rerank(match, similarity, pairing, shortlist)
    assert len(asked) == len(set(asked))
    for reranked, itc, itm in zip(
        directions, (similarity, similarity.T), (matching, matching.T), strict=True
    ):
        for query in range(len(itc)):
            first_pass = np.argsort(-itc[query])
            kept, rest = first_pass[:shortlist], first_pass[shortlist:]
            expected = [*kept[np.argsort(-itm[query, kept])], *rest]
            assert np.argsort(-reranked[query], kind="stable").tolist() == expected


def test_reranking_can_find_only_what_the_shortlist_holds() -> None:
    pairing = ImageTextPairs(np.arange(3), np.arange(3), None)
    similarity = np.array([[0.1, 0.8, 0.9], [0.7, 0.6, 0.1], [0.2, 0.3, 0.9]])

    def match(image: int, numbers: Sequence[int]) -> NDArray[np.float32]:
        return np.array([float(number == image) for number in numbers], np.float32)

    image_to_text, text_to_image = rerank(match, similarity, pairing, 2)
    own = np.eye(3, dtype=bool)
    # Image 0's own text is third of three, and so no candidate.
    assert recall_hits(image_to_text, own, 1).tolist() == [0, 1, 1]
    assert recall_hits(text_to_image, own, 1).tolist() == [0, 1, 1]
