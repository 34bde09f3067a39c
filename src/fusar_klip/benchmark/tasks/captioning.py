"""Captions written by the decoder and compared with the labels' (paper 4.4, table 6).

The model is fine-tuned on the training part; then the decoder writes one caption for each test image by beam
search, which is compared with all captions of that image.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics import caption_metrics
from fusar_klip.benchmark.metrics.bootstrap import Score, mean_of_sums, score_of_sums
from fusar_klip.benchmark.report.prediction_figures import TextPrediction, draw_texts
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.settings import CaptioningRow
from fusar_klip.benchmark.tasks.language import train_for_row
from fusar_klip.datasets.label_texts.records import LanguageData
from fusar_klip.finetune.language.decoding import generate_texts
from fusar_klip.finetune.resized_images import resized_images
from fusar_klip.models.captioning import Speaks, caption_prompt

_SHOWN = 4


def evaluate_captioning(row: CaptioningRow, data: LanguageData, subject: EvaluatedModel) -> RowResult:
    """Run one row for one model."""
    test = data.part("test")
    with resized_images([image.file for image in data.images], subject.model.preprocess) as images_nss:
        speaks = Speaks("captions", row.tokens, row.beams)
        trained = train_for_row(row, data, subject, images_nss, "captions", speaks)
        prompts = [caption_prompt(trained.tokenizer)] * len(test)
        written = generate_texts(
            trained, images_nss, test.tolist(), prompts, beams=row.beams, max_tokens=row.tokens - 1
        )
    references = [data.images[i].captions for i in test]
    said = Counter(caption for i in data.part("train") for caption in data.images[i].captions)
    usual = min(said.items(), key=lambda item: (-item[1], item[0]))[0]
    scores, missing = caption_scores(written, references, data.groups(test), row.seed, usual)
    notes = [
        f"wrote {len(set(written))} different captions for {len(test)} images.",
        "Chance is the training part's most frequent caption, written for every image.",
        *missing,
    ]
    drawn = np.sort(np.random.default_rng(row.seed).permutation(len(test))[:_SHOWN])
    shown = [TextPrediction(data.images[test[d]].file, "", references[d][0], written[d], None) for d in drawn]
    drawing = draw_texts(
        "captions", shown, "Test images with a caption from labels and the written one", "captions written."
    )
    return RowResult(scores=scores, notes=notes, drawings=[drawing])


def caption_scores(
    written: Sequence[str],
    references: Sequence[Sequence[str]],
    groups: NDArray[np.int64] | None,
    seed: int,
    usual: str,
) -> tuple[list[Score], list[str]]:
    """Score captions against each image's references: BLEU-4, CIDEr, and METEOR and SPICE where they run.

    Args:
        written: One caption for each image.
        references: Captions from labels.
        groups: The group of each image, or None.
        seed: Fixes the bootstrap.
        usual: A caption to be written blindly for all images, which gives the chance level.

    Returns:
        The scores, and what is missing and why. CIDEr is 0 to 10, the others 0 to 1.
    """
    words = [caption_metrics.tokenise(text) for text in written]
    truths = [[caption_metrics.tokenise(text) for text in each] for each in references]
    parts = caption_metrics.bleu_statistics(words, truths)
    blind = [caption_metrics.tokenise(usual)] * len(words)
    chance = float(
        caption_metrics.bleu4(caption_metrics.bleu_statistics(blind, truths).sum(0, keepdims=True))[0]
    )
    scores = [score_of_sums("bleu4", parts, caption_metrics.bleu4, groups, chance, seed)]
    each, missing = caption_metrics.java_metrics(words, truths)
    of_image = caption_metrics.cider(words, truths)
    each["cider"] = np.stack([of_image, np.ones(len(words))], axis=1), mean_of_sums
    for name in ("meteor", "cider", "spice"):
        if name in each:
            guess = float(caption_metrics.cider(blind, truths).mean()) if name == "cider" else None
            scores.append(score_of_sums(name, *each[name], groups, guess, seed))
    return scores, missing
