"""Which segments of a text are noise (paper 3.4, stage 2; decisions.md).

Every segment is left out once. Where that lowers the ITC loss it is a candidate (eq. 10); where it raises the
matching score as well, noise (eq. 11). T', the text without its noise, must beat T in both; else removals are
taken back, the least helpful first.

With `judge = "alone"` both tests are asked of the segment by itself: whether it fits the image worse than
others, and whether it matches worse than a guess. A text encoder reads what most segments say, and hardly
minds one that does not fit; so T' need not beat T.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fusar_klip.models.losses import POSITIVE_SHARE
from fusar_klip.models.tokenizer import Segments
from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.scio.scoring import PairScorer

Places = tuple[int, ...]
"""Segments of one text that are shown, by their places, ascending."""


@dataclass(frozen=True)
class ImageText:
    """The text of one image.

    Attributes:
        segments: Ids of every segment, in order, cut so that all of them together fit the network.
        in_use: Whether a segment is part of T; one that was found to be noise before is not.
    """

    segments: Segments
    in_use: tuple[bool, ...]

    @property
    def whole(self) -> Places:
        """The places of the segments of T."""
        return tuple(place for place, used in enumerate(self.in_use) if used)


@dataclass(frozen=True)
class Screening:
    """What screening found about one text.

    Attributes:
        noise: Places of the segments that are left out of T', ascending.
        delta_itc: By place: ITC loss without the segment minus that of T (eq. 10; negative: leaving it out
            helps), or with `alone`, loss of saying nothing minus that of the segment. Empty for a text of a
            single segment, which is kept.
        delta_itm: By place: matching score without the segment minus that of T (eq. 11; positive: leaving it
            out helps), or with `alone`, that of a guess minus the segment's. Candidates only, unless all were
            asked for; with `set`, that of the whole set.
        itm_score: Matching score of T; None where nothing asked for it, as with `alone`.
    """

    noise: Places
    delta_itc: Mapping[int, float]
    delta_itm: Mapping[int, float]
    itm_score: float | None


@dataclass
class _Trial:
    """One text while it is screened."""

    row: int
    whole: Places
    delta_itc: dict[int, float]
    itc: float = math.nan
    """Loss of T, which T' has to beat; with `alone` it need not."""
    itm: float | None = None
    """Matching score of T, where something is compared with it; with `alone`, nothing is."""
    delta_itm: dict[int, float] = field(default_factory=dict)
    noise: list[int] = field(default_factory=list)
    """The removals of which T' is made, the most helpful first."""

    def without_noise(self) -> Places:
        return tuple(place for place in self.whole if place not in self.noise)


def screen(scorer: PairScorer, texts: Sequence[ImageText], settings: ScioSettings) -> list[Screening]:
    """Screen the text of each of the scorer's images.

    Args:
        scorer: Of a block of images.
        texts: The text of each image of the block.
        settings: Which tests decide, and by what margin.
    """
    trials = (_leave_one_out if settings.judge == "left_out" else _each_alone)(scorer, texts)
    _confirm(scorer, texts, trials, settings)
    if settings.judge == "left_out":
        _accept_whole(scorer, texts, trials, settings)
    found = {trial.row: trial for trial in trials}
    return [
        Screening(tuple(sorted(found[row].noise)), found[row].delta_itc, found[row].delta_itm, found[row].itm)
        if row in found
        else Screening((), {}, {}, None)
        for row in range(len(texts))
    ]


def shown(scorer: PairScorer, text: ImageText, places: Iterable[int]) -> list[int]:
    """Return the ids of the text that shows the segments at `places`."""
    return scorer.tokenizer.join(text.segments[place] for place in places)


def _without(whole: Places, place: int) -> Places:
    return tuple(other for other in whole if other != place)


def _leave_one_out(scorer: PairScorer, texts: Sequence[ImageText]) -> list[_Trial]:
    """Compute eq. 10 for all segments: T and its variants of all images go in one call."""
    # Without its only segment a text would say nothing; there is no T' to compare.
    rows = [row for row, text in enumerate(texts) if len(text.whole) > 1]
    variants = [(row, texts[row].whole) for row in rows]
    variants += [(row, _without(texts[row].whole, place)) for row in rows for place in texts[row].whole]
    losses = scorer.itc(
        [shown(scorer, texts[row], places) for row, places in variants], [r for r, _ in variants]
    )
    left_out = iter(losses[len(rows) :])
    trials = []
    for row, itc in zip(rows, losses, strict=False):
        whole = texts[row].whole
        trials.append(_Trial(row, whole, {place: next(left_out) - itc for place in whole}, itc))
    return trials


def _each_alone(scorer: PairScorer, texts: Sequence[ImageText]) -> list[_Trial]:
    """Compute what each segment tells of the image by itself; all segments of all images go in one call."""
    rows = [row for row, text in enumerate(texts) if len(text.whole) > 1]
    single = [(row, place) for row in rows for place in texts[row].whole]
    losses = iter(
        scorer.itc_alone(
            [shown(scorer, texts[row], [place]) for row, place in single], [row for row, _ in single]
        )
    )
    wholes = [texts[row].whole for row in rows]
    return [
        _Trial(row, whole, {place: -next(losses) for place in whole})
        for row, whole in zip(rows, wholes, strict=True)
    ]


def _confirm(
    scorer: PairScorer, texts: Sequence[ImageText], trials: Sequence[_Trial], settings: ScioSettings
) -> None:
    """Find candidates, score what has to be scored (eq. 11), and set each trial's first `noise`."""
    wanted: list[tuple[_Trial, int]] = []
    for trial in trials:
        candidates = [place for place in trial.whole if trial.delta_itc[place] < -settings.itc_margin]
        trial.noise = sorted(candidates, key=lambda place: trial.delta_itc[place])
        if settings.itm_for_all:
            wanted += [(trial, place) for place in trial.whole]
        elif settings.itm == "segment":
            wanted += [(trial, place) for place in candidates]
    alone = settings.judge == "alone"
    if not alone:
        _score_wholes(scorer, texts, trials, settings)
    asked = [shown(scorer, texts[t.row], [p] if alone else _without(t.whole, p)) for t, p in wanted]
    scores = scorer.itm(asked, [trial.row for trial, _ in wanted])
    for (trial, place), score in zip(wanted, scores, strict=True):
        trial.delta_itm[place] = POSITIVE_SHARE - score if trial.itm is None else score - trial.itm
    for trial in trials:
        if settings.itm == "segment":
            trial.noise = [p for p in trial.noise if trial.delta_itm[p] > settings.itm_margin]
        if len(trial.noise) == len(trial.whole):
            trial.noise.pop()


def _score_wholes(
    scorer: PairScorer, texts: Sequence[ImageText], trials: Sequence[_Trial], settings: ScioSettings
) -> None:
    """Set the matching score of each T that something will be compared with."""
    asked = [t for t in trials if settings.itm_for_all or (t.noise and settings.itm != "off")]
    wholes = [shown(scorer, texts[trial.row], trial.whole) for trial in asked]
    for trial, score in zip(asked, scorer.itm(wholes, [trial.row for trial in asked]), strict=True):
        trial.itm = score


def _accept_whole(
    scorer: PairScorer, texts: Sequence[ImageText], trials: Sequence[_Trial], settings: ScioSettings
) -> None:
    """Take removals back until T' beats T in what was asked: ITC, ITM (Algorithm 1, line 8)."""
    # A single removal that was confirmed by all tests has passed already.
    fewest = 1 if settings.itm == "set" else 2
    pending = [trial for trial in trials if len(trial.noise) >= fewest]
    while pending:
        variants = [shown(scorer, texts[trial.row], trial.without_noise()) for trial in pending]
        losses = scorer.itc(variants, [trial.row for trial in pending])
        better = [place for place, trial in enumerate(pending) if losses[place] < trial.itc]
        if settings.itm != "off":
            better = _better_matched(scorer, variants, pending, better, settings)
        pending = [trial for place, trial in enumerate(pending) if place not in better]
        for trial in pending:
            trial.noise.pop()
        pending = [trial for trial in pending if len(trial.noise) >= fewest]


def _better_matched(
    scorer: PairScorer,
    variants: Sequence[Sequence[int]],
    trials: Sequence[_Trial],
    places: Sequence[int],
    settings: ScioSettings,
) -> list[int]:
    """Return those of `places` whose T', in `variants`, has a higher matching score than T."""
    together = settings.itm == "set"
    scores = scorer.itm([variants[place] for place in places], [trials[place].row for place in places])
    better = []
    for place, score in zip(places, scores, strict=True):
        trial = trials[place]
        assert trial.itm is not None
        if score - trial.itm > (settings.itm_margin if together else 0.0):
            better.append(place)
            if together:
                trial.delta_itm |= dict.fromkeys(trial.noise, score - trial.itm)
    return better
