"""Retrieval between a data set's images and their captions, both ways (paper 4.4, table 6).

The model is fine-tuned on the training part (ITC and ITM); then the test part's images and all their captions
are ranked against each other, by ITC alone and re-ranked by ITM.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

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
from fusar_klip.benchmark.settings import LabelRetrievalRow
from fusar_klip.benchmark.tasks.language import train_for_row
from fusar_klip.datasets.label_texts.records import LanguageData
from fusar_klip.finetune.resized_images import resized_images
from fusar_klip.models import Klip

_BLOCK = 256


def evaluate_label_retrieval(
    row: LabelRetrievalRow, data: LanguageData, subject: EvaluatedModel
) -> RowResult:
    """Run one row for one model."""
    test = data.part("test")
    with resized_images([image.file for image in data.images], subject.model.preprocess) as images_nss:
        trained = train_for_row(row, data, subject, images_nss, "captions")
        return _retrieved(row, data, trained, images_nss, test)


def _retrieved(
    row: LabelRetrievalRow,
    data: LanguageData,
    model: Klip,
    images_nss: NDArray[np.uint8],
    test: NDArray[np.int64],
) -> RowResult:
    texts = [text for i in test for text in data.images[i].captions]
    image_of_text = np.repeat(np.arange(len(test)), [len(data.images[i].captions) for i in test])
    distinct = sorted(set(texts))
    number = {text: index for index, text in enumerate(distinct)}
    pairs = ImageTextPairs(image_of_text, np.array([number[text] for text in texts]), data.groups(test))
    images = np.concatenate([model.embed_image(list(block)) for block in _blocks(images_nss, test)])
    similarity = cosine_similarities(images, model.embed_text(distinct), pairs)
    scores = retrieval_scores(similarity, similarity.T, pairs, row.recall_at, "", row.seed)
    if row.shortlist:

        def match(image: int, numbers: Sequence[int]) -> NDArray[np.float32]:
            return model.match(images_nss[test[image]], [distinct[n] for n in numbers])

        reranked = rerank(match, similarity, pairs, row.shortlist)
        scores += retrieval_scores(*reranked, pairs, row.recall_at, RERANKED, row.seed)
    files = [data.images[i].file for i in test]
    queries = retrieval_examples(similarity.T, texts, files, pairs, row.seed)
    note = f"{len(test)} test images with {len(texts)} texts; n counts images, and every text is a query."
    return RowResult(scores=scores, notes=[note], queries=queries)


def _blocks(images_nss: NDArray[np.uint8], test: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(test), _BLOCK):
        yield np.asarray(images_nss[test[start : start + _BLOCK]])
