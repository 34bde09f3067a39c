"""Questions and answers from labels, in six kinds (paper 4.4, figure 13, table 6).

- `target_count`: the number of targets, and of those of a category; a number.
- `target_category`: the categories, a set; in data sets of several categories, also that of a region, a name.
- `target_position`: the numbers of the regions that hold a category, a set; 3 x 3 regions (decisions.md).
- `main_land`: the largest class of land cover, a name. `all_land`: all classes of a least share, a set.
- `regional_land`: the largest class of a region, a name; 2 x 2 regions.

A question that has no single answer (two classes are equally large) is not asked. The wording of a question
does not reveal its answer: nouns are always in the plural.
"""

from collections import Counter

import numpy as np

from fusar_klip.datasets.label_texts.label_summary import LandCoverSummary, TargetSummary
from fusar_klip.datasets.label_texts.language_data import NONE, AnswerType, Question, QuestionKind
from fusar_klip.datasets.label_texts.phrases import noun, region


def target_questions(
    image: int, summary: TargetSummary, categories: tuple[str, ...], rng: np.random.Generator
) -> list[Question]:
    """Return the questions about an image's targets.

    Args:
        image: Its index in the data set.
        summary: Its targets.
        categories: All categories of the data set.
        rng: Draws the absent category and the region of the questions.
    """
    counts = Counter(category for category, _ in summary.targets)
    asked: list[Question] = []

    def ask(kind: QuestionKind, text: str, answers: list[str], answer_type: AnswerType) -> None:
        asked.append(Question(image, kind, text, tuple(answers), answer_type))

    absent = [category for category in categories if not counts[category]]
    about = sorted(counts) + ([str(rng.choice(absent))] if absent else [])
    if len(categories) > 1:
        ask("target_count", "How many targets are in this SAR image?", [str(counts.total())], "number")
    for category in about:
        text = f"How many {noun(category, 2)} are in this SAR image?"
        ask("target_count", text, [str(counts[category])], "number")
    ask(
        "target_category",
        "Which categories of targets are in this SAR image?",
        sorted(counts) or [NONE],
        "set",
    )
    if len(categories) > 1 and (pure := _pure_regions(summary)):
        place = int(rng.choice(sorted(pure)))
        text = f"Which category of target is {region(place, summary.grid)} of this SAR image?"
        ask("target_category", text, [pure[place]], "name")
    for category in sorted(counts):
        places = sorted({place + 1 for name, place in summary.targets if name == category})
        text = f"Which of the regions 1 to {summary.grid**2} hold {noun(category, 2)}?"
        ask("target_position", text, [str(place) for place in places], "set")
    return asked


def land_questions(image: int, summary: LandCoverSummary) -> list[Question]:
    """Return the questions about an image's land cover."""
    asked: list[Question] = []
    if summary.main is not None:
        text = "What is the main landform in this SAR image?"
        asked.append(Question(image, "main_land", text, (summary.names[summary.main],), "name"))
    present = tuple(sorted(summary.names[k] for k in summary.present))
    text = "Which landforms are in this SAR image?"
    asked.append(Question(image, "all_land", text, present, "set"))
    for place, land in enumerate(summary.main_by_region):
        if land is not None:
            text = f"What is the main landform {region(place, summary.grid)} of this SAR image?"
            asked.append(Question(image, "regional_land", text, (summary.names[land],), "name"))
    return asked


def _pure_regions(summary: TargetSummary) -> dict[int, str]:
    """Return the regions whose targets are all of one category, with that category."""
    seen: dict[int, set[str]] = {}
    for category, place in summary.targets:
        seen.setdefault(place, set()).add(category)
    return {place: next(iter(names)) for place, names in seen.items() if len(names) == 1}
