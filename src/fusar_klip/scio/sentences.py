"""Captions as segments: a caption's sentences, and the caption that is put together from them again."""

import re
from collections.abc import Sequence

_END = re.compile(r"(?<=[.!?])\s+|\n+")
# A full stop after these does not end a sentence.
_ABBREVIATIONS = {"approx", "ca", "cf", "e.g", "etc", "fig", "i.e", "no", "nr", "resp", "st", "vs"}


def split_sentences(caption: str) -> list[str]:
    """Return the sentences of a caption, as they are spelled there, without the white space between them."""
    sentences: list[str] = []
    resuming = False
    for piece in _END.split(caption):
        piece = piece.strip()
        if not piece:
            continue
        # RSICD's captions have a space before their full stop.
        if sentences and (resuming or not any(letter.isalnum() for letter in piece)):
            sentences[-1] += f" {piece}"
        else:
            sentences.append(piece)
        resuming = _is_abbreviation(sentences[-1])
    return sentences


def join_sentences(sentences: Sequence[str]) -> str:
    """Return the caption of these sentences."""
    return " ".join(sentences)


def _is_abbreviation(sentence: str) -> bool:
    last = sentence.split()[-1]
    if not last.endswith("."):
        return False
    word = last.removesuffix(".").lstrip("(\"'").lower()
    return word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha())
