"""Training examples of the language tasks: an image with a text, a prompt and an answer, in token ids.

An epoch shows each training image once with one of its captions, or asks each question once.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusar_klip.datasets.label_texts.language_data import LanguageData, Question
from fusar_klip.finetune.language.settings import LanguageSettings
from fusar_klip.models import Tokenizer
from fusar_klip.models.captioning import caption_prompt, question_prompt


@dataclass(frozen=True)
class TrainingExample:
    """One image with one text, in token ids."""

    image: int
    """Index of the image in the data set."""
    text: list[int]
    """The text of ITC and ITM."""
    text_id: int
    """Equal for texts that mean the same: such a text is no negative of the other's image."""
    prompt: list[int]
    """The encoder's input for generation, with one [MASK]."""
    answer: list[int]
    """What the decoder generates at the [MASK], [SEP] last."""


Batches = Callable[[int], Iterator[list[TrainingExample]]]
"""The batches of an epoch, by its number from 0. No two examples of a batch share an image."""


def caption_examples(
    data: LanguageData, tokenizer: Tokenizer, settings: LanguageSettings
) -> tuple[Batches, int]:
    """Return an epoch's batches, one caption drawn at random for each image, and their number.

    The last incomplete batch is dropped: shuffling brings its images into other epochs.
    """
    train = data.part("train")
    size = min(settings.batch_size, len(train))
    steps = len(train) // size
    prompt = caption_prompt(tokenizer)
    text_ids: dict[tuple[str, ...], int] = {}
    for i in train:
        text_ids.setdefault(data.images[i].captions, len(text_ids))

    def example(image: int, rng: np.random.Generator) -> TrainingExample:
        captions = data.images[image].captions
        ids = tokenizer.encode(captions[int(rng.integers(len(captions)))], settings.tokens)
        return TrainingExample(image, ids, text_ids[captions], prompt, ids[1:])

    def batches(epoch: int) -> Iterator[list[TrainingExample]]:
        rng = np.random.default_rng([settings.seed, epoch, 1])
        order = rng.permutation(train)
        for start in range(0, steps * size, size):
            yield [example(int(image), rng) for image in order[start : start + size]]

    return batches, steps


def question_examples(
    data: LanguageData, tokenizer: Tokenizer, settings: LanguageSettings
) -> tuple[Batches, int]:
    """Return an epoch's batches, each question once and no image twice in a batch, and their number."""
    by_image: dict[int, list[Question]] = {}
    text_ids: dict[tuple[str, str], int] = {}
    for question in data.asked("train"):
        by_image.setdefault(question.image, []).append(question)
        text_ids.setdefault((question.text, question.answer), len(text_ids))
    rounds = [
        sum(len(each) > r for each in by_image.values()) for r in range(max(map(len, by_image.values())))
    ]
    steps = sum(-(-images // settings.batch_size) for images in rounds)

    def example(question: Question) -> TrainingExample:
        return TrainingExample(
            question.image,
            tokenizer.encode((question.text, question.answer), settings.tokens),
            text_ids[question.text, question.answer],
            question_prompt(tokenizer, question.text, settings.tokens),
            answer_ids(tokenizer, question.answer, settings.tokens),
        )

    def batches(epoch: int) -> Iterator[list[TrainingExample]]:
        rng = np.random.default_rng([settings.seed, epoch, 1])
        shuffled = {image: rng.permutation(len(each)) for image, each in by_image.items()}
        for r in range(len(rounds)):
            images = rng.permutation([image for image, each in by_image.items() if len(each) > r])
            for start in range(0, len(images), settings.batch_size):
                batch = images[start : start + settings.batch_size].tolist()
                yield [example(by_image[image][shuffled[image][r]]) for image in batch]

    return batches, steps


def answer_ids(tokenizer: Tokenizer, answer: str, tokens: int) -> list[int]:
    """Return `answer [SEP]`, at most `tokens - 1` long."""
    return tokenizer.encode(answer, tokens)[1:]


TextKind = Literal["captions", "questions"]
EXAMPLES: Mapping[TextKind, Callable[[LanguageData, Tokenizer, LanguageSettings], tuple[Batches, int]]] = {
    "captions": caption_examples,
    "questions": question_examples,
}
