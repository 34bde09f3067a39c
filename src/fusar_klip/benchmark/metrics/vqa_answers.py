"""Answers in free words read as numbers, names and sets, and compared exactly (decisions.md, "VQA answers").

The same reader serves our decoder and general language models. What names two things where one is asked for
is no answer.
"""

import json
import re
from collections.abc import Sequence

from fusar_klip.datasets.label_texts.records import NONE, Question
from fusar_klip.datasets.label_texts.words import NUMBERS

_NUMBER_WORDS = {word: value for value, word in enumerate(NUMBERS)} | {
    "zero": 0,
    "a": 1,
    "an": 1,
    "single": 1,
}
_ARTICLES = ("a", "an")
# 1,234 is one number; 3.0 is 3; what has other decimals is no count.
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\w])")
_RANGE = re.compile(r"(?<![\w.])(\d+) ?(?:-|–|—|to|through) ?(\d+)(?![\w.])")
_NO_TARGET = re.compile(r"\b(?:none|nothing|no (?:targets?|objects?|categor(?:y|ies)))\b")
_MOST_RANGE = 100


def parse_answer(text: str, question: Question, names: Sequence[str]) -> frozenset[str] | None:
    """Return what a text answers: the number in figures, the name, or the set's members; None for no answer.

    Args:
        text: The answer, bare or inside a sentence, or as JSON with a key "answer".
        question: Says what is wanted.
        names: All names that answers of its kind are made of.
    """
    text = extract_answer(text)
    numeric = all(answer.isdigit() for answer in question.answers)
    if question.answer_type == "number":
        found = _numbers(text)
        return frozenset(found) if len(found) == 1 else None
    if numeric:
        return frozenset(_numbers(_RANGE.sub(_spelt_out, _plain_marks(text)), words=False)) or None
    named = _names(text, names)
    if not named and _NO_TARGET.search(text.lower()):
        named = {NONE}
    if question.answer_type == "name" and len(named) != 1:
        return None
    return frozenset(named) or None


def is_correct(text: str, question: Question, names: Sequence[str]) -> bool:
    """Tell whether an answer in words is exactly the question's: order and wording do not count."""
    return parse_answer(text, question, names) == frozenset(question.answers)


def extract_answer(text: str) -> str:
    """Return the answer alone: the key "answer" of JSON, what stands behind the last "answer:", or all."""
    text = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and "answer" in value:
        value = value["answer"]
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    said = re.findall(r"\banswer(?: is)?\W*[:=]\s*(.+)", text, flags=re.IGNORECASE)
    return said[-1] if said else text


def _numbers(text: str, words: bool = True) -> set[str]:
    """Return the distinct whole numbers of a text in figures, "3", also those in words.

    An article counts as one only where there is no other number: "a harbour with three ships".
    """
    text = text.lower()
    found = set()
    for written in _NUMBER.findall(text):
        value = float(written.replace(",", ""))
        if value != int(value) or value < 0:
            return set()
        found.add(str(int(value)))
    if words:
        spelt = re.findall(r"[a-z]+", text)
        found |= {str(_NUMBER_WORDS[w]) for w in spelt if w in _NUMBER_WORDS and w not in _ARTICLES}
        if not found and any(word in _ARTICLES for word in spelt):
            found = {"1"}
        if not found and re.search(r"\b(?:none|nothing)\b", text):
            found = {"0"}
    return found


def _names(text: str, names: Sequence[str]) -> set[str]:
    """Return which names a text holds, long ones first, so that "bare field" is not also "field"."""
    left = f" {_plain(text)} "
    found = set()
    for name in sorted(names, key=lambda name: (-len(_plain(name)), name)):
        pattern = rf"(?<= ){re.escape(_plain(name))}(?:s|es)?(?= )"
        if re.search(pattern, left):
            found.add(name)
            left = re.sub(pattern, "|", left)
    return found


def _plain(text: str) -> str:
    """Return lower-case words: marks, which the decoder may set apart, become spaces."""
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text.lower()).split())


def _plain_marks(text: str) -> str:
    return " ".join(text.lower().split())


def _spelt_out(found: re.Match[str]) -> str:
    """Return "3-5" as "3, 4, 5"; a range that runs backwards is two numbers."""
    low, high = int(found[1]), int(found[2])
    if not low < high <= low + _MOST_RANGE:
        return f"{low}, {high}"
    return ", ".join(str(value) for value in range(low, high + 1))
