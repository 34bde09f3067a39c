"""Splits captions into sentences, which are the segments of a caption, and joins them again."""

import re
from collections.abc import Sequence

import numpy as np

_END = re.compile(r"(?<=[.!?])\s+|\n+")
# A full stop after these does not end a sentence.
_ABBREVIATIONS = {"approx", "ca", "cf", "e.g", "etc", "fig", "i.e", "no", "nr", "resp", "st", "vs"}


def split_sentences(caption: str) -> list[str]:
    """Return the sentences of a caption, unchanged, without the white space between them."""
    sentences: list[str] = []
    continues = False
    for piece in _END.split(caption):
        piece = piece.strip()
        if not piece:
            continue
        # The captions of RSICD have a space before the full stop.
        if sentences and (continues or not any(letter.isalnum() for letter in piece)):
            sentences[-1] += f" {piece}"
        else:
            sentences.append(piece)
        continues = _is_abbreviation(sentences[-1])
    return sentences


def sentences_of(cell: object) -> list[str]:
    """Return the sentences of a table's cell: a caption, or a list of sentences. Other values have none."""
    if isinstance(cell, str):
        return split_sentences(cell)
    if isinstance(cell, (list, tuple, np.ndarray)):
        return [str(part).strip() for part in cell if part is not None and str(part).strip()]
    return []


def join_sentences(sentences: Sequence[str]) -> str:
    """Return the caption that consists of these sentences."""
    return " ".join(sentences)


def _is_abbreviation(sentence: str) -> bool:
    last = sentence.split()[-1]
    if not last.endswith("."):
        return False
    word = last.removesuffix(".").lstrip("(\"'").lower()
    return word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha())
