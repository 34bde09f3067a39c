"""Visual question answering, six kinds of questions (paper 4.4, table 6), also by language models (table 7).

A checkpoint is fine-tuned on the training part's questions; a general language model (`llm:NAME`) is not
trained. The same code scores both: numbers and sets exactly.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics.bootstrap import Score, mean_of_sums, score_of_sums
from fusar_klip.benchmark.metrics.vqa_answers import extract_answer, is_correct
from fusar_klip.benchmark.report.attention_maps import draw_attention_maps
from fusar_klip.benchmark.report.prediction_figures import TextPrediction, draw_texts
from fusar_klip.benchmark.results import ReportFigure, RowResult
from fusar_klip.benchmark.tasks import language
from fusar_klip.benchmark.tasks.task import BenchmarkTask
from fusar_klip.datasets.label_texts.language_data import KINDS, LanguageData, Question, QuestionKind
from fusar_klip.finetune.language.decoding import generate_texts, rank_answers
from fusar_klip.finetune.language.examples import answer_ids
from fusar_klip.finetune.language.settings import VqaSettings
from fusar_klip.finetune.resized_images import resized_images
from fusar_klip.models.captioning import GenerationConfig, question_prompt

_SHOWN_PER_KIND = 2
"""Number of test questions of each kind in the report."""
OVERALL = "overall_accuracy"


class VqaRow(VqaSettings, language.LanguageRow):
    """Six kinds of questions, answered after fine-tuning on them, or by a general language model."""

    NEEDS_QUESTIONS: ClassVar[bool] = True
    task: Literal["vqa"]
    answer_by: Literal["rank", "write"] = "rank"
    """`rank`: the decoder's most probable one of the kind's answers in the training part; `write`: the
    decoder generates the answer (decisions.md, "VQA answers")."""
    beams: int = Field(default=3, ge=1, le=16)
    """Width of the beam search."""
    questions_per_kind: int = Field(default=0, ge=0)
    """Number of test questions of each kind, drawn by the seed; 0 for all. Requests to language models cost
    money."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Concurrent requests to a language model."""
    image_px: int = Field(default=512, ge=32, le=4096)
    """Longer side of the picture that a language model receives, at most, in pixels."""


def evaluate_vqa(row: VqaRow, data: LanguageData, evaluated: EvaluatedModel) -> RowResult:
    """Score the answers of a fine-tuned copy of a model, or those of a language model."""
    questions = _test_questions(data, row)
    if evaluated.language_model is not None:
        # The libraries of the language-model client are an extra.
        from fusar_klip.benchmark.tasks.llm_vqa import ask_language_model

        answers, notes = ask_language_model(evaluated, questions, data, row)
    else:
        answers, notes = _checkpoint_answers(row, data, evaluated, questions), []
    correct = [is_correct(text, q, data.names) for text, q in zip(answers, questions, strict=True)]
    frequent = MostFrequentAnswers(data.asked("train"))
    chance_correct = [is_correct(frequent.answer(q), q, data.names) for q in questions]
    scores = _scores(questions, correct, chance_correct, data, row.seed)
    counts = Counter(question.kind for question in questions)
    kinds = ", ".join(f"{counts[kind]} {kind.replace('_', ' ')}" for kind in KINDS if counts[kind])
    notes = [
        f"Test questions: {kinds}. Chance is the most frequent answer to the same question in the training "
        "part, whatever the image.",
        *notes,
    ]
    figures = [_figure(questions, answers, correct, data, row.seed)]
    if evaluated.language_model is None:
        shown = [data.images[i].file for i in sorted({question.image for question in questions})]
        figures += draw_attention_maps(evaluated.model, shown, row.seed)
    return RowResult(scores=scores, notes=notes, drawings=figures)


class MostFrequentAnswers:
    """The most frequent answers to questions, whatever the image: the chance level.

    Args:
        questions: Those of the training part.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._by_text: dict[str, Counter[str]] = {}
        self._by_kind: dict[QuestionKind, Counter[str]] = {}
        for question in questions:
            self._by_text.setdefault(question.text, Counter())[question.answer] += 1
            self._by_kind.setdefault(question.kind, Counter())[question.answer] += 1

    def answer(self, question: Question) -> str:
        """Return the most frequent answer to the same question, else to its kind, else ""."""
        counts = self._by_text.get(question.text) or self._by_kind.get(question.kind) or Counter({"": 1})
        return min(counts.items(), key=lambda item: (-item[1], item[0]))[0]

    def candidates(self, kind: QuestionKind) -> list[str]:
        """Return all answers of a kind, sorted."""
        return sorted(self._by_kind.get(kind, ()))


def _checkpoint_answers(
    row: VqaRow, data: LanguageData, evaluated: EvaluatedModel, questions: Sequence[Question]
) -> list[str]:
    with resized_images([image.file for image in data.images], evaluated.model.preprocess) as images_nss:
        generation = GenerationConfig("questions", row.tokens, row.beams)
        trained = language.train_for_row(row, data, evaluated, images_nss, "questions", generation)
        tokenizer = trained.tokenizer
        prompts = [question_prompt(tokenizer, question.text, row.tokens) for question in questions]
        images = [question.image for question in questions]
        if row.answer_by == "write":
            return generate_texts(
                trained, images_nss, images, prompts, beams=row.beams, max_tokens=row.tokens - 1
            )
        frequent = MostFrequentAnswers(data.asked("train"))
        answers = [""] * len(questions)
        for kind in KINDS:
            places = [place for place, question in enumerate(questions) if question.kind == kind]
            candidates = frequent.candidates(kind)
            if places and candidates:
                best = rank_answers(
                    trained,
                    images_nss,
                    [images[place] for place in places],
                    [prompts[place] for place in places],
                    [answer_ids(tokenizer, answer, row.tokens) for answer in candidates],
                )
                for place, chosen in zip(places, best, strict=True):
                    answers[place] = candidates[chosen]
        return answers


def _test_questions(data: LanguageData, row: VqaRow) -> list[Question]:
    questions = data.asked("test")
    if not row.questions_per_kind:
        return questions
    rng = np.random.default_rng(row.seed)
    kept: list[int] = []
    for kind in KINDS:
        places = [place for place, question in enumerate(questions) if question.kind == kind]
        kept += rng.permutation(places)[: row.questions_per_kind].tolist()
    return [questions[place] for place in sorted(kept)]


def _scores(
    questions: Sequence[Question],
    correct: Sequence[bool],
    chance_correct: Sequence[bool],
    data: LanguageData,
    seed: int,
) -> list[Score]:
    """Score all questions, then each kind. The bootstrap resamples whole images, or groups of them."""
    images = np.array([question.image for question in questions])
    groups = data.groups(images)
    scores = []
    for metric in (OVERALL, *KINDS):
        chosen = np.array([metric in (OVERALL, question.kind) for question in questions])
        if not chosen.any():
            continue
        hits = np.array(correct, dtype=np.float64)[chosen]
        chance = float(np.array(chance_correct, dtype=np.float64)[chosen].mean())
        totals = np.stack([hits, np.ones(len(hits))], axis=1)
        units = (images if groups is None else groups)[chosen]
        score = score_of_sums(metric, totals, mean_of_sums, units, chance, seed)
        scores.append(replace(score, ci_unit="image" if groups is None else "group"))
    return scores


def _figure(
    questions: Sequence[Question],
    answers: Sequence[str],
    correct: Sequence[bool],
    data: LanguageData,
    seed: int,
) -> ReportFigure:
    rng = np.random.default_rng(seed)
    shown = []
    for kind in KINDS:
        places = rng.permutation([p for p, question in enumerate(questions) if question.kind == kind])
        for place in places[:_SHOWN_PER_KIND].tolist():
            question = questions[place]
            file = data.images[question.image].file
            answer = extract_answer(answers[place])
            shown.append(TextPrediction(file, question.text, question.answer, answer, correct[place]))
    alt = "Test images with a question, its answer and the model's"
    caption = "questions drawn at random; green is right, red is wrong."
    return draw_texts("questions", shown, alt, caption, columns=2)


VQA = BenchmarkTask(
    "Visual question answering",
    VqaRow,
    language.read_language,
    evaluate_vqa,
    language.READ_BY_TEXTS,
    headline=OVERALL,
    requires="generation",
    for_language_models=True,
    text_side=language.text_side,
    saved_model=language.saved_model,
    labelled_images=language.labelled_images,
)
