"""BLEU-4 and CIDEr-D of captions, as pycocoevalcap computes them, and METEOR and SPICE through it.

BLEU and CIDEr are ours, because intervals need what each image adds, and because pycocoevalcap is not
everywhere; they follow its `bleu_scorer.py` and `cider_scorer.py` (tylin/coco-caption) to the constants.
METEOR and SPICE need pycocoevalcap and Java, and SPICE a CoreNLP download beside it: where something is
missing, they are left out and the report says so.

Letters: N images, B resamples.
"""

import importlib.util
import logging
import math
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Tokens = list[str]
Ngrams = Counter[tuple[str, ...]]

logger = logging.getLogger(__name__)

ORDER = 4
_SIGMA = 6.0
_SMALL, _TINY = 1e-9, 1e-15
# What the PTB tokenizer of pycocoevalcap leaves out of its words.
_DROPPED = re.compile(r"\.\.\.|[.?!,:;'`\"()\[\]{}]|--+|(?<!\w)-|-(?!\w)")
_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
_UNITS = re.compile(r"(?<=\d)%")


def tokenise(caption: str) -> Tokens:
    """Return lower-case words without punctuation, as the PTB tokenizer gives them for plain sentences.

    "3.5" and "left-hand" are one word, "70%" is two.
    """
    text = _UNITS.sub(" % ", caption.lower().replace("’", "'"))
    text = _CONTRACTION.sub(lambda found: f" {found[1].replace(chr(39), chr(0))}", text)
    words = []
    for word in text.split():
        # Inside a number, points and commas stay.
        if re.fullmatch(r"\W*\d+(?:[.,:]\d+)*\W*", word):
            word = word.strip(".?!,:;'`\"()[]{}")
            words.append(word)
        else:
            words += _DROPPED.sub(" ", word).split()
    return [word.replace(chr(0), "'") for word in words if word]


def bleu_parts(written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Floats:
    """Return (N, 10): matches for n = 1 to 4, n-grams written, the caption's length, and the reference's.

    The reference's length is that nearest to the caption's, the shorter of two.
    """
    rows = []
    for words, truths in zip(written, references, strict=True):
        most: Ngrams = Counter()
        for truth in truths:
            most |= _ngrams(truth)
        own = _ngrams(words)
        matches = [0] * ORDER
        for ngram, count in own.items():
            matches[len(ngram) - 1] += min(count, most[ngram])
        guesses = [max(0, len(words) - n) for n in range(ORDER)]
        nearest = min((abs(len(truth) - len(words)), len(truth)) for truth in truths)[1]
        rows.append([*matches, *guesses, len(words), nearest])
    return np.array(rows, dtype=np.float64)


def bleu4(sums: Floats) -> Floats:
    """Return BLEU-4 of (B, 10) sums of `bleu_parts`, (B,) in 0 to 1."""
    matches, guesses = sums[:, :ORDER], sums[:, ORDER : 2 * ORDER]
    precision = np.prod((matches + _TINY) / (guesses + _SMALL), axis=1) ** (1 / ORDER)
    ratio = (sums[:, -2] + _TINY) / (sums[:, -1] + _SMALL)
    return np.asarray(precision * np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0))


def cider(written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Floats:
    """Return (N,) CIDEr-D of each image, 0 to 10; word weights come from the references of all N images."""
    of_truths = [[_ngrams(truth) for truth in truths] for truths in references]
    documents: Ngrams = Counter()
    for truths in of_truths:
        documents.update({ngram for truth in truths for ngram in truth})
    everything = math.log(len(references))

    def weighted(ngrams: Ngrams) -> tuple[list[dict[tuple[str, ...], float]], list[float]]:
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDER)]
        for ngram, count in ngrams.items():
            rarity = everything - math.log(max(1, documents[ngram]))
            vectors[len(ngram) - 1][ngram] = count * rarity
        return vectors, [math.sqrt(sum(v * v for v in vector.values())) for vector in vectors]

    scores = []
    for words, truths in zip(written, of_truths, strict=True):
        own_ngrams = _ngrams(words)
        own, own_norms = weighted(own_ngrams)
        total = 0.0
        for truth in truths:
            theirs, norms = weighted(truth)
            # pycocoevalcap takes the number of 2-grams for a caption's length.
            delta = _two_grams(own_ngrams) - _two_grams(truth)
            penalty = math.exp(-(delta**2) / (2 * _SIGMA**2))
            for n in range(ORDER):
                shared = sum(
                    min(weight, theirs[n].get(ngram, 0.0)) * theirs[n].get(ngram, 0.0)
                    for ngram, weight in own[n].items()
                )
                if own_norms[n] and norms[n]:
                    shared /= own_norms[n] * norms[n]
                total += shared * penalty
        scores.append(10.0 * total / ORDER / len(truths))
    return np.array(scores, dtype=np.float64)


def java_scores(
    written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[dict[str, tuple[float, Floats]], list[str]]:
    """Return METEOR and SPICE, each with its value and each image's, and why one of them is missing."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        return {}, ["METEOR and SPICE are left out: pycocoevalcap is not installed."]
    if shutil.which("java") is None:
        return {}, ["METEOR and SPICE are left out: there is no Java."]
    truths = {n: [" ".join(words) for words in each] for n, each in enumerate(references)}
    given = {n: [" ".join(words)] for n, words in enumerate(written)}
    scores: dict[str, tuple[float, Floats]] = {}
    missing = []
    for name, jars in (("meteor", "meteor-*.jar"), ("spice", "lib/stanford-corenlp-*.jar")):
        module: Any = importlib.import_module(f"pycocoevalcap.{name}.{name}")
        if not any(Path(module.__file__).parent.glob(jars)):
            missing.append(f"{name.upper()} is left out: {jars} is not beside pycocoevalcap's {name}.")
            continue
        scorer = getattr(module, name.capitalize())()
        try:
            value, each = scorer.compute_score(truths, given)
        except (OSError, ValueError) as error:  # Java has ended, or answers in words
            missing.append(f"{name.upper()} is left out: Java's answer cannot be read ({error}).")
            continue
        finally:
            _end_process(scorer)
        single = [e["All"]["f"] if isinstance(e, dict) else e for e in each]
        scores[name] = float(value), np.array(single, dtype=np.float64)
    return scores, missing


def _end_process(scorer: Any) -> None:
    """Close the pipes to METEOR's Java, which pycocoevalcap leaves open; SPICE has none by then."""
    process: subprocess.Popen[bytes] | None = getattr(scorer, "meteor_p", None)
    if process is not None:
        process.kill()
        process.communicate()


def _ngrams(words: Sequence[str]) -> Ngrams:
    return Counter(
        tuple(words[start : start + n]) for n in range(1, ORDER + 1) for start in range(len(words) - n + 1)
    )


def _two_grams(ngrams: Ngrams) -> int:
    return sum(count for ngram, count in ngrams.items() if len(ngram) == 2)
