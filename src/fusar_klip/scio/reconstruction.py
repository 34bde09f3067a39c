"""Generates segments in place of noise: reconstruction (paper 3.4, stage 3, eqs. 12 to 15; decisions.md).

A noise segment becomes its name and one [MASK] (eq. 12); the decoder generates its text from the image and T'
(eq. 13). Segments are reconstructed one at a time. Each is accepted if the text with it has a lower ITC loss
(eq. 14) and a higher matching score (eq. 15); otherwise T' stays unchanged.

With `judge = "alone"` both tests use the new segment by itself: it must fit its image better than the images
of the negatives, and match better than chance level. With `itm = "off"` there is no second test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fusar_klip.models.losses import POSITIVE_SHARE
from fusar_klip.models.masking import name_end
from fusar_klip.models.tokenizer import CLS, MASK, PAD, UNKNOWN
from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.scio.scoring import ImageTextScorer
from fusar_klip.scio.screening import Indices, SegmentedText

Rejection = Literal["empty", "no end", "unknown words", "repeats itself", "said already", "ITC", "ITM"]
"""Why a reconstruction is not used. Text versions count these values in their metadata."""

# A run of up to so many words, repeated so many times in a row, is a decoding loop.
_LOOP_WORDS, _LOOP_TIMES = 6, 3


@dataclass(frozen=True)
class Reconstruction:
    """One generated segment.

    Attributes:
        index: Of the segment.
        text: What the decoder generated, without the segment's name.
        rejection: Why it is not used; None if it is.
        delta_itc: ITC loss with it minus that of the baseline (eq. 14). With `alone`: that of the segment
            minus that of an uninformative text. None if the text was rejected before.
        delta_itm: Matching score with it minus that of the baseline (eq. 15). With `alone`: that of the
            segment minus chance level. None if an earlier test failed.
        itm_score: Matching score of the text with it, or with `alone` of the segment. None if an earlier test
            failed.
    """

    index: int
    text: str
    rejection: Rejection | None
    delta_itc: float | None = None
    delta_itm: float | None = None
    itm_score: float | None = None


@dataclass
class _ReconstructionState:
    """One text during reconstruction."""

    row: int
    noise: Indices
    segments: dict[int, list[int]]
    """Token ids of the segments of the text as it is now, by index."""
    itc_loss: float = 0.0
    """Loss to beat; with `alone` always 0, that of an uninformative text."""
    itm_score: float = POSITIVE_SHARE
    """Score to beat; with `alone` always chance level."""
    done: list[Reconstruction] = field(default_factory=list)

    @property
    def next_index(self) -> int:
        return self.noise[len(self.done)]

    def token_ids(self, scorer: ImageTextScorer) -> list[int]:
        return scorer.tokenizer.join(self.segments[i] for i in sorted(self.segments))

    def token_ids_with(self, scorer: ImageTextScorer, index: int, segment: list[int]) -> list[int]:
        segments = {**self.segments, index: segment}
        return scorer.tokenizer.join(segments[i] for i in sorted(segments))


@dataclass(frozen=True)
class _Proposal:
    """A generated segment before it is tested."""

    state: _ReconstructionState
    index: int
    text: str
    segment: list[int]
    rejection: Rejection | None


def reconstruct(
    scorer: ImageTextScorer,
    texts: Sequence[SegmentedText],
    noise: Sequence[Indices],
    settings: ScioSettings,
) -> list[list[Reconstruction]]:
    """Reconstruct the noise of each text; return all that was generated, accepted or not, in segment order.

    Args:
        scorer: For a batch of images.
        texts: The text of each image of the batch.
        noise: The indices of each text's noise. T' is the other segments; it may be empty.
        settings: Baseline and decoding.
    """
    states = [
        _ReconstructionState(
            row, indices, {i: text.segments[i] for i in range(len(text.segments)) if i not in indices}
        )
        for row, (text, indices) in enumerate(zip(texts, noise, strict=True))
    ]
    pending = [state for state in states if state.noise]
    if settings.judge == "left_out":
        _set_baselines(scorer, texts, pending, settings)
    while pending:
        _accept(scorer, _generate(scorer, texts, pending, settings), settings)
        pending = [state for state in pending if len(state.done) < len(state.noise)]
    return [state.done for state in states]


def _set_baselines(
    scorer: ImageTextScorer,
    texts: Sequence[SegmentedText],
    states: Sequence[_ReconstructionState],
    settings: ScioSettings,
) -> None:
    original = settings.baseline == "original"
    baselines = [
        scorer.tokenizer.join(texts[state.row].segments) if original else state.token_ids(scorer)
        for state in states
    ]
    rows = [state.row for state in states]
    for state, itc_loss in zip(states, scorer.itc_loss(baselines, rows), strict=True):
        state.itc_loss = itc_loss
    if settings.itm != "off":
        for state, itm_score in zip(states, scorer.itm_score(baselines, rows), strict=True):
            state.itm_score = itm_score


def _generate(
    scorer: ImageTextScorer,
    texts: Sequence[SegmentedText],
    states: Sequence[_ReconstructionState],
    settings: ScioSettings,
) -> list[_Proposal]:
    """Generate the next noise segment of each text (eqs. 12 and 13)."""
    tokenizer = scorer.tokenizer
    masked, names = [], []
    for state in states:
        segment = texts[state.row].segments[state.next_index]
        names.append(segment[: name_end(segment, tokenizer.colon_id)])
        # Eq. 12: T' with the segment's name and one [MASK].
        masked.append(state.token_ids_with(scorer, state.next_index, [*names[-1], tokenizer.mask_id]))
    # Eq. 13: the decoder fills the [MASK] from the masked text and the image.
    generated = scorer.generate(
        masked,
        [state.row for state in states],
        max_tokens=settings.max_new_tokens,
        beams=settings.beams,
    )
    proposals = []
    for state, name, answer in zip(states, names, generated, strict=True):
        index = state.next_index
        text = tokenizer.decode(answer[:-1] if answer[-1:] == [tokenizer.sep_id] else answer)
        text = text[:1].upper() + text[1:]
        # The tests see the segment as it will be read back from the file; it must fit the network.
        room = scorer.max_tokens - len(state.token_ids(scorer)) - len(name) + 1
        segment = [*name, *tokenizer.segments([text], max(room, 2))[0]]
        rejection = _rejection(scorer, answer, text)
        if rejection is None and segment in (texts[state.row].segments[index], *state.segments.values()):
            rejection = "said already"
        proposals.append(_Proposal(state, index, text, segment, rejection))
    return proposals


def _rejection(scorer: ImageTextScorer, answer: Sequence[int], text: str) -> Rejection | None:
    tokenizer = scorer.tokenizer
    if not any(letter.isalnum() for letter in text.replace(UNKNOWN, "")):
        return "empty"
    if answer[-1] != tokenizer.sep_id:
        return "no end"
    special = {PAD, CLS, MASK, UNKNOWN}
    if any(tokenizer.vocabulary[token] in special for token in answer):
        return "unknown words"
    return "repeats itself" if _loops(text.lower().split()) else None


def _loops(words: list[str]) -> bool:
    """Return whether some run of words is repeated `_LOOP_TIMES` in a row."""
    for length in range(1, _LOOP_WORDS + 1):
        whole = _LOOP_TIMES * length
        for start in range(len(words) - whole + 1):
            if words[start : start + whole] == words[start : start + length] * _LOOP_TIMES:
                return True
    return False


def _accept(scorer: ImageTextScorer, proposals: Sequence[_Proposal], settings: ScioSettings) -> None:
    """Test each proposal against the baseline of its text, and use those that pass (eqs. 14 and 15)."""
    tested = [p for p in proposals if p.rejection is None]
    rows = [p.state.row for p in tested]
    if settings.judge == "alone":
        candidates = [scorer.tokenizer.join([p.segment]) for p in tested]
        losses = scorer.itc_loss_alone(candidates, rows)
    else:
        candidates = [p.state.token_ids_with(scorer, p.index, p.segment) for p in tested]
        losses = scorer.itc_loss(candidates, rows)
    # Eq. 14: L_ITC(image, text with the segment) - L_ITC(image, baseline).
    deltas_itc = [loss - p.state.itc_loss for p, loss in zip(tested, losses, strict=True)]
    better = [i for i, delta in enumerate(deltas_itc) if delta < -settings.reconstruction_margin]
    score_of: dict[int, float] = {}
    if settings.itm != "off":
        scores = scorer.itm_score([candidates[i] for i in better], [rows[i] for i in better])
        score_of = dict(zip(better, scores, strict=True))
    for proposal in proposals:
        if proposal.rejection is not None:
            proposal.state.done.append(Reconstruction(proposal.index, proposal.text, proposal.rejection))
    for i, (proposal, loss, delta_itc) in enumerate(zip(tested, losses, deltas_itc, strict=True)):
        state, score = proposal.state, score_of.get(i)
        # Eq. 15: p(image, text with the segment) - p(image, baseline).
        delta_itm = None if score is None else score - state.itm_score
        rejection: Rejection | None = None
        if i not in better:
            rejection = "ITC"
        elif delta_itm is not None and delta_itm <= 0:
            rejection = "ITM"
        state.done.append(
            Reconstruction(proposal.index, proposal.text, rejection, delta_itc, delta_itm, score)
        )
        if rejection is None:
            state.segments[proposal.index] = proposal.segment
            if settings.baseline == "filtered" and settings.judge == "left_out":
                state.itc_loss = loss
                if score is not None:
                    state.itm_score = score
