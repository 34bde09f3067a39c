"""Answers of a language model read back as numbers, names and sets, in any order and any words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.benchmark.metrics.vqa_answers import is_correct, parse_answer
from fusar_klip.datasets.label_texts.language_data import Question
from fusar_klip.datasets.label_texts.phrases import NUMBERS

LANDS = ("dry", "flooded", "bare field", "field")

COUNT = Question(0, "target_count", "How many?", ("3",), "number")
PLACES = Question(0, "target_position", "Which regions?", ("1", "5"), "set")
MAIN = Question(0, "main_land", "What?", ("field",), "name")
ALL = Question(0, "all_land", "Which?", ("dry", "bare field"), "set")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("3", True),
        ("three", True),
        ("There are three ships in a harbour.", True),
        ('{"answer": "3"}', True),
        ('```json\n{"answer": 3}\n```', True),
        ("I see 2 bright lines, but the final answer: 3", True),
        ("3.0", True),
        ("3 or 4", False),
        ("3.5", False),
        ("-3", False),
        ("13", False),
        ("a ship", False),
        ("none", False),
        ("", False),
    ],
)
def test_counts_are_read(text: str, right: bool) -> None:
    assert is_correct(text, COUNT, LANDS) is right


def test_none_is_zero_and_an_article_is_one() -> None:
    assert parse_answer("None.", COUNT, LANDS) == {"0"}
    assert parse_answer("no ships", COUNT, LANDS) == {"0"}
    assert parse_answer("a single ship", COUNT, LANDS) == {"1"}
    assert parse_answer("a ship", COUNT, LANDS) == {"1"}
    assert parse_answer("1,234 ships", COUNT, LANDS) == {"1234"}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("1, 5", True),
        ("Regions 5 and 1.", True),
        ('{"answer": [1, 5]}', True),
        ("1-5", False),
        ("15", False),
        ("1", False),
        ("one", False),
    ],
)
def test_region_numbers_are_a_set(text: str, right: bool) -> None:
    assert is_correct(text, PLACES, LANDS) is right
    assert parse_answer("3 to 5", PLACES, LANDS) == {"3", "4", "5"}


@pytest.mark.parametrize(
    ("text", "question", "right"),
    [
        ("Field", MAIN, True),
        ("mainly fields", MAIN, True),
        ("bare field", MAIN, False),
        ("field or dry", MAIN, False),
        ("cornfield", MAIN, False),
        ("bare field, dry", ALL, True),
        ("Bare-field and DRY", ALL, True),
        ("dry, field", ALL, False),
        ("dry", ALL, False),
        ("none", ALL, False),
    ],
)
def test_names_are_read(text: str, question: Question, right: bool) -> None:
    assert is_correct(text, question, LANDS) is right


@given(
    st.sets(st.integers(1, 81), min_size=1), st.randoms(), st.sampled_from([", ", " and ", " ", "; ", ","])
)
def test_a_set_of_numbers_is_read_in_any_order(numbers: set[int], rng: object, separator: str) -> None:
    question = Question(0, "target_position", "Which?", tuple(map(str, sorted(numbers))), "set")
    order = sorted(numbers)
    rng.shuffle(order)  # type: ignore[attr-defined]
    assert is_correct(separator.join(map(str, order)) + ".", question, ())
    assert not is_correct(separator.join(map(str, [*order, 82])), question, ())


@given(
    st.sets(st.sampled_from(LANDS), min_size=1), st.randoms(), st.sampled_from([", ", " and ", "; ", "\n"])
)
def test_a_set_of_names_is_read_in_any_order(names: set[str], rng: object, separator: str) -> None:
    question = Question(0, "all_land", "Which?", tuple(sorted(names)), "set")
    order = sorted(names)
    rng.shuffle(order)  # type: ignore[attr-defined]
    assert is_correct(separator.join(order).upper(), question, LANDS)


@given(st.integers(0, 10_000))
def test_a_count_is_read_in_figures_and_words(count: int) -> None:
    question = Question(0, "target_count", "How many?", (str(count),), "number")
    assert is_correct(f"There are {count} of them.", question, ())
    if count < len(NUMBERS):
        assert is_correct(NUMBERS[count], question, ())


@given(st.text(max_size=60), st.sampled_from([COUNT, PLACES, MAIN, ALL]))
def test_no_text_raises(text: str, question: Question) -> None:
    read = parse_answer(text, question, LANDS)
    assert read is None or len(read) >= 1
