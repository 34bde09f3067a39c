"""Parses and checks the answers of a language model: fields, or the reason for a repair request.

It accepts the JSON of `prompts.schemas`, bare, fenced or inside other text, and the paper's "Field: text"
lines. Contradictions with the measured evidence are flagged; the text stays unchanged, because evidence has
errors too.
"""

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fusar_klip.catalog import FIELDS
from fusar_klip.texts.hcot.contradictions import contradictions
from fusar_klip.texts.hcot.prompts.schemas import LAYERS
from fusar_klip.texts.measure.evidence_store import TileContext
from fusar_klip.texts.phrases import number

MAX_ANSWER_CHARS_READ = 50_000
MAX_FIELD_WORDS = 40
"""Longest field, in words. All fields share the text encoder's 160 tokens; the prompt asks for 15 words."""
_MAX_CHARS = 400
_MAX_RATIONALE_CHARS = 2_000
_MAX_FIELDS_NAMED = 3  # in a repair request, which has to stay short

_END_OF_THOUGHT = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\bi(?:['’]m| am) (?:sorry|unable|not able|afraid)\b"
    r"|\bi (?:can['’]?t|cannot|can not|won['’]t|will not|do not|don['’]t) "
    r"(?:assist|help|see|view|access|process|analy[sz]e|describe|identify|comply|provide|have)\b"
    r"|\bas an ai\b|\blanguage model\b|\bcontent polic(?:y|ies)\b"
    r"|\bno image (?:is|was|has been)? ?(?:provided|attached|given|visible)\b"
    r"|\bunable to (?:assist|help|view|see|access|process|analy[sz]e|comply)\b",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"(?:string|text|field|answer|todo|tbd|n/?a|null|undefined|lorem ipsum.*|\W*)\W*", re.I
)
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn"))

_MAX_OTHER_SCRIPT = 0.1  # of the letters: a place may stand in its own script beside its English name
# Of the words: `measure`'s sentences and the paper's texts have 0.4 and more, German, French, Spanish,
# Indonesian or Turkish ones under 0.1.
_MIN_ENGLISH = 0.2
_FEW_WORDS = 8
_WORD = re.compile(r"[^\W\d_]+")
_SMALL_WORDS = """
    a about across along among an and any are around as at away between both bright building buildings
    built but by center centre clear coast compact dark dense each edge edges even field fields for from
    ground has have image in into is it its land large left length long lower many medium middle more
    mostly narrow near no none not of on one only open or other over part probably regular right river
    road roads scattered sea separate several shape ship ships shore short side single small some straight
    strip target targets than that the there this three to together toward towards two up upper urban
    vessel vessels very visible water which wide width with within without east west north south eastern
    western northern southern four five six seven eight nine ten
"""
_ENGLISH = frozenset(_SMALL_WORDS.split())


@dataclass(frozen=True)
class Answer:
    """A usable answer.

    Attributes:
        fields: The sentence of each field, in the order of `catalog.FIELDS`, each on one line.
        rationale: The rationale of each layer that has one.
        flags: Names of gross contradictions with the evidence, such as "count_contradicts_evidence".
    """

    fields: dict[str, str]
    rationale: dict[str, str]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class InvalidAnswer:
    """An answer that is not usable.

    Attributes:
        reason: A sentence for the repair request; it quotes nothing of the answer.
    """

    reason: str


def read_answer(text: str, context: TileContext) -> Answer | InvalidAnswer:
    """Parse and check one answer; the result is deterministic, and no text raises an error."""
    if len(text) > MAX_ANSWER_CHARS_READ:
        count = number(len(FIELDS[context.task]))
        return InvalidAnswer(f"The answer is far too long: at most 15 words for each of the {count} fields.")
    text = _END_OF_THOUGHT.split(text)[-1].strip("\ufeff \t\r\n")
    if not text:
        return InvalidAnswer("The answer is empty.")
    wanted = FIELDS[context.task]
    found = _read_json(text, wanted)
    fields, rationale = found if found is not None else (_read_lines(text, wanted), {})
    if not fields and _REFUSAL.search(text):
        return InvalidAnswer(
            "The answer is a refusal. The picture is a radar image of the ground; describe what it shows, "
            "and say in a few words what cannot be told from it."
        )
    if reason := _form_error(fields, wanted):
        return InvalidAnswer(reason)
    sentences = {field: _tidy(fields[field], field) for field in wanted}
    if reason := _sentence_error(sentences, context):
        return InvalidAnswer(reason)
    return Answer(sentences, rationale, contradictions(sentences, context))


def _read_json(text: str, wanted: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]] | None:
    """Return fields and rationale of the object with most fields; of equal ones the last, not a draft."""
    best: tuple[dict[str, Any], dict[str, str]] | None = None
    for value in _objects(text):
        fields = max((_named(inner, wanted) for inner in _dicts(value)), key=len)
        if fields and (best is None or len(fields) >= len(best[0])):
            best = fields, _rationale(value)
    return best


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects inside a text."""
    decoder = json.JSONDecoder(strict=False)
    start = text.find("{")
    tries = 0
    while start >= 0 and tries < 100:
        tries += 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            if isinstance(value, dict):
                yield value
        start = text.find("{", end)


def _dicts(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an object and those inside it, two levels deep; models wrap "fields" in other objects."""
    yield value
    for inner in value.values():
        if isinstance(inner, dict):
            yield inner
            yield from (deeper for deeper in inner.values() if isinstance(deeper, dict))


def _named(value: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
    """Return the wanted fields of an object, however their names are capitalised."""
    by_name = {name.strip().lower(): inner for name, inner in value.items()}
    fields = {field: by_name[field.lower()] for field in wanted if field.lower() in by_name}
    return {field: str(inner) if type(inner) is int else inner for field, inner in fields.items()}


def _rationale(value: Mapping[str, Any]) -> dict[str, str]:
    inner = value.get("rationale")
    if not isinstance(inner, dict):
        return {}
    texts = {layer: inner[layer] for layer in LAYERS if isinstance(inner.get(layer), str)}
    return {layer: _visible(text)[:_MAX_RATIONALE_CHARS] for layer, text in texts.items()}


def _read_lines(text: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Read "Field: text" lines (paper 4.2), with bullets, numbers and emphasis around the names.

    A line without a field name continues the field before it. Of a field that occurs twice the last one
    counts. Names in quotes do not count: they are keys of a truncated JSON object, whose last text is
    incomplete.
    """
    names = "|".join(wanted)
    named = re.compile(rf"[\s>*_#\-•\d.)(]*({names})[*_\s]*[:：][*_\s]*(.*)", re.IGNORECASE)
    canonical = {field.lower(): field for field in wanted}
    fields: dict[str, str] = {}
    current = None
    for line in text.splitlines():
        if match := named.fullmatch(line):
            current = canonical[match[1].lower()]
            fields[current] = match[2]
        elif not line.strip():
            # An empty line ends a field that has a text.
            current = current if current and not fields[current].strip() else None
        elif current:
            fields[current] += f" {line.strip()}"
    return dict(fields)


def _form_error(fields: Mapping[str, Any], wanted: tuple[str, ...]) -> str | None:
    """Return what is wrong with the form of an answer; None if nothing is."""
    count = number(len(wanted))
    if not fields:
        return (
            "The answer is not in the wanted form or breaks off: give one whole JSON object whose key fields "
            f"holds the {count} texts, or {count} lines of the form Field: text for {', '.join(wanted)}."
        )
    if missing := [field for field in wanted if field not in fields]:
        return f"{_fields_are(missing)} missing: give all {count} fields."
    if wrong := [field for field in wanted if not isinstance(fields[field], str)]:
        return f"{_fields_are(wrong)} not a plain text: give each field as one string."
    return None


def _sentence_error(fields: Mapping[str, str], context: TileContext) -> str | None:
    """Return what is wrong with the sentences of an answer; None if nothing is."""
    if empty := [field for field, text in fields.items() if _PLACEHOLDER.fullmatch(text)]:
        return f"{_fields_are(empty)} empty or a placeholder: say what is seen, or that it cannot be told."
    if unseen := [
        f for f, text in fields.items() if any(unicodedata.category(c) in _INVISIBLE for c in text)
    ]:
        return f"{_fields_are(unseen)} not clean: leave out control and invisible characters."
    if long := [
        f for f, text in fields.items() if len(text) > _MAX_CHARS or len(text.split()) > MAX_FIELD_WORDS
    ]:
        return f"{_fields_are(long)} too long: at most 15 words for each field."
    if refused := [field for field, text in fields.items() if _REFUSAL.search(text)]:
        return f"{_fields_are(refused)} a refusal: describe what the radar image shows."
    if not is_english(fields.values(), names=_names(context)):
        return "The answer is not in English: write every field in English."
    return None


def _fields_are(fields: list[str]) -> str:
    named = ", ".join(fields[:_MAX_FIELDS_NAMED])
    more = f" and {len(fields) - _MAX_FIELDS_NAMED} more" if len(fields) > _MAX_FIELDS_NAMED else ""
    return f"The field {named} is" if len(fields) == 1 else f"The fields {named}{more} are"


def _names(context: TileContext) -> list[str]:
    geography = context.geography
    near = [n.place.name for n in (geography.airport, geography.port, geography.city) if n is not None]
    return [name for name in (context.place, context.country, *near) if name]


def _tidy(text: str, field: str) -> str:
    """Return a text on one line, without emphasis around it and without its field's name before it."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = re.sub(rf"^\W*{field}\W*[:：]\s*", "", text, flags=re.IGNORECASE)
    return text.strip("*_`\"' ")


def _visible(text: str) -> str:
    return " ".join("".join(" " if unicodedata.category(c) in _INVISIBLE else c for c in text).split())


def is_english(texts: Iterable[str], *, names: Collection[str] = ()) -> bool:
    """Return whether texts, taken together, are in English, by their script and share of small English words.

    This is no language identification: fewer than 8 words count as English.

    Args:
        texts: The texts.
        names: Names of places, whose words are ignored.
    """
    whole = " ".join(texts)
    letters = [c for c in whole if c.isalpha()]
    other = sum(not unicodedata.name(c, "").startswith("LATIN") for c in letters)
    if other > _MAX_OTHER_SCRIPT * len(letters):
        return False
    ignored = {word for name in names for word in _words(name)}
    words = [word for word in _words(whole) if word not in ignored]
    return len(words) < _FEW_WORDS or sum(word in _ENGLISH for word in words) >= _MIN_ENGLISH * len(words)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
