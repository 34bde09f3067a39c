"""Visual question answering in six kinds (paper 4.4, table 6), also by general language models (table 7).

A checkpoint is fine-tuned on the training part's questions; a language model (`llm:NAME`) is asked as it is.
Both are scored by the same code: numbers and sets exactly.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics.bootstrap import Score, mean_of_sums, score_of_sums
from fusar_klip.benchmark.metrics.vqa_answers import extract_answer, is_correct
from fusar_klip.benchmark.report.attention_maps import draw_attention_maps
from fusar_klip.benchmark.report.prediction_figures import TextPrediction, draw_texts
from fusar_klip.benchmark.results import ReportFigure, RowResult
from fusar_klip.benchmark.settings import VqaRow
from fusar_klip.benchmark.tasks.language import train_for_row
from fusar_klip.datasets.label_texts.records import KINDS, LanguageData, Question, QuestionKind
from fusar_klip.finetune.language.decoding import generate_texts, rank_answers
from fusar_klip.finetune.language.examples import answer_ids
from fusar_klip.finetune.resized_images import resized_images
from fusar_klip.models.captioning import Speaks, question_prompt

_SHOWN_A_KIND = 2
OVERALL = "overall_accuracy"


def evaluate_vqa(row: VqaRow, data: LanguageData, subject: EvaluatedModel) -> RowResult:
    """Run one row for one model, or ask one language model."""
    questions = _chosen(data, row)
    if subject.language_model is not None:
        # The text engine's libraries are an extra.
        from fusar_klip.benchmark.tasks.llm_vqa import ask_language_model

        said, notes = ask_language_model(subject, questions, data, row)
    else:
        said, notes = _by_checkpoint(row, data, subject, questions), []
    right = [is_correct(text, q, data.names) for text, q in zip(said, questions, strict=True)]
    usual = MostFrequentAnswers(data.asked("train"))
    guessed = [is_correct(usual.of(q), q, data.names) for q in questions]
    scores = _scores(questions, right, guessed, data, row.seed)
    asked = Counter(question.kind for question in questions)
    kinds = ", ".join(f"{asked[kind]} {kind.replace('_', ' ')}" for kind in KINDS if asked[kind])
    notes = [
        f"Test questions: {kinds}. Chance is the answer that the same question has most often in the "
        "training part, without a look at the image.",
        *notes,
    ]
    drawings = [_drawing(questions, said, right, data, row.seed)]
    if subject.language_model is None:
        shown = [data.images[i].file for i in sorted({question.image for question in questions})]
        drawings += draw_attention_maps(subject.model, shown, row.seed)
    return RowResult(scores=scores, notes=notes, drawings=drawings)


class MostFrequentAnswers:
    """What is answered most often, without a look at the image.

    Args:
        questions: Those of the training part.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._by_text: dict[str, Counter[str]] = {}
        self._by_kind: dict[QuestionKind, Counter[str]] = {}
        for question in questions:
            self._by_text.setdefault(question.text, Counter())[question.answer] += 1
            self._by_kind.setdefault(question.kind, Counter())[question.answer] += 1

    def of(self, question: Question) -> str:
        """Return the usual answer to the same question, else to its kind, else none."""
        counts = self._by_text.get(question.text) or self._by_kind.get(question.kind) or Counter({"": 1})
        return min(counts.items(), key=lambda item: (-item[1], item[0]))[0]

    def closed_list(self, kind: QuestionKind) -> list[str]:
        """Return all answers of a kind, in the order of the alphabet."""
        return sorted(self._by_kind.get(kind, ()))


def _by_checkpoint(
    row: VqaRow, data: LanguageData, subject: EvaluatedModel, questions: Sequence[Question]
) -> list[str]:
    with resized_images([image.file for image in data.images], subject.model.preprocess) as images_nss:
        speaks = Speaks("questions", row.tokens, row.beams)
        trained = train_for_row(row, data, subject, images_nss, "questions", speaks)
        tokenizer = trained.tokenizer
        prompts = [question_prompt(tokenizer, question.text, row.tokens) for question in questions]
        images = [question.image for question in questions]
        if row.answer_by == "write":
            return generate_texts(
                trained, images_nss, images, prompts, beams=row.beams, max_tokens=row.tokens - 1
            )
        usual = MostFrequentAnswers(data.asked("train"))
        answers = [""] * len(questions)
        for kind in KINDS:
            places = [place for place, question in enumerate(questions) if question.kind == kind]
            listed = usual.closed_list(kind)
            if places and listed:
                candidates = [answer_ids(tokenizer, answer, row.tokens) for answer in listed]
                shown = [images[place] for place in places]
                likeliest = rank_answers(
                    trained, images_nss, shown, [prompts[place] for place in places], candidates
                )
                for place, chosen in zip(places, likeliest, strict=True):
                    answers[place] = listed[chosen]
        return answers


def _chosen(data: LanguageData, row: VqaRow) -> list[Question]:
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
    right: Sequence[bool],
    guessed: Sequence[bool],
    data: LanguageData,
    seed: int,
) -> list[Score]:
    """Score all questions, then each kind. Whole images, or groups of them, are resampled."""
    images = np.array([question.image for question in questions])
    groups = data.groups(images)
    scores = []
    for metric in (OVERALL, *KINDS):
        here = np.array([metric in (OVERALL, question.kind) for question in questions])
        if not here.any():
            continue
        hits = np.array(right, dtype=np.float64)[here]
        chance = float(np.array(guessed, dtype=np.float64)[here].mean())
        totals = np.stack([hits, np.ones(len(hits))], axis=1)
        units = (images if groups is None else groups)[here]
        score = score_of_sums(metric, totals, mean_of_sums, units, chance, seed)
        scores.append(replace(score, ci_unit="image" if groups is None else "group"))
    return scores


def _drawing(
    questions: Sequence[Question], said: Sequence[str], right: Sequence[bool], data: LanguageData, seed: int
) -> ReportFigure:
    rng = np.random.default_rng(seed)
    shown = []
    for kind in KINDS:
        places = rng.permutation([p for p, question in enumerate(questions) if question.kind == kind])
        for place in places[:_SHOWN_A_KIND].tolist():
            question = questions[place]
            file = data.images[question.image].file
            shown.append(
                TextPrediction(
                    file, question.text, question.answer, extract_answer(said[place]), right[place]
                )
            )
    alt = "Test images with a question, its answer and the model's"
    caption = "questions drawn at random; green is right, red is wrong."
    return draw_texts("questions", shown, alt, caption, columns=2)
