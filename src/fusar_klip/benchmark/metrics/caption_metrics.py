"""BLEU-4 and CIDEr-D of captions, as pycocoevalcap computes them, and METEOR and SPICE through it.

BLEU and CIDEr are ours, because intervals need what each image adds, and because pycocoevalcap is not
everywhere; they follow its `bleu_scorer.py` and `cider_scorer.py` (tylin/coco-caption) to the constants.
METEOR and SPICE need pycocoevalcap and Java, and SPICE a CoreNLP download beside it: where something is
missing, they are left out and the report says so. Of METEOR, Java counts, and the score of the sums is ours.

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

from fusar_klip.benchmark.metrics.scores import Statistic, mean_of_sums

Floats = NDArray[np.float64]
Tokens = list[str]
Ngrams = Counter[tuple[str, ...]]

logger = logging.getLogger(__name__)

ORDER = 4
_SIGMA = 6.0
_SMALL, _TINY = 1e-9, 1e-15
# Brackets as the PTB tokenizer writes them. pycocoevalcap means to leave some out, but looks for them in
# capitals where all is in lower case, so that they stay words.
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
# What pycocoevalcap leaves out of the words. Several marks in a row ("?!") are a word of their own, and stay.
_DROPPED = re.compile(r"\.\.\.|(?<![?!])[?!](?![?!])|[.,:;'`\"]|--+|(?<!\w)-|-(?!\w)")
_MARKS = re.compile(r"(?<=[^\s?!])(?=[?!]{2})")
_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
_ALONE = re.compile(r"(?<=\d)%|[$#*]")
_CANNOT = re.compile(r"\bcannot\b")
_ABBREVIATION = re.compile(r"[a-z](?:\.[a-z])+\.?")
# METEOR 1.5, English: weights of the four stages, of content words against function words, of recall, and of
# pieces.
_STAGES = np.array([1.0, 0.6, 0.8, 0.6])
_CONTENT, _RECALL, _FRAGMENTS, _PENALTY = 0.75, 0.85, 0.2, 0.6
_COUNTS = 23
"""Numbers that METEOR's Java gives for a caption."""


def tokenise(caption: str) -> Tokens:
    """Return lower-case words without punctuation, as the PTB tokenizer gives them for plain sentences.

    "3.5" and "left-hand" are one word, "70%" is two, a bracket is the word "-lrb-". Its longer lists
    (abbreviations such as "no.", fractions, currencies) are not ours.
    """
    text = _CANNOT.sub("can not", _ALONE.sub(r" \g<0> ", caption.lower().replace("’", "'")))
    text = _CONTRACTION.sub(lambda found: f" {found[1].replace(chr(39), chr(0))}", _MARKS.sub(" ", text))
    text = "".join(f" {mark} " if mark in _BRACKETS else mark for mark in text)
    words = []
    for word in text.split():
        if word in _BRACKETS:
            words.append(_BRACKETS[word])
        # Inside a number, points and commas stay.
        elif re.fullmatch(r"\W*\d+(?:[.,:]\d+)*\W*", word):
            words.append(word.strip(".?!,:;'`\""))
        elif _ABBREVIATION.fullmatch(bare := word.strip(",:;?!'`\"")):
            words.append(bare)
        else:
            words += _DROPPED.sub(" ", word).split()
    return [word.replace(chr(0), "'") for word in words if word]


def bleu_statistics(written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Floats:
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
    """Return BLEU-4 of (B, 10) sums of `bleu_statistics`, (B,) in 0 to 1."""
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


def java_metrics(
    written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[dict[str, tuple[Floats, Statistic]], list[str]]:
    """Return what each image adds to METEOR and SPICE, and why one of them is missing.

    Returns:
        By name, (N, M) sums and the statistic of them that is the score; and sentences.
    """
    if importlib.util.find_spec("pycocoevalcap") is None:
        return {}, ["METEOR and SPICE are left out: pycocoevalcap is not installed."]
    if not java_available():
        return {}, ["METEOR and SPICE are left out: there is no Java."]
    truths = [[" ".join(words) for words in each] for each in references]
    given = [" ".join(words) for words in written]
    parts: dict[str, tuple[Floats, Statistic]] = {}
    missing = []
    for name, jars, measure in (
        ("meteor", "meteor-*.jar", meteor_statistics),
        ("spice", "lib/stanford-corenlp-*.jar", spice_statistics),
    ):
        module: Any = importlib.import_module(f"pycocoevalcap.{name}.{name}")
        if not any(Path(module.__file__).parent.glob(jars)):
            missing.append(f"{name.upper()} is left out: {jars} is not beside pycocoevalcap's {name}.")
            continue
        scorer = getattr(module, name.capitalize())()
        try:
            parts[name] = measure(scorer, given, truths), meteor if name == "meteor" else mean_of_sums
        except (OSError, ValueError, IndexError) as error:  # Java has ended, or answers in words
            missing.append(f"{name.upper()} is left out: Java's answer cannot be read ({error}).")
        finally:
            _end_process(scorer)
    return parts, missing


def java_available() -> bool:
    """Tell whether there is a Java to call."""
    return shutil.which("java") is not None


def meteor(sums: Floats) -> Floats:
    """Return METEOR 1.5 of (B, 23) sums of what its Java counts for each image, (B,) in 0 to 1.

    METEOR of many captions is that of their sums, not the mean of theirs, so a resample needs the sums. The
    parameters are those of English (`-l en`), with which pycocoevalcap calls it; tests compare with Java.
    """
    (own, other), (own_function, other_function) = sums[:, :2].T, sums[:, 2:4].T
    # By stage (same word, stem, synonym, paraphrase): content words of caption and reference, then function
    # words of both.
    stages = sums[:, 4:20].reshape(-1, len(_STAGES), 4)
    matched = np.einsum("s,bsw->bw", _STAGES, _CONTENT * stages[..., :2] + (1 - _CONTENT) * stages[..., 2:])
    chunks, matched_words = sums[:, 20], sums[:, 21:].mean(axis=1)
    lengths = np.stack(
        [
            _CONTENT * (all_words - function) + (1 - _CONTENT) * function
            for all_words, function in ((own, own_function), (other, other_function))
        ],
        axis=1,
    )
    precision, recall = (matched / np.maximum(lengths, _TINY)).T
    both = (1 - _RECALL) * recall + _RECALL * precision
    mean = precision * recall / np.maximum(both, _TINY)
    pieces = (chunks / np.maximum(matched_words, 1)) ** _FRAGMENTS
    return np.asarray(mean * (1 - _PENALTY * pieces))


def meteor_statistics(scorer: Any, written: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """Return (N, 23) counts; a caption that is its reference has no pieces, in sums neither."""
    counts = np.array(
        [
            [float(number) for number in scorer._stat(said, truths).split()]
            for said, truths in zip(written, references, strict=True)
        ]
    ).reshape(len(written), _COUNTS)
    same = (counts[:, 20] == 1) & (counts[:, 21:] == counts[:, :2]).all(axis=1)
    counts[same, 20] = 0
    return counts


def spice_statistics(scorer: Any, written: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """Return (N, 2): each image's F-score, and 1."""
    truths = {n: list(each) for n, each in enumerate(references)}
    _, scores = scorer.compute_score(truths, {n: [said] for n, said in enumerate(written)})
    return np.array([[each["All"]["f"], 1.0] for each in scores])


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
