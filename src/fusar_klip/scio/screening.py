"""Finds the noise of a text: SCIO's screening (paper 3.4, stage 2, eqs. 10 and 11; decisions.md).

Each segment is left out once. It is a candidate if the ITC loss falls without it (eq. 10), and noise if the
matching score also rises without it (eq. 11). Then T', the text without all its noise, must beat the whole
text T in both (Algorithm 1, line 8); while it does not, the least helpful removal is undone.

With `judge = "alone"` both tests use the segment by itself: it is noise if it fits its image worse than the
images of the negatives, and if it matches worse than chance level. A text encoder averages over segments and
hardly reacts to a single mismatched one; therefore T' need not beat T in this mode.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fusar_klip.models.losses import POSITIVE_SHARE
from fusar_klip.models.tokenizer import Segments
from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.scio.scoring import ImageTextScorer

Indices = tuple[int, ...]
"""Segments of one text by their indices, ascending."""


@dataclass(frozen=True)
class SegmentedText:
    """The text of one image.

    Attributes:
        segments: Token ids of every segment, in order, truncated so that all of them together fit the
            network.
        in_use: Whether a segment is part of T; one that an earlier version marked as noise is not.
    """

    segments: Segments
    in_use: tuple[bool, ...]

    @property
    def used(self) -> Indices:
        """The indices of the segments of T."""
        return tuple(i for i, used in enumerate(self.in_use) if used)


@dataclass(frozen=True)
class ScreeningResult:
    """The result of screening one text.

    Attributes:
        noise: Indices of the segments that T' leaves out, ascending.
        delta_itc: By index: ITC loss without the segment minus that of T (eq. 10; negative: leaving it out
            helps). With `alone`: ITC loss of an uninformative text minus that of the segment. Empty for a
            text of a single segment, which is kept.
        delta_itm: By index: matching score without the segment minus that of T (eq. 11; positive: leaving it
            out helps). With `alone`: chance level minus the segment's score. Candidates only, unless
            `itm_for_all`; with `itm = "set"`, the difference of the whole set.
        itm_score: Matching score of T; None if no test needed it, as with `alone`.
    """

    noise: Indices
    delta_itc: Mapping[int, float]
    delta_itm: Mapping[int, float]
    itm_score: float | None


@dataclass
class _ScreeningState:
    """One text during screening."""

    row: int
    used: Indices
    delta_itc: dict[int, float]
    itc_loss: float = math.nan
    """Loss of T, which T' has to beat; not used with `alone`."""
    itm_score: float | None = None
    """Matching score of T; None until it is needed, and with `alone`."""
    delta_itm: dict[int, float] = field(default_factory=dict)
    noise: list[int] = field(default_factory=list)
    """The segments that T' leaves out, the most helpful removal first."""

    def without_noise(self) -> Indices:
        return tuple(i for i in self.used if i not in self.noise)


def screen(
    scorer: ImageTextScorer, texts: Sequence[SegmentedText], settings: ScioSettings
) -> list[ScreeningResult]:
    """Screen the text of each image of the scorer.

    Args:
        scorer: For a batch of images.
        texts: The text of each image of the batch.
        settings: Which tests decide, and by which margin.
    """
    compute_deltas = _leave_one_out if settings.judge == "left_out" else _each_alone
    states = compute_deltas(scorer, texts)
    _confirm(scorer, texts, states, settings)
    if settings.judge == "left_out":
        _accept_whole(scorer, texts, states, settings)
    of_row = {state.row: state for state in states}
    results = []
    for row in range(len(texts)):
        state = of_row.get(row)
        results.append(
            ScreeningResult((), {}, {}, None)
            if state is None
            else ScreeningResult(
                tuple(sorted(state.noise)), state.delta_itc, state.delta_itm, state.itm_score
            )
        )
    return results


def token_ids(scorer: ImageTextScorer, text: SegmentedText, indices: Iterable[int]) -> list[int]:
    """Return the token ids of the text that consists of the segments at `indices`."""
    return scorer.tokenizer.join(text.segments[i] for i in indices)


def _without(used: Indices, index: int) -> Indices:
    return tuple(other for other in used if other != index)


def _leave_one_out(scorer: ImageTextScorer, texts: Sequence[SegmentedText]) -> list[_ScreeningState]:
    """Compute eq. 10 for all segments; T and its variants of all images are scored in one call."""
    # A text without its only segment would be empty: there is no T' to compare with.
    rows = [row for row, text in enumerate(texts) if len(text.used) > 1]
    variants = [(row, texts[row].used) for row in rows]
    variants += [(row, _without(texts[row].used, i)) for row in rows for i in texts[row].used]
    losses = scorer.itc_loss(
        [token_ids(scorer, texts[row], indices) for row, indices in variants], [row for row, _ in variants]
    )
    left_out = iter(losses[len(rows) :])
    states = []
    for row, itc_loss in zip(rows, losses, strict=False):
        used = texts[row].used
        # Eq. 10: L_ITC(image, T without the segment) - L_ITC(image, T).
        states.append(_ScreeningState(row, used, {i: next(left_out) - itc_loss for i in used}, itc_loss))
    return states


def _each_alone(scorer: ImageTextScorer, texts: Sequence[SegmentedText]) -> list[_ScreeningState]:
    """Compute how well each segment by itself fits its image; all segments are scored in one call."""
    rows = [row for row, text in enumerate(texts) if len(text.used) > 1]
    single = [(row, i) for row in rows for i in texts[row].used]
    losses = iter(
        scorer.itc_loss_alone(
            [token_ids(scorer, texts[row], [i]) for row, i in single], [row for row, _ in single]
        )
    )
    return [
        _ScreeningState(row, texts[row].used, {i: -next(losses) for i in texts[row].used}) for row in rows
    ]


def _confirm(
    scorer: ImageTextScorer,
    texts: Sequence[SegmentedText],
    states: Sequence[_ScreeningState],
    settings: ScioSettings,
) -> None:
    """Find candidates (eq. 10), compute the matching scores that are needed (eq. 11), and set `noise`."""
    scored: list[tuple[_ScreeningState, int]] = []
    for state in states:
        candidates = [i for i in state.used if state.delta_itc[i] < -settings.itc_margin]
        state.noise = sorted(candidates, key=lambda i: state.delta_itc[i])
        if settings.itm_for_all:
            scored += [(state, i) for i in state.used]
        elif settings.itm == "segment":
            scored += [(state, i) for i in candidates]
    alone = settings.judge == "alone"
    if not alone:
        _score_whole_texts(scorer, texts, states, settings)
    variants = [token_ids(scorer, texts[s.row], [i] if alone else _without(s.used, i)) for s, i in scored]
    scores = scorer.itm_score(variants, [state.row for state, _ in scored])
    for (state, i), score in zip(scored, scores, strict=True):
        # Eq. 11: p(image, T without the segment) - p(image, T).
        state.delta_itm[i] = POSITIVE_SHARE - score if state.itm_score is None else score - state.itm_score
    for state in states:
        if settings.itm == "segment":
            state.noise = [i for i in state.noise if state.delta_itm[i] > settings.itm_margin]
        if len(state.noise) == len(state.used):
            state.noise.pop()


def _score_whole_texts(
    scorer: ImageTextScorer,
    texts: Sequence[SegmentedText],
    states: Sequence[_ScreeningState],
    settings: ScioSettings,
) -> None:
    """Set the matching score of each T that a test compares with."""
    needed = [s for s in states if settings.itm_for_all or (s.noise and settings.itm != "off")]
    whole = [token_ids(scorer, texts[state.row], state.used) for state in needed]
    for state, score in zip(needed, scorer.itm_score(whole, [s.row for s in needed]), strict=True):
        state.itm_score = score


def _accept_whole(
    scorer: ImageTextScorer,
    texts: Sequence[SegmentedText],
    states: Sequence[_ScreeningState],
    settings: ScioSettings,
) -> None:
    """Undo removals until T' beats T in the tests that are on: ITC, ITM (Algorithm 1, line 8)."""
    # With a single removal, all tests of a segment have tested T' already.
    fewest = 1 if settings.itm == "set" else 2
    pending = [state for state in states if len(state.noise) >= fewest]
    while pending:
        variants = [token_ids(scorer, texts[state.row], state.without_noise()) for state in pending]
        losses = scorer.itc_loss(variants, [state.row for state in pending])
        better = [i for i, state in enumerate(pending) if losses[i] < state.itc_loss]
        if settings.itm != "off":
            better = _better_matched(scorer, variants, pending, better, settings)
        pending = [state for i, state in enumerate(pending) if i not in better]
        for state in pending:
            state.noise.pop()
        pending = [state for state in pending if len(state.noise) >= fewest]


def _better_matched(
    scorer: ImageTextScorer,
    variants: Sequence[Sequence[int]],
    states: Sequence[_ScreeningState],
    indices: Sequence[int],
    settings: ScioSettings,
) -> list[int]:
    """Return those of `indices` whose T', in `variants`, has a higher matching score than T."""
    as_set = settings.itm == "set"
    scores = scorer.itm_score([variants[i] for i in indices], [states[i].row for i in indices])
    better = []
    for i, score in zip(indices, scores, strict=True):
        state = states[i]
        assert state.itm_score is not None
        if score - state.itm_score > (settings.itm_margin if as_set else 0.0):
            better.append(i)
            if as_set:
                state.delta_itm |= dict.fromkeys(state.noise, score - state.itm_score)
    return better
