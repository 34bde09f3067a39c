"""Gross contradictions between an answer and the measured evidence, by name.

These are large errors only: a count several times too high, ships of 900 m where the longest measured target
has
60 m, a lake where no water is. The evidence has errors too, so the answer stays unchanged.
"""

import re
from collections.abc import Mapping

from fusar_klip.texts.hcot.prompts.tile_data import targets_of
from fusar_klip.texts.measure.evidence import Target
from fusar_klip.texts.measure.evidence_store import TileContext
from fusar_klip.texts.phrases import region_name, region_of

_NAMED_NUMBERS = (
    *(("no", 0), ("none", 0), ("zero", 0), ("one", 1), ("single", 1), ("two", 2)),
    *(("pair", 2), ("three", 3), ("four", 4), ("five", 5), ("six", 6), ("seven", 7), ("eight", 8)),
    *(("nine", 9), ("ten", 10), ("eleven", 11), ("twelve", 12), ("dozen", 12), ("thirteen", 13)),
    *(("fourteen", 14), ("fifteen", 15), ("twenty", 20), ("thirty", 30), ("forty", 40), ("fifty", 50)),
)
_NUMBER_WORDS: Mapping[str, int] = dict(_NAMED_NUMBERS)
_NUMBER = re.compile(rf"\b(?:\d+|{'|'.join(_NUMBER_WORDS)})\b(?! (?:more|fewer|less)\b)", re.IGNORECASE)
_ARTICLE = re.compile(r"\s*an?\b", re.IGNORECASE)
_REGIONS = tuple(region_name(i) for i in range(9))
_REGION = re.compile(rf"\b(?:{'|'.join(sorted(_REGIONS, key=len, reverse=True))})\b")
_METRES = re.compile(
    r"(\d+(?:\.\d+)?)\s*(?:(?:to|-|–|by|x|×|and|m to)\s*(\d+(?:\.\d+)?)\s*)?(?:m|metres?|meters?)\b",
    re.IGNORECASE,
)
_NO_WATER = re.compile(
    r"\bno (?:\w+ )?(?:water|sea|lake|river)\b|\bnone\b|\bwithout (?:\w+ )?water\b|\bwater (?:is )?absent\b",
    re.I,
)
_OPEN_WATER = re.compile(r"\b(?:open water|sea|ocean|bay|lake|reservoir|lagoon)\b", re.I)
_NOT_THERE = re.compile(r"\b(?:no|none|not|without|absent)\b", re.I)

# Far outside the usual disagreement of detector and reader. The detector misses ships at quays and most
# parked aircraft (docs/texts.md), so a higher count is no contradiction there.
_TIMES = 2.0
_TIMES_WHERE_MISSED = 4.0
_FEW = 3
_SIZE_TIMES = 3.0
_SIZE_SLACK_PX = 4.0
_WATER_SEEN = 0.2
_WATER_ABSENT = 0.005
_FEW_TARGETS = 3


def contradictions(fields: Mapping[str, str], context: TileContext) -> tuple[str, ...]:
    """Return the names of gross contradictions with the evidence, in a fixed order; () if there are none."""
    if context.task == "terrain":
        found = {"water_contradicts_evidence": _water(fields["Water"], context)}
    else:
        targets = targets_of(context)
        found = {
            "count_contradicts_evidence": _count(fields["Count"], len(targets), context),
            "location_contradicts_evidence": _location(fields["Location"], targets, context),
            "size_contradicts_evidence": _size(fields["Size"], targets, context),
        }
    return tuple(name for name, contradicts in found.items() if contradicts)


def stated_count(text: str) -> int | None:
    """Return the first number of a text, in figures or words; None if it has none."""
    match = _NUMBER.search(text)
    if match is None:
        return 1 if _ARTICLE.match(text) else None
    word = match[0].lower()
    return _NUMBER_WORDS[word] if word in _NUMBER_WORDS else int(word[:9])


def _count(text: str, measured: int, context: TileContext) -> bool:
    stated = stated_count(text)
    if stated is None:
        return False
    if stated == 0:
        return measured >= 2
    line = context.evidence.waterline
    missed = context.task == "ground_target" or (line is not None and line.quay_px > 0)
    times = _TIMES_WHERE_MISSED if missed else _TIMES
    return stated > times * measured + _FEW or stated < measured / _TIMES - _FEW


def _location(text: str, targets: list[Target], context: TileContext) -> bool:
    """Return whether no named region holds a target or is adjacent to one that does."""
    named = [divmod(_REGIONS.index(name), 3) for name in _REGION.findall(_normalised(text))]
    if not 0 < len(targets) <= _FEW_TARGETS or not named:
        return False
    held = [divmod(region_of(t.row, t.col, context.height, context.width), 3) for t in targets]
    return all(max(abs(a - c), abs(b - d)) > 1 for a, b in named for c, d in held)


def _normalised(text: str) -> str:
    normalised = text.lower().replace("-", " ")
    for word, canonical in (
        ("top", "upper"),
        ("bottom", "lower"),
        ("center", "centre"),
        ("middle", "centre"),
    ):
        normalised = re.sub(rf"\b{word}\b", canonical, normalised)
    return normalised


def _size(text: str, targets: list[Target], context: TileContext) -> bool:
    stated = [float(size) for pair in _METRES.findall(text) for size in pair if size]
    spacing = context.gsd_m
    if not stated or not targets or spacing is None:
        return False
    slack = _SIZE_SLACK_PX * spacing
    longest = max(t.length_px for t in targets) * spacing
    return max(stated) > _SIZE_TIMES * longest + slack or max(stated) < longest / _SIZE_TIMES - slack


def _water(text: str, context: TileContext) -> bool:
    fractions = context.evidence.cover.fractions
    if fractions["water"] >= _WATER_SEEN:
        return _NO_WATER.search(text) is not None
    if fractions["water"] + fractions["smooth"] <= _WATER_ABSENT:
        return _OPEN_WATER.search(text) is not None and _NOT_THERE.search(text) is None
    return False
