"""Statistics of captions: tokens, lexical diversity, distinct n-grams, duplicates, lengths of each field.

A token is a word or number (lower case; "0.5", "north-east" and "don't" are one each),
not a model's word piece. Lengths, vocabularies and duplicates are exact, over all captions. Diversity of a
corpus falls with its size, so MTLD and distinct-n are taken from the same number of tokens of every corpus,
drawn at random; memory holds that sample, the vocabulary, and eight bytes a different caption.
"""

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lexicalrichness import LexicalRichness

from fusar_klip.texts.inspection.caption_sources import CaptionSource, ImageCaptions

SAMPLE_IMAGES = 5_000
CORPUS_TOKENS = 50_000
"""Tokens of the corpus sample, in random order; the report marks a smaller corpus."""
MTLD_THRESHOLD = 0.72
"""McCarthy's; lexicalrichness's default."""
MTLD_MIN_TOKENS = 50
"""MTLD of shorter texts is unreliable (McCarthy and Jarvis 2010 use texts of over 100)."""
NO_FIELD = "caption"

_TOKEN = re.compile(r"\w+(?:[-'’.,]\w+)*")


@dataclass(frozen=True)
class FieldStatistics:
    """One field of one schema; lengths are tokens a sentence.

    Attributes:
        schema: "target", "terrain" or, in files without fields, "caption".
        field: The field's name.
        captions: Sentences.
        mean: Mean length.
        shortest: Least length.
        p5: 5th percentile.
        median: Median.
        p95: 95th percentile.
        longest: Greatest length.
        vocabulary: Different tokens.
        distinct: Share of the sentences that are no repetition of an earlier one.
        histogram: Number of sentences by length, {tokens: sentences}.
    """

    schema: str
    field: str
    captions: int
    mean: float
    shortest: int
    p5: int
    median: int
    p95: int
    longest: int
    vocabulary: int
    distinct: float
    histogram: dict[int, int]


@dataclass(frozen=True)
class CaptionStatistics:
    """One set of captions.

    Attributes:
        name: "v000", or a file's name.
        about: Provider, model and prompting mode.
        images: Images with a text.
        captions: Captions; of a data set, sentences.
        tokens: Tokens in all.
        tokens_per_image: Mean tokens of an image's whole text.
        tokens_per_image_p5: Its 5th percentile.
        tokens_per_image_p95: Its 95th percentile.
        tokens_per_caption: Mean tokens of a caption.
        vocabulary: Different tokens.
        mtld: Of the corpus: the sampled images' texts one after the other.
        mtld_per_image: Mean over the sampled images of at least 50 tokens; None where there is none.
        mtld_images: Their number.
        distinct_1: Different words over words, in the corpus sample.
        distinct_2: Different pairs of words over pairs, within captions.
        distinct_3: The same of three words.
        corpus_tokens: Tokens that MTLD and distinct-n were taken from.
        duplicate_captions: Share of the captions that repeat an earlier one.
        duplicate_images: Share of the images whose whole text repeats an earlier one's.
        by_field: Each field.
    """

    name: str
    about: str
    images: int
    captions: int
    tokens: int
    tokens_per_image: float
    tokens_per_image_p5: int
    tokens_per_image_p95: int
    tokens_per_caption: float
    vocabulary: int
    mtld: float | None
    mtld_per_image: float | None
    mtld_images: int
    distinct_1: float
    distinct_2: float
    distinct_3: float
    corpus_tokens: int
    duplicate_captions: float
    duplicate_images: float
    by_field: list[FieldStatistics]


@dataclass(frozen=True)
class MeasuredCaptions:
    """Statistics of a set of captions, with words and samples for the report.

    Attributes:
        statistics: The numbers.
        words: Number of each token by schema, for word clouds.
        sample: A random sample of the images, in random order.
    """

    statistics: CaptionStatistics
    words: dict[str, Counter[str]]
    sample: list[ImageCaptions]


@dataclass
class _FieldCounts:
    """Counts of one field, collected while reading."""

    lengths: Counter[int] = field(default_factory=Counter)
    vocabulary: set[str] = field(default_factory=set)
    seen: set[bytes] = field(default_factory=set)


def tokenize(text: str) -> list[str]:
    """Return the words and numbers of a text in lower case."""
    return _TOKEN.findall(text.lower())


def schema_of(text: ImageCaptions) -> str:
    """Return "target" or "terrain", the schema of the text's fields, or "caption" where it has none."""
    if text.task is None:
        return NO_FIELD
    return "terrain" if text.task == "terrain" else "target"


def random_order(image_id: str) -> bytes:
    """Return a sort key that puts images in a random order which is the same in every run and version."""
    return hashlib.blake2b(image_id.encode(), digest_size=8).digest()


def measure_captions(source: CaptionSource) -> MeasuredCaptions:
    """Compute the statistics of a set of captions in one pass.

    Raises:
        SettingsError: A file holds no captions.
        DatasetError: A text version cannot be read.
    """
    fields: dict[tuple[str, str], _FieldCounts] = {}
    words: dict[str, Counter[str]] = {}
    image_lengths: Counter[int] = Counter()
    seen_captions: set[bytes] = set()
    seen_images: set[bytes] = set()
    sample: list[tuple[int, int, ImageCaptions]] = []
    for place, text in enumerate(source.read()):
        schema = schema_of(text)
        length = 0
        for name, caption in text.captions:
            tokens = tokenize(caption)
            digest = _digest(caption)
            own = fields.setdefault((schema, name or NO_FIELD), _FieldCounts())
            own.lengths[len(tokens)] += 1
            own.vocabulary.update(tokens)
            own.seen.add(digest)
            seen_captions.add(digest)
            words.setdefault(schema, Counter()).update(tokens)
            length += len(tokens)
        image_lengths[length] += 1
        seen_images.add(_digest("\0".join(caption for _, caption in text.captions)))
        # A heap of those that come first in the random order; its root is the one to drop.
        entry = (-int.from_bytes(random_order(text.image_id)), -place, text)
        if len(sample) < SAMPLE_IMAGES:
            heapq.heappush(sample, entry)
        elif entry[:2] > sample[0][:2]:
            heapq.heapreplace(sample, entry)
    drawn = [text for _, _, text in sorted(sample, key=lambda entry: entry[:2], reverse=True)]
    images, captions = image_lengths.total(), sum(own.lengths.total() for own in fields.values())
    tokens_in_all = sum(counts.total() for counts in words.values())
    vocabulary: set[str] = set().union(*words.values())
    statistics = CaptionStatistics(
        name=source.name,
        about=source.about,
        images=images,
        captions=captions,
        tokens=tokens_in_all,
        tokens_per_image=tokens_in_all / max(images, 1),
        tokens_per_image_p5=_quantile(image_lengths, 0.05),
        tokens_per_image_p95=_quantile(image_lengths, 0.95),
        tokens_per_caption=tokens_in_all / max(captions, 1),
        vocabulary=len(vocabulary),
        **_diversity(drawn),
        duplicate_captions=1 - len(seen_captions) / max(captions, 1),
        duplicate_images=1 - len(seen_images) / max(images, 1),
        by_field=[_field_statistics(schema, name, own) for (schema, name), own in fields.items()],
    )
    return MeasuredCaptions(statistics, words, drawn)


def mtld(tokens: Sequence[str]) -> float | None:
    """Return the measure of textual lexical diversity of a text; None where it has under 50 tokens."""
    if len(tokens) < MTLD_MIN_TOKENS:
        return None
    return float(LexicalRichness(list(tokens), preprocessor=None, tokenizer=None).mtld(MTLD_THRESHOLD))


def distinct(captions: Iterable[Sequence[str]], n: int) -> float:
    """Return different n-grams over n-grams, within captions; 0 where there is none."""
    grams = [tuple(tokens[i : i + n]) for tokens in captions for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _diversity(sample: Sequence[ImageCaptions]) -> dict[str, Any]:
    """Return MTLD and distinct-n of the sample's first 50,000 tokens."""
    per_image: list[float] = []
    corpus: list[list[str]] = []
    count = 0
    for text in sample:
        captions = [tokenize(caption) for _, caption in text.captions]
        own = mtld([token for tokens in captions for token in tokens])
        if own is not None:
            per_image.append(own)
        for tokens in captions:
            if count < CORPUS_TOKENS:
                corpus.append(tokens[: CORPUS_TOKENS - count])
                count += len(corpus[-1])
    return {
        "mtld": mtld([token for tokens in corpus for token in tokens]),
        "mtld_per_image": sum(per_image) / len(per_image) if per_image else None,
        "mtld_images": len(per_image),
        "distinct_1": distinct(corpus, 1),
        "distinct_2": distinct(corpus, 2),
        "distinct_3": distinct(corpus, 3),
        "corpus_tokens": count,
    }


def _field_statistics(schema: str, name: str, own: _FieldCounts) -> FieldStatistics:
    count = own.lengths.total()
    return FieldStatistics(
        schema=schema,
        field=name,
        captions=count,
        mean=sum(length * n for length, n in own.lengths.items()) / count,
        shortest=min(own.lengths),
        p5=_quantile(own.lengths, 0.05),
        median=_quantile(own.lengths, 0.5),
        p95=_quantile(own.lengths, 0.95),
        longest=max(own.lengths),
        vocabulary=len(own.vocabulary),
        distinct=len(own.seen) / count,
        histogram=dict(sorted(own.lengths.items())),
    )


def _quantile(counts: Counter[int], share: float) -> int:
    """Return the least value that at least `share` of the values do not exceed; 0 where there is none."""
    wanted, reached = share * counts.total(), 0
    for value in sorted(counts):
        reached += counts[value]
        if reached >= wanted:
            return value
    return 0


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
