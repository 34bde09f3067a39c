import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.models import Tokenizer
from fusar_klip.models.masking import mask_text

texts = st.lists(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=20).map(" ".join), min_size=1, max_size=8
)


def refill(visible: list[int], hidden: list[int], tokenizer: Tokenizer) -> list[int]:
    """Put the hidden spans back in place of the [MASK] tokens."""
    spans: list[list[int]] = [[]]
    for token in hidden:
        if token == tokenizer.sep_id:
            spans.append([])
        else:
            spans[-1].append(token)
    assert spans.pop() == []
    left = iter(spans)
    whole = [x for token in visible for x in (next(left) if token == tokenizer.mask_id else [token])]
    assert next(left, None) is None
    return whole


@given(texts, st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_hidden_spans_fill_the_holes(
    tokenizer: Tokenizer, text: list[str], seed: int, whole: float
) -> None:
    segments = tokenizer.segments([f"Field: {part}" for part in text], 200)
    masked = mask_text(
        segments, tokenizer, np.random.default_rng(seed),
        fraction=0.15, span_tokens=3, segment_probability=whole,
    )  # fmt: skip
    assert refill(masked.visible, masked.hidden, tokenizer) == tokenizer.join(segments)
    assert masked.visible.count(tokenizer.mask_id) == masked.hidden.count(tokenizer.sep_id) >= 1


def test_the_share_of_hidden_tokens(tokenizer: Tokenizer) -> None:
    segments = tokenizer.segments([" ".join("a" * 24)] * 5, 200)
    hidden = 0
    for seed in range(400):
        masked = mask_text(
            segments, tokenizer, np.random.default_rng(seed),
            fraction=0.15, span_tokens=3, segment_probability=0.0,
        )  # fmt: skip
        hidden += len(masked.hidden) - masked.hidden.count(tokenizer.sep_id)
    # A little under the fraction: a segment's end cuts spans short.
    assert 0.13 < hidden / (400 * 120) < 0.155


def test_a_whole_segment_keeps_its_name(tokenizer: Tokenizer) -> None:
    segments = tokenizer.segments(["Count: 3 ships", "Size: long"], 64)
    masked = mask_text(
        segments, tokenizer, np.random.default_rng(0), fraction=0.15, span_tokens=3, segment_probability=1.0
    )
    assert tokenizer.decode(masked.visible) == "count: [MASK]; size: [MASK]"
    assert tokenizer.decode(masked.hidden) == "3 ships; long"


def test_a_text_of_no_tokens_hides_nothing(tokenizer: Tokenizer) -> None:
    masked = mask_text(
        [[], []], tokenizer, np.random.default_rng(0), fraction=0.15, span_tokens=3, segment_probability=1.0
    )
    assert masked.hidden == []
    assert masked.visible == tokenizer.join([[], []])
