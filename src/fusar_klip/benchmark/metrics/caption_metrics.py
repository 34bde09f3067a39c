"""BLEU-4 and CIDEr-D of captions, equal to pycocoevalcap's, and METEOR and SPICE computed by pycocoevalcap.

BLEU and CIDEr are implemented here, because intervals need each image's contribution, and because
pycocoevalcap is optional. They follow its `bleu_scorer.py` and `cider_scorer.py` (tylin/coco-caption),
constants included. METEOR and SPICE need pycocoevalcap and Java, and SPICE also the CoreNLP files. Where one
of them is missing, the metric is skipped and the report states why. Java counts METEOR's matches; the score
of summed counts is computed here.

Letters: N images, B resamples, M sums.
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

from fusar_klip.benchmark.metrics.bootstrap import Floats, Statistic, mean_of_sums

Tokens = list[str]
Ngrams = Counter[tuple[str, ...]]

logger = logging.getLogger(__name__)

ORDER = 4
_SIGMA = 6.0
_SMALL, _TINY = 1e-9, 1e-15
# Brackets as the PTB tokenizer writes them. pycocoevalcap intends to drop some, but looks for upper-case
# names in lower-case text, so that they stay words.
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
# Punctuation that pycocoevalcap drops. Several marks in a row ("?!") are a word of their own, and stay.
_DROPPED = re.compile(r"\.\.\.|(?<![?!])[?!](?![?!])|[.,:;'`\"]|--+|(?<!\w)-|-(?!\w)")
_MARKS = re.compile(r"(?<=[^\s?!])(?=[?!]{2})")
_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
_ALONE = re.compile(r"(?<=\d)%|[$#*]")
_CANNOT = re.compile(r"\bcannot\b")
_ABBREVIATION = re.compile(r"[a-z](?:\.[a-z])+\.?")
# METEOR 1.5, English: weights of the four matching stages, of content words against function words, of
# recall, and of fragmentation.
_STAGES = np.array([1.0, 0.6, 0.8, 0.6])
_CONTENT, _RECALL, _FRAGMENTS, _PENALTY = 0.75, 0.85, 0.2, 0.6
_COUNTS = 23
"""Number of statistics that METEOR's Java program returns for a caption."""


def tokenise(caption: str) -> Tokens:
    """Return lower-case words without punctuation, as the PTB tokenizer gives them for plain sentences.

    "3.5" and "left-hand" are one word, "70%" is two, a bracket is the word "-lrb-". The PTB tokenizer's
    longer lists (abbreviations such as "no.", fractions, currencies) are not implemented.
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
    """Return (N, 10) statistics: 4 n-gram matches, 4 n-gram counts, the caption's and the reference's length.

    The reference's length is the one nearest to the caption's, the shorter of two.
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
        written_counts = [max(0, len(words) - n) for n in range(ORDER)]
        nearest = min((abs(len(truth) - len(words)), len(truth)) for truth in truths)[1]
        rows.append([*matches, *written_counts, len(words), nearest])
    return np.array(rows, dtype=np.float64)


def bleu4(sums: Floats) -> Floats:
    """Return the (B,) BLEU-4, 0 to 1, of (B, 10) sums of `bleu_statistics`."""
    matches, counts = sums[:, :ORDER], sums[:, ORDER : 2 * ORDER]
    precision = np.prod((matches + _TINY) / (counts + _SMALL), axis=1) ** (1 / ORDER)
    ratio = (sums[:, -2] + _TINY) / (sums[:, -1] + _SMALL)
    return np.asarray(precision * np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0))


def cider(written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Floats:
    """Return the (N,) CIDEr-D of each image, 0 to 10; all images' references give the TF-IDF weights."""
    of_truths = [[_ngrams(truth) for truth in truths] for truths in references]
    documents: Ngrams = Counter()
    for truths in of_truths:
        documents.update({ngram for truth in truths for ngram in truth})
    log_images = math.log(len(references))

    def weighted(ngrams: Ngrams) -> tuple[list[dict[tuple[str, ...], float]], list[float]]:
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDER)]
        for ngram, count in ngrams.items():
            idf = log_images - math.log(max(1, documents[ngram]))
            vectors[len(ngram) - 1][ngram] = count * idf
        return vectors, [math.sqrt(sum(v * v for v in vector.values())) for vector in vectors]

    scores = []
    for words, truths in zip(written, of_truths, strict=True):
        own_ngrams = _ngrams(words)
        own, own_norms = weighted(own_ngrams)
        total = 0.0
        for truth in truths:
            theirs, norms = weighted(truth)
            # pycocoevalcap uses the number of 2-grams as a caption's length.
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
    """Compute each image's contribution to METEOR and SPICE by pycocoevalcap's Java programs.

    Returns:
        For each metric that could be computed, (N, M) contributions and the statistic of their sums that is
        the score; and a sentence for each metric that is skipped.
    """
    if importlib.util.find_spec("pycocoevalcap") is None:
        return {}, ["METEOR and SPICE are skipped: pycocoevalcap is not installed."]
    if not java_available():
        return {}, ["METEOR and SPICE are skipped: Java is not installed."]
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
            missing.append(f"{name.upper()} is skipped: {jars} is missing beside pycocoevalcap's {name}.")
            continue
        scorer = getattr(module, name.capitalize())()
        try:
            parts[name] = measure(scorer, given, truths), meteor if name == "meteor" else mean_of_sums
        except (OSError, ValueError, IndexError) as error:  # Java has ended, or prints an error
            missing.append(f"{name.upper()} is skipped: Java's output cannot be read ({error}).")
        finally:
            _end_process(scorer)
    return parts, missing


def java_available() -> bool:
    """Return whether `java` is on the PATH."""
    return shutil.which("java") is not None


def meteor(sums: Floats) -> Floats:
    """Return the (B,) METEOR 1.5, 0 to 1, of (B, 23) sums of the statistics that its Java program counts.

    METEOR of many captions is the score of their summed statistics, not the mean of their scores, so a
    resample needs the sums. The parameters are those of English (`-l en`), as pycocoevalcap sets them; tests
    compare with Java.
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
    """Return (N, 23) counts; a caption that equals its reference has no fragments, in sums neither."""
    counts = np.array(
        [
            [float(number) for number in scorer._stat(caption, truths).split()]
            for caption, truths in zip(written, references, strict=True)
        ]
    ).reshape(len(written), _COUNTS)
    same = (counts[:, 20] == 1) & (counts[:, 21:] == counts[:, :2]).all(axis=1)
    counts[same, 20] = 0
    return counts


def spice_statistics(scorer: Any, written: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """Return (N, 2): each image's SPICE F-score, and 1."""
    truths = {n: list(each) for n, each in enumerate(references)}
    _, scores = scorer.compute_score(truths, {n: [caption] for n, caption in enumerate(written)})
    return np.array([[each["All"]["f"], 1.0] for each in scores])


def _end_process(scorer: Any) -> None:
    """End METEOR's Java process, which pycocoevalcap leaves running; SPICE has ended its own."""
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
