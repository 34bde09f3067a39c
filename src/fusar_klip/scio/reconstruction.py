"""What stands in place of noise (paper 3.4, stage 3, eqs. 12 to 15; decisions.md).

A noise segment becomes its name and one [MASK]; the decoder writes it from the image and from T'. Segments
are rebuilt one at a time, and each is accepted on its own: the text with it must have the lower ITC loss and
the higher matching score. Where it fails, T' stays. With `judge = "alone"` both tests are asked of the new
segment by itself: whether it fits the image better than others, and matches better than a guess; with
`itm = "off"` there is no second test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fusar_klip.models.losses import POSITIVE_SHARE
from fusar_klip.models.masking import name_end
from fusar_klip.models.tokenizer import CLS, MASK, PAD, UNKNOWN
from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.scio.scoring import PairScorer
from fusar_klip.scio.screening import ImageText, Places

Refusal = Literal["empty", "no end", "unknown words", "repeats itself", "said already", "ITC", "ITM"]
"""Why a reconstruction is not used."""

# A run of up to so many words that stands three times on end is a loop that the decoder is caught in.
_LOOP_WORDS, _LOOP_TIMES = 6, 3


@dataclass(frozen=True)
class Reconstruction:
    """One segment written anew.

    Attributes:
        place: Which segment.
        text: What the decoder wrote, without the segment's name.
        refusal: Why it is not used; None where it is.
        delta_itc: ITC loss with it minus the baseline's (eq. 14), or with `alone` that of the segment minus
            that of saying nothing; None where the text itself was refused.
        delta_itm: Matching score with it minus the baseline's (eq. 15), or with `alone` that of the segment
            minus a guess's; None where an earlier test failed.
        itm_score: Matching score of the text with it, or with `alone` of the segment; None where an earlier
            test failed.
    """

    place: int
    text: str
    refusal: Refusal | None
    delta_itc: float | None = None
    delta_itm: float | None = None
    itm_score: float | None = None


@dataclass
class _Draft:
    """One text while its noise is rebuilt."""

    row: int
    noise: Places
    shown: dict[int, list[int]]
    """Segments of the text as it is now, by place."""
    itc: float = 0.0
    """Loss to beat; with `alone` it stays 0, which is saying nothing."""
    itm: float = POSITIVE_SHARE
    """Score to beat; with `alone` it stays that of a guess."""
    done: list[Reconstruction] = field(default_factory=list)

    def ids(self, scorer: PairScorer) -> list[int]:
        return scorer.tokenizer.join(self.shown[place] for place in sorted(self.shown))

    def ids_with(self, scorer: PairScorer, place: int, segment: list[int]) -> list[int]:
        shown = {**self.shown, place: segment}
        return scorer.tokenizer.join(shown[p] for p in sorted(shown))


@dataclass(frozen=True)
class _Proposal:
    """What was written for one segment of a draft."""

    draft: _Draft
    place: int
    text: str
    segment: list[int]
    refusal: Refusal | None


def reconstruct(
    scorer: PairScorer, texts: Sequence[ImageText], noise: Sequence[Places], settings: ScioSettings
) -> list[list[Reconstruction]]:
    """Rebuild the noise of each text; return what was written, used or not, in the order of the segments.

    Args:
        scorer: Of a block of images.
        texts: The text of each image of the block.
        noise: The places of each text's noise. T' is what is left; it may be empty.
        settings: Baseline and decoding.
    """
    drafts = [
        _Draft(row, places, {p: text.segments[p] for p in range(len(text.segments)) if p not in places})
        for row, (text, places) in enumerate(zip(texts, noise, strict=True))
    ]
    pending = [draft for draft in drafts if draft.noise]
    if settings.judge == "left_out":
        _set_baselines(scorer, texts, pending, settings)
    while pending:
        _judge(scorer, _write(scorer, texts, pending, settings), settings)
        pending = [draft for draft in pending if len(draft.done) < len(draft.noise)]
    return [draft.done for draft in drafts]


def _set_baselines(
    scorer: PairScorer, texts: Sequence[ImageText], drafts: Sequence[_Draft], settings: ScioSettings
) -> None:
    whole = settings.baseline == "original"
    baselines = [scorer.tokenizer.join(texts[d.row].segments) if whole else d.ids(scorer) for d in drafts]
    rows = [draft.row for draft in drafts]
    for draft, itc in zip(drafts, scorer.itc(baselines, rows), strict=True):
        draft.itc = itc
    if settings.itm != "off":
        for draft, itm in zip(drafts, scorer.itm(baselines, rows), strict=True):
            draft.itm = itm


def _write(
    scorer: PairScorer, texts: Sequence[ImageText], drafts: Sequence[_Draft], settings: ScioSettings
) -> list[_Proposal]:
    """Let the decoder write the next noise segment of each draft."""
    tokenizer = scorer.tokenizer
    masked, names = [], []
    for draft in drafts:
        place = draft.noise[len(draft.done)]
        segment = texts[draft.row].segments[place]
        names.append(segment[: name_end(segment, tokenizer.colon_id)])
        masked.append(draft.ids_with(scorer, place, [*names[-1], tokenizer.mask_id]))
    written = scorer.write(
        masked,
        [draft.row for draft in drafts],
        max_tokens=settings.max_new_tokens,
        beams=settings.beams,
    )
    proposals = []
    for draft, name, answer in zip(drafts, names, written, strict=True):
        place = draft.noise[len(draft.done)]
        text = tokenizer.decode(answer[:-1] if answer[-1:] == [tokenizer.sep_id] else answer)
        text = text[:1].upper() + text[1:]
        # What is tested is what will be read back from the file, and it must fit the network.
        room = scorer.max_tokens - len(draft.ids(scorer)) - len(name) + 1
        segment = [*name, *tokenizer.segments([text], max(room, 2))[0]]
        refusal = _refusal(scorer, answer, text)
        if refusal is None and segment in (texts[draft.row].segments[place], *draft.shown.values()):
            refusal = "said already"
        proposals.append(_Proposal(draft, place, text, segment, refusal))
    return proposals


def _refusal(scorer: PairScorer, answer: Sequence[int], text: str) -> Refusal | None:
    tokenizer = scorer.tokenizer
    if not any(letter.isalnum() for letter in text.replace(UNKNOWN, "")):
        return "empty"
    if answer[-1] != tokenizer.sep_id:
        return "no end"
    strange = {PAD, CLS, MASK, UNKNOWN}
    if any(tokenizer.vocabulary[token] in strange for token in answer):
        return "unknown words"
    return "repeats itself" if _loops(text.lower().split()) else None


def _loops(words: list[str]) -> bool:
    """Tell whether some run of words stands several times on end."""
    for length in range(1, _LOOP_WORDS + 1):
        whole = _LOOP_TIMES * length
        for start in range(len(words) - whole + 1):
            if words[start : start + whole] == words[start : start + length] * _LOOP_TIMES:
                return True
    return False


def _judge(scorer: PairScorer, proposals: Sequence[_Proposal], settings: ScioSettings) -> None:
    """Test each proposal against its draft's baseline, and take up what passes (eqs. 14 and 15)."""
    sound = [p for p in proposals if p.refusal is None]
    rows = [p.draft.row for p in sound]
    if settings.judge == "alone":
        candidates = [scorer.tokenizer.join([p.segment]) for p in sound]
        losses = scorer.itc_alone(candidates, rows)
    else:
        candidates = [p.draft.ids_with(scorer, p.place, p.segment) for p in sound]
        losses = scorer.itc(candidates, rows)
    deltas = [loss - p.draft.itc for p, loss in zip(sound, losses, strict=True)]
    better = [i for i, delta in enumerate(deltas) if delta < -settings.reconstruction_margin]
    score_of: dict[int, float] = {}
    if settings.itm != "off":
        scores = scorer.itm([candidates[i] for i in better], [rows[i] for i in better])
        score_of = dict(zip(better, scores, strict=True))
    for proposal in proposals:
        if proposal.refusal is not None:
            proposal.draft.done.append(Reconstruction(proposal.place, proposal.text, proposal.refusal))
    for i, (proposal, loss, delta_itc) in enumerate(zip(sound, losses, deltas, strict=True)):
        draft, score = proposal.draft, score_of.get(i)
        delta_itm = None if score is None else score - draft.itm
        refusal: Refusal | None = None
        if i not in better:
            refusal = "ITC"
        elif delta_itm is not None and delta_itm <= 0:
            refusal = "ITM"
        draft.done.append(Reconstruction(proposal.place, proposal.text, refusal, delta_itc, delta_itm, score))
        if refusal is None:
            draft.shown[proposal.place] = proposal.segment
            if settings.baseline == "filtered" and settings.judge == "left_out":
                draft.itc = loss
                if score is not None:
                    draft.itm = score
