"""Retrieval between a data set's images and their captions, in both directions (paper 4.4, table 6).

The model is fine-tuned on the training part (ITC and ITM). Then the test part's images and all their captions
are ranked against each other, by ITC alone and re-ranked by ITM.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

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
from fusar_klip.benchmark.tasks import language
from fusar_klip.benchmark.tasks.task import BenchmarkTask
from fusar_klip.datasets.label_texts.language_data import LanguageData
from fusar_klip.finetune.language.settings import RetrievalSettings
from fusar_klip.finetune.resized_images import resized_images
from fusar_klip.models import Klip

_BLOCK = 256


class LabelRetrievalRow(RetrievalSettings, language.LanguageRow):
    """Retrieval between images and their captions, after fine-tuning on the training part's."""

    task: Literal["label_retrieval"]
    recall_at: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5, 10)
    """The K of recall at K."""
    shortlist: int = Field(default=256, ge=0)
    """Number of best candidates by ITC that ITM re-ranks (decisions.md); 0 skips the re-ranking."""


def evaluate_label_retrieval(
    row: LabelRetrievalRow, data: LanguageData, evaluated: EvaluatedModel
) -> RowResult:
    """Fine-tune a copy of a model and evaluate its retrieval on the test part."""
    with resized_images([image.file for image in data.images], evaluated.model.preprocess) as images_nss:
        trained = language.train_for_row(row, data, evaluated, images_nss, "captions")
        return _retrieve(row, data, trained, images_nss)


def _retrieve(
    row: LabelRetrievalRow, data: LanguageData, model: Klip, images_nss: NDArray[np.uint8]
) -> RowResult:
    test = data.part("test")
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


LABEL_RETRIEVAL = BenchmarkTask(
    "Retrieval of captions",
    LabelRetrievalRow,
    language.read_language,
    evaluate_label_retrieval,
    language.READ_BY_TEXTS,
    headline="mean_recall",
    requires="generation",
    text_side=language.text_side,
    saved_model=language.saved_model,
    labelled_images=language.labelled_images,
)
