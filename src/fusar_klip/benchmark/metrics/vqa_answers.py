"""Parsing of free-text answers into numbers, names and sets (decisions.md, "VQA answers").

The decoder's answers and those of general language models go through the same parser. An answer that names
two things where the question asks for one is no answer.
"""

import json
import re
from collections.abc import Sequence

from fusar_klip.datasets.label_texts.language_data import NONE, Question
from fusar_klip.datasets.label_texts.phrases import NUMBERS

_NUMBER_WORDS = {word: value for value, word in enumerate(NUMBERS)} | {
    "zero": 0,
    "a": 1,
    "an": 1,
    "single": 1,
}
_ARTICLES = ("a", "an")
# 1,234 is one number; 3.0 is 3; a number with other decimals is no count.
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\w])")
_RANGE = re.compile(r"(?<![\w.])(\d+) ?(?:-|–|—|to|through) ?(\d+)(?![\w.])")
_NO_TARGET = re.compile(r"\b(?:none|nothing|no (?:targets?|objects?|categor(?:y|ies)))\b")
_LONGEST_RANGE = 100


def parse_answer(text: str, question: Question, names: Sequence[str]) -> frozenset[str] | None:
    """Return a text's answer: a number in digits, a name, or the members of a set; None for no answer.

    Args:
        text: The answer alone, inside a sentence, or as JSON with a key "answer".
        question: Decides the type of the answer.
        names: All names that answers are made of.
    """
    text = extract_answer(text)
    numeric = all(answer.isdigit() for answer in question.answers)
    if question.answer_type == "number":
        numbers = _numbers(text)
        return frozenset(numbers) if len(numbers) == 1 else None
    if numeric:
        return frozenset(_numbers(_RANGE.sub(_expand_range, _normalise_spaces(text)), words=False)) or None
    named = _names(text, names)
    if not named and _NO_TARGET.search(text.lower()):
        named = {NONE}
    if question.answer_type == "name" and len(named) != 1:
        return None
    return frozenset(named) or None


def is_correct(text: str, question: Question, names: Sequence[str]) -> bool:
    """Return whether a text answers the question exactly; order and wording do not count."""
    return parse_answer(text, question, names) == frozenset(question.answers)


def extract_answer(text: str) -> str:
    """Return the answer alone: JSON's value of "answer", the text after "answer:", or the whole text."""
    text = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and "answer" in value:
        value = value["answer"]
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    marked = re.findall(r"\banswer(?: is)?\W*[:=]\s*(.+)", text, flags=re.IGNORECASE)
    return marked[-1] if marked else text


def _numbers(text: str, words: bool = True) -> set[str]:
    """Return the distinct whole numbers of a text in digits, "3", also those written as words.

    An article counts as one only where there is no other number: "a harbour with three ships".
    """
    text = text.lower()
    numbers = set()
    for written in _NUMBER.findall(text):
        value = float(written.replace(",", ""))
        if value != int(value) or value < 0:
            return set()
        numbers.add(str(int(value)))
    if words:
        spelt = re.findall(r"[a-z]+", text)
        numbers |= {str(_NUMBER_WORDS[w]) for w in spelt if w in _NUMBER_WORDS and w not in _ARTICLES}
        if not numbers and any(word in _ARTICLES for word in spelt):
            numbers = {"1"}
        if not numbers and re.search(r"\b(?:none|nothing)\b", text):
            numbers = {"0"}
    return numbers


def _names(text: str, names: Sequence[str]) -> set[str]:
    """Return which names a text holds, longest first, so that "bare field" is not also "field"."""
    left = f" {_plain(text)} "
    named = set()
    for name in sorted(names, key=lambda name: (-len(_plain(name)), name)):
        pattern = rf"(?<= ){re.escape(_plain(name))}(?:s|es)?(?= )"
        if re.search(pattern, left):
            named.add(name)
            left = re.sub(pattern, "|", left)
    return named


def _plain(text: str) -> str:
    """Return lower-case words; punctuation, which the decoder may set apart, becomes spaces."""
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text.lower()).split())


def _normalise_spaces(text: str) -> str:
    return " ".join(text.lower().split())


def _expand_range(range_: re.Match[str]) -> str:
    """Return "3-5" as "3, 4, 5"; a range that runs backwards is two numbers."""
    low, high = int(range_[1]), int(range_[2])
    if not low < high <= low + _LONGEST_RANGE:
        return f"{low}, {high}"
    return ", ".join(str(value) for value in range(low, high + 1))
