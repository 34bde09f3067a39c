"""Whether a text is English: by script and by small words, as eight terse phrases about an image allow.

Not a language identifier: it tells English from not English, and of a few words says English.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable

_MOST_OTHER_SCRIPT = 0.1  # of the letters: a place may stand in its own script beside its English name
# Of the words: `measure`'s sentences and the paper's texts have 0.4 and more, German, French, Spanish,
# Indonesian or Turkish ones under 0.1.
_LEAST_ENGLISH = 0.2
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


def is_english(texts: Iterable[str], *, names: Collection[str] = ()) -> bool:
    """Tell whether texts, taken together, are in English.

    Args:
        texts: The texts.
        names: Of places, whose words count for no language.
    """
    whole = " ".join(texts)
    letters = [c for c in whole if c.isalpha()]
    other = sum(not unicodedata.name(c, "").startswith("LATIN") for c in letters)
    if other > _MOST_OTHER_SCRIPT * len(letters):
        return False
    ignored = {word for name in names for word in _words(name)}
    words = [word for word in _words(whole) if word not in ignored]
    return len(words) < _FEW_WORDS or sum(word in _ENGLISH for word in words) >= _LEAST_ENGLISH * len(words)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
