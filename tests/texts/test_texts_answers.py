"""Answers of language models, good and bad: read, or complained about, and never an exception."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts_contexts import make_context

from fusar_klip.catalog import FIELDS, TARGET_FIELDS, TERRAIN_FIELDS
from fusar_klip.texts.hcot.answers import (
    MAX_ANSWER_CHARS_READ,
    MAX_FIELD_WORDS,
    Answer,
    InvalidAnswer,
    is_english,
    read_answer,
)
from fusar_klip.texts.hcot.contradictions import stated_count
from fusar_klip.texts.hcot.prompts import LAYERS
from fusar_klip.texts.measure.evidence import Waterline

SEA = make_context("marine_target")
CITY = make_context("terrain")
SHIPS = {
    "Count": "Three ships.",
    "Location": "Two in the upper left and lower left, one in the right.",
    "Feature": "Bright elongated returns, about ten times as bright as the sea.",
    "Size": "About 150 m long and 25 m wide.",
    "Category": "Medium cargo vessels, type not told at 3 m.",
    "Distribution": "Dispersed, 500 m apart, axes in different directions.",
    "Region": "On open water off the port of Long Beach.",
    "Environment": "Open water throughout, no shore in sight.",
}
CITY_FIELDS = {
    "Terrain": "Built-up land throughout.",
    "Functionality": "Dense housing, use not told further.",
    "Location": "Brightest blocks in the centre, San Pedro 1 km to the east.",
    "Layout": "Regular grid of blocks, north to south.",
    "Boundary": "Straight street edges, no waterline.",
    "Building": "Dense low buildings throughout, heights not measured.",
    "Road": "Regular streets about 70 m apart.",
    "Water": "None visible.",
}
# Figure 8 of the paper, as its model answered.
PAPER = """Count: four ships
Location: left side of image
Feature: high-amplitude, elongated, structured, flaky bright points
Size: 30-60m length
Category: small cargo ship
Distribution: dispersed arrangement
Region: located on the sea, far from the shore
Environment: the area is dominated by dark ocean, with no land or shore buildings found"""


def lines(fields: Mapping[str, str]) -> str:
    return "\n".join(f"{field}: {text}" for field, text in fields.items())


def whole(fields: Mapping[str, Any] = SHIPS) -> str:
    return json.dumps({"rationale": {layer: f"About {layer}." for layer in LAYERS}, "fields": fields})


def read(text: str, context: Any = SEA) -> Answer:
    answer = read_answer(text, context)
    assert isinstance(answer, Answer), answer
    return answer


def complaint(text: str, context: Any = SEA) -> str:
    answer = read_answer(text, context)
    assert isinstance(answer, InvalidAnswer), answer
    return answer.reason


@pytest.mark.parametrize(
    "text",
    [
        whole(),
        json.dumps({"fields": SHIPS}),
        json.dumps(SHIPS),
        json.dumps([{"answer": {"fields": SHIPS}}]),
        json.dumps({"description": SHIPS, "Count": "see above"}),
        json.dumps({field.lower(): text for field, text in SHIPS.items()}),
        f"```json\n{whole()}\n```",
        f"Here is the description.\n\n```\n{whole()}\n```\nI hope this helps!",
        f"<think>First {{draft}}: {json.dumps({'Count': 'Nine ships.'})}</think>\n{whole()}",
        f"\ufeff{whole()}\r\n",
        lines(SHIPS),
        lines(SHIPS).replace("\n", "\r\n\r\n"),
        "\n".join(f"- **{field}**: {text}" for field, text in SHIPS.items()),
        "\n".join(f"{i}. *{field}:* {text}" for i, (field, text) in enumerate(SHIPS.items(), 1)),
        "\n".join(f"## {field}:\n{text}\n" for field, text in SHIPS.items()),
        "\n".join(f"{field.upper()}：{text}" for field, text in SHIPS.items()),
        f"Layer 1: Location: somewhere in California\n\nAnswer:\n{lines(SHIPS)}\n\nThis is all I can tell.",
        json.dumps({"fields": {field: f"{field}: {text}" for field, text in SHIPS.items()}}),
        json.dumps({"fields": {field: f' "{text}" \n' for field, text in SHIPS.items()}}),
        json.dumps({"draft": {"fields": {}}}) + whole(),
    ],
)
def test_the_same_answer_in_any_shape(text: str) -> None:
    answer = read(text)
    assert answer.fields == SHIPS
    assert tuple(answer.fields) == TARGET_FIELDS
    assert answer.flags == ()


def test_the_papers_lines_are_read() -> None:
    fields = read(PAPER).fields
    assert fields["Count"] == "four ships"
    assert fields["Environment"].endswith("no land or shore buildings found")


def test_a_field_may_go_on_in_the_next_line() -> None:
    said = read(lines(SHIPS).replace("bright as the sea", "bright\n  as the sea"))
    assert said.fields == SHIPS


def test_the_rationale_is_kept() -> None:
    assert read(whole()).rationale == {layer: f"About {layer}." for layer in LAYERS}
    assert read(lines(SHIPS)).rationale == {}
    assert read(
        json.dumps({"rationale": {"sar_theory": "a\x00b", "other": 1}, "fields": SHIPS})
    ).rationale == {"sar_theory": "a b"}


def test_a_number_is_taken_for_its_text() -> None:
    assert read(whole(SHIPS | {"Count": 3})).fields["Count"] == "3"


def test_terrain_has_its_own_fields() -> None:
    assert tuple(read(whole(CITY_FIELDS), CITY).fields) == TERRAIN_FIELDS
    assert "missing" in complaint(whole(SHIPS), CITY)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("   \n\t", "empty"),
        ("<think>only thoughts</think>", "empty"),
        ("The image shows a port with several ships.", "wanted form"),
        ("{}", "wanted form"),
        ("[1, 2, 3]", "wanted form"),
        ("<html><body>502 Bad Gateway</body></html>", "wanted form"),
        (whole()[:-200], "breaks off"),
        (json.dumps({"fields": SHIPS}, indent=2)[:-20], "breaks off"),
        (lines(SHIPS)[:-80], "The field Environment is missing"),
        (whole({k: v for k, v in SHIPS.items() if k != "Size"}), "The field Size is missing"),
        (json.dumps({"fields": {"Count": "Three ships."}}), "and 4 more are missing"),
        (whole(SHIPS | {"Size": None}), "The field Size is not a plain text"),
        (whole(SHIPS | {"Size": {"length": 150}, "Region": []}), "Size, Region are not a plain text"),
        (whole(SHIPS | {"Feature": ""}), "The field Feature is empty"),
        (whole(SHIPS | {"Feature": "N/A"}), "The field Feature is empty or a placeholder"),
        (whole(SHIPS | {"Feature": "..."}), "The field Feature is empty or a placeholder"),
        (whole(SHIPS | {"Feature": "string"}), "The field Feature is empty or a placeholder"),
        (whole(SHIPS | {"Feature": "Bright\x07 returns."}), "control"),
        (whole(SHIPS | {"Feature": "Bright\u202e returns."}), "control"),
        (whole(SHIPS | {"Feature": "Bright \ud800 returns."}), "control"),
        (whole(SHIPS | {"Feature": "\U000e0041\U000e0042 bright returns."}), "control"),
        (whole(SHIPS | {"Region": "sea " * (MAX_FIELD_WORDS + 1)}), "too long"),
        (whole(SHIPS | {"Region": "s" * 500}), "too long"),
        ("x" * (MAX_ANSWER_CHARS_READ + 1), "far too long"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I cannot view images. Please describe it to me.", "refusal"),
        (whole(SHIPS | {"Count": "I'm unable to see the image."}), "refusal"),
        (whole(SHIPS | {"Category": "As an AI language model I cannot tell."}), "refusal"),
    ],
)
def test_a_bad_answer_gets_a_complaint_that_says_what_is_wrong(text: str, said: str) -> None:
    reason = complaint(text)
    assert said in reason
    assert reason.isascii()
    assert reason.isprintable()


FOREIGN = {
    "Chinese": [
        "三艘船。",
        "左上角。",
        "明亮的长条形回波。",
        "约150米长。",
        "中型货船。",
        "分散。",
        "开阔海面。",
        "没有海岸。",
    ],
    "Russian": [
        *(
            "Три судна.",
            "В левом верхнем углу.",
            "Яркие вытянутые отметки.",
            "Около 150 м.",
            "Грузовые суда.",
        ),
        *("Рассеяны.", "В открытом море.", "Берега не видно."),
    ],
    "German": [
        *(
            "Drei Schiffe.",
            "Zwei sind oben links und eines ist rechts.",
            "Helle und längliche Ziele auf dem Wasser.",
        ),
        *("Etwa 150 m lang und 25 m breit.", "Mittlere Frachter, der Typ ist nicht zu erkennen."),
        *("Verstreut, mit 500 m Abstand.", "Auf dem offenen Wasser vor dem Hafen.", "Kein Ufer im Bild."),
    ],
    "Spanish": [
        *(
            "Tres barcos.",
            "Dos en la parte superior izquierda y uno a la derecha.",
            "Ecos brillantes y alargados.",
        ),
        *("Unos 150 m de largo por 25 m de ancho.", "Cargueros medianos.", "Dispersos, sin orden."),
        *("En el agua, cerca del puerto.", "Mar abierto, no se ve tierra."),
    ],
    "French": [
        *(
            "Trois navires.",
            "Deux en haut à gauche et un à droite.",
            "Échos brillants et allongés sur la mer.",
        ),
        *("Environ 150 m de long.", "Cargos moyens dans le port.", "Dispersés, sans ordre."),
        *("Sur la mer, près du port de Long Beach.", "Eau libre, pas de terre."),
    ],
    "Indonesian": [
        *(
            "Tiga kapal.",
            "Dua di kiri atas dan satu di kanan.",
            "Pantulan terang memanjang.",
            "Sekitar 150 m.",
        ),
        *(
            "Kapal kargo sedang.",
            "Tersebar.",
            "Di perairan terbuka dekat pelabuhan.",
            "Pantai tidak terlihat.",
        ),
    ],
}


@pytest.mark.parametrize("language", FOREIGN)
def test_another_language_is_sent_back(language: str) -> None:
    foreign = dict(zip(TARGET_FIELDS, FOREIGN[language], strict=True))
    assert "not in English" in complaint(whole(foreign))


def test_terse_english_with_foreign_names_is_english() -> None:
    assert is_english(SHIPS.values())
    assert is_english(["two", "left", "bright points", "60 m", "tankers", "in a line", "sea", "none"])
    names = ["Saint-Hilaire-de-la-Côte", "Playa del Rey", "Rio de Janeiro", "Val-de-Marne"]
    assert is_english([f"Near {name}, open land." for name in names], names=names)
    assert is_english(line.split(": ")[1] for line in PAPER.splitlines())
    assert is_english(["Port of Zhoushan (舟山), three ships at anchor"])
    assert is_english([])


@pytest.mark.parametrize(
    ("changed", "flags"),
    [
        ({"Count": "Four ships."}, ()),
        ({"Count": "About thirty ships."}, ("count_contradicts_evidence",)),
        ({"Count": "No ships."}, ("count_contradicts_evidence",)),
        ({"Count": "Ships, not counted."}, ()),
        ({"Size": "About 900 m long."}, ("size_contradicts_evidence",)),
        ({"Size": "5 to 8 m long."}, ("size_contradicts_evidence",)),
        ({"Size": "0.1 km"}, ()),
        ({"Location": "In the lower right."}, ()),  # beside the region "right", where one is
        ({"Location": "In the upper right."}, ()),
    ],
)
def test_gross_contradictions_are_flagged_and_kept(changed: dict[str, str], flags: tuple[str, ...]) -> None:
    answer = read(whole(SHIPS | changed))
    assert answer.flags == flags
    assert answer.fields == SHIPS | changed


def test_a_place_on_the_other_side_is_flagged() -> None:
    evidence = replace(SEA.evidence, targets=SEA.evidence.targets[:1])
    context = replace(SEA, evidence=evidence)
    assert evidence.targets[0].row < 100
    assert evidence.targets[0].col < 100
    far = whole(SHIPS | {"Count": "One ship.", "Location": "One in the lower right."})
    assert read(far, context).flags == ("location_contradicts_evidence",)
    far = whole(SHIPS | {"Count": "One ship.", "Location": "Bottom-center."})
    assert read(far, context).flags == ("location_contradicts_evidence",)
    near = whole(SHIPS | {"Count": "One ship.", "Location": "One left of the upper centre."})
    assert read(near, context).flags == ()


def test_more_ships_than_measured_are_believed_at_quays() -> None:
    line = Waterline(length_px=400, straight_px=300, quay_px=200, bright_px=100, orientation_deg=0)
    many = whole(SHIPS | {"Count": "Twelve ships."})
    assert read(many).flags == ("count_contradicts_evidence",)
    assert read(many, replace(SEA, evidence=replace(SEA.evidence, waterline=line))).flags == ()


def test_water_against_the_evidence() -> None:
    def flags(text: str, water: float) -> tuple[str, ...]:
        shares = {"water": water, "smooth": 0.0, "open_land": 0.1, "built_up": 0.9 - water}
        cover = replace(CITY.evidence.cover, fractions=shares)
        context = replace(CITY, evidence=replace(CITY.evidence, cover=cover))
        return read(whole(CITY_FIELDS | {"Water": text}), context).flags

    assert flags("None visible.", 0.4) == ("water_contradicts_evidence",)
    assert flags("No open water.", 0.4) == ("water_contradicts_evidence",)
    assert flags("Open water in the south.", 0.4) == ()
    assert flags("A large lake in the centre.", 0.0) == ("water_contradicts_evidence",)
    assert flags("No lake or sea.", 0.0) == ()
    assert flags("A narrow canal, perhaps.", 0.0) == ()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Three ships.", 3),
        ("12 ships", 12),
        ("A single ship", 1),
        ("A ship", 1),
        ("About a dozen ships", 12),
        ("No more than three ships", 3),
        ("No ships", 0),
        ("none", 0),
        ("Ships", None),
        ("9" * 40, 999_999_999),
    ],
)
def test_counts_are_read_from_words_and_figures(text: str, count: int | None) -> None:
    assert stated_count(text) == count


@given(st.text())
def test_no_text_raises(text: str) -> None:
    assert isinstance(read_answer(text, SEA), Answer | InvalidAnswer)


@given(st.data(), st.sampled_from([None, 1]), st.text(max_size=5))
def test_an_object_that_breaks_off_is_never_taken_for_whole(
    data: st.DataObject, indent: int | None, end: str
) -> None:
    text = json.dumps({"rationale": {}, "fields": SHIPS}, indent=indent)
    answer = read_answer(text[: data.draw(st.integers(0, len(text)))] + end, SEA)
    if isinstance(answer, Answer):
        assert answer.fields == SHIPS  # nothing but the last brackets is missing


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(TARGET_FIELDS), inner)
    ),
    max_leaves=10,
)


@given(
    json_values
    | st.fixed_dictionaries({"fields": st.fixed_dictionaries(dict.fromkeys(TARGET_FIELDS, json_values))})
)
def test_no_json_raises(value: Any) -> None:
    text = json.dumps(value)
    answer = read_answer(text, SEA)
    if isinstance(answer, Answer):
        assert tuple(answer.fields) == FIELDS["marine_target"]
        assert all(said.isprintable() and said == " ".join(said.split()) for said in answer.fields.values())


@given(
    st.fixed_dictionaries(
        dict.fromkeys(
            TARGET_FIELDS, st.text(alphabet="abc dé.:{}\"'*-\n\t\u200b\u2028三", min_size=1, max_size=60)
        )
    )
)
def test_json_and_lines_never_mix_up_fields(fields: dict[str, str]) -> None:
    answer = read_answer(json.dumps({"fields": fields}), SEA)
    if isinstance(answer, Answer):
        for field, text in answer.fields.items():
            assert text in " ".join(fields[field].split())


def test_deep_nesting_and_many_braces_end_soon() -> None:
    for text in (
        "[" * 20_000,
        '{"a":' * 8_000,
        "{" * 49_000,
        "<think>" * 7_000,
        "Count" * 9_000,
        "*" * 49_000,
    ):
        assert isinstance(read_answer(text, SEA), InvalidAnswer)
