"""Span masking for MLM, and the targets of the decoder (paper 3.3, eq. 6; decisions.md, MLM).

Each masked span becomes one [MASK] in the encoder's text; the decoder generates the spans in order, each
ended by [SEP]. A whole segment is masked in the same way, as SCIO does to regenerate a segment (eq. 12). The
segment's name ("Count:") stays visible then, since it states what to generate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusar_klip.models.tokenizer import Segments, Tokenizer

# A segment's name is searched for in this many first tokens; field names have one or two pieces.
_NAME_TOKENS = 6


@dataclass(frozen=True)
class MaskedText:
    """A text with masked spans, and the tokens of the spans.

    Attributes:
        visible: Ids of the encoder's text, [CLS] and separators included.
        hidden: Ids that the decoder generates: each span, then [SEP].
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
    """Mask spans of a text, and whole segments at random.

    At least one span is masked if any segment has more than its name.

    Args:
        segments: Ids of each segment.
        tokenizer: Gives the special tokens.
        rng: Draws the positions.
        fraction: Share of a segment's tokens to mask, 0 to 1 exclusive.
        span_tokens: Mean length of a masked span in tokens, at least 1.
        segment_probability: Probability of each segment to be masked whole.
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
        # A short text may draw no span, and a step without a target would have no loss.
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
    # A renewal process: a span starts with probability p, its length is geometric with mean m, and a visible
    # token follows. Per cycle m tokens are masked and 1/p are visible; m / (m + 1/p) = f gives p.
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
    """Return the index after the segment's "Name:", or 0 if it has none."""
    head = list(segment[:_NAME_TOKENS])
    return head.index(colon_id) + 1 if colon_id in head else 0
