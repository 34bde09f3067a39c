"""Which tokens MLM hides, and what the decoder has to write (paper 3.3, eq. 6; decisions.md, MLM).

Each hidden span becomes one [MASK] in the encoder's text; the decoder writes the spans in their order, each
ended by [SEP]. A whole segment is hidden in the same way, which is how SCIO asks for a segment anew (eq. 12).
The segment's name ("Count:") stays visible then: it says what is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusar_klip.models.tokenizer import Segments, Tokenizer

# A segment's name is looked for in this many first tokens; field names have one or two pieces.
_NAME_TOKENS = 6


@dataclass(frozen=True)
class MaskedText:
    """A text with holes, and what was in them.

    Attributes:
        visible: Ids of the encoder's text, [CLS] and separators included.
        hidden: Ids that the decoder writes: each span, then [SEP].
    """

    visible: list[int]
    hidden: list[int]


def mask_text(
    segments: Segments,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    *,
    fraction: float,
    span_tokens: float,
    segment_probability: float,
) -> MaskedText:
    """Hide spans of a text, and whole segments at random.

    Something is hidden wherever a segment has more than its name.

    Args:
        segments: Ids of each segment.
        tokenizer: Gives the special tokens.
        rng: Draws the places.
        fraction: Share of a segment's tokens to hide, 0 to 1 exclusive.
        span_tokens: Mean length of a hidden span in tokens, at least 1.
        segment_probability: Chance of each segment to be hidden whole.
    """
    whole = rng.random(len(segments)) < segment_probability
    spans = [
        [(name_end(segment, tokenizer.colon_id), len(segment))]
        if is_whole
        else _draw_spans(segment, tokenizer.colon_id, rng, fraction, span_tokens)
        for segment, is_whole in zip(segments, whole, strict=True)
    ]
    spans = [[(start, end) for start, end in found if end > start] for found in spans]
    fillable = [
        i for i, segment in enumerate(segments) if len(segment) > name_end(segment, tokenizer.colon_id)
    ]
    if fillable and not any(spans):
        # A short text can draw no span at all; a step without a target would be a step without a loss.
        chosen = int(rng.choice(fillable))
        spans[chosen] = [(name_end(segments[chosen], tokenizer.colon_id), len(segments[chosen]))]
    return _apply(segments, spans, tokenizer)


def _apply(
    segments: Segments, spans: Sequence[Sequence[tuple[int, int]]], tokenizer: Tokenizer
) -> MaskedText:
    visible: list[list[int]] = []
    hidden: list[int] = []
    for segment, found in zip(segments, spans, strict=True):
        shown: list[int] = []
        place = 0
        for start, end in found:
            shown += [*segment[place:start], tokenizer.mask_id]
            hidden += [*segment[start:end], tokenizer.sep_id]
            place = end
        visible.append([*shown, *segment[place:]])
    return MaskedText(tokenizer.join(visible), hidden)


def _draw_spans(
    segment: Sequence[int], colon_id: int, rng: np.random.Generator, fraction: float, span_tokens: float
) -> list[tuple[int, int]]:
    """Return disjoint spans that cover `fraction` of the tokens on average, at least one token apart."""
    # A renewal process: a span starts with chance p, its length is geometric with mean m, and a visible token
    # follows. Per cycle m tokens are hidden and 1/p are shown; m / (m + 1/p) = f gives p.
    start_probability = min(1.0, fraction / (span_tokens * (1 - fraction)))
    spans: list[tuple[int, int]] = []
    place = name_end(segment, colon_id)
    while place < len(segment):
        if rng.random() < start_probability:
            end = min(place + int(rng.geometric(1 / span_tokens)), len(segment))
            spans.append((place, end))
            place = end
        place += 1
    return spans


def name_end(segment: Sequence[int], colon_id: int) -> int:
    """Return the place after the segment's "Name:", or 0 where it has none."""
    head = list(segment[:_NAME_TOKENS])
    return head.index(colon_id) + 1 if colon_id in head else 0
