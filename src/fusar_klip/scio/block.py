"""Screening and reconstruction of the texts of a block of images, as a decision per segment."""

from collections.abc import Sequence
from dataclasses import dataclass

from fusar_klip.catalog import Verdict
from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.scio.reconstruction import Reconstruction, reconstruct
from fusar_klip.scio.scoring import PairScorer
from fusar_klip.scio.screening import ImageText, Screening, screen


@dataclass(frozen=True)
class Decision:
    """What becomes of one segment.

    Attributes:
        verdict: kept, noise or reconstructed.
        delta_itc: As `Screening` and `Reconstruction` have it; so are the next two.
        delta_itm: Likewise.
        itm_score: Likewise.
        text: The new text of a reconstruction, without the segment's name.
    """

    verdict: Verdict
    delta_itc: float | None = None
    delta_itm: float | None = None
    itm_score: float | None = None
    text: str | None = None


@dataclass(frozen=True)
class Refined:
    """What becomes of one text.

    Attributes:
        decisions: One per segment; None leaves the segment as it was.
        attempts: All that was written, used or not.
    """

    decisions: list[Decision | None]
    attempts: list[Reconstruction]


def refine_block(scorer: PairScorer, texts: Sequence[ImageText], settings: ScioSettings) -> list[Refined]:
    """Screen the text of each of the scorer's images, and rebuild its noise, as far as `settings` ask for it.

    Segments that were noise before stay out of T, and are rebuilt with the others.
    """
    nothing = Screening((), {}, {}, None)
    screenings = screen(scorer, texts, settings) if settings.screen else [nothing] * len(texts)
    pools = [
        tuple(p for p in range(len(text.segments)) if not text.in_use[p] or p in found.noise)
        for text, found in zip(texts, screenings, strict=True)
    ]
    attempts: list[list[Reconstruction]] = [[] for _ in texts]
    if settings.reconstruct:
        attempts = reconstruct(scorer, texts, pools, settings)
    return [
        Refined(_decisions(text, found, written, settings), written)
        for text, found, written in zip(texts, screenings, attempts, strict=True)
    ]


def _decisions(
    text: ImageText, found: Screening, written: Sequence[Reconstruction], settings: ScioSettings
) -> list[Decision | None]:
    decisions: list[Decision | None] = [None] * len(text.segments)
    if settings.screen:
        for place in text.whole:
            decisions[place] = Decision(
                "noise" if place in found.noise else "kept",
                found.delta_itc.get(place),
                found.delta_itm.get(place),
                found.itm_score,
            )
    for one in written:
        if one.refusal is None:
            decisions[one.place] = Decision(
                "reconstructed", one.delta_itc, one.delta_itm, one.itm_score, one.text
            )
    return decisions
