"""Algorithm 1 of the paper for a batch of images: screen each text, reconstruct its noise, and decide.

`screening` holds its screening step (eqs. 10 and 11) and `reconstruction` its reconstruction step (eqs. 12 to
15). The loop over a data set is in `dataset_pass`, that over a caption table in `table_pass`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fusar_klip.catalog import Verdict
from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.scio.reconstruction import Reconstruction, reconstruct
from fusar_klip.scio.scoring import ImageTextScorer
from fusar_klip.scio.screening import ScreeningResult, SegmentedText, screen


@dataclass(frozen=True)
class SegmentDecision:
    """The decision about one segment.

    Attributes:
        verdict: kept, noise or reconstructed.
        delta_itc: As in `ScreeningResult` or, of a reconstructed segment, in `Reconstruction`.
        delta_itm: Likewise.
        itm_score: Likewise.
        text: The new text of a reconstructed segment, without the segment's name.
    """

    verdict: Verdict
    delta_itc: float | None = None
    delta_itm: float | None = None
    itm_score: float | None = None
    text: str | None = None


@dataclass(frozen=True)
class TextDecisions:
    """The decisions about one text.

    Attributes:
        segments: One per segment; None leaves the segment unchanged.
        reconstructions: All that the decoder generated, accepted or not.
    """

    segments: list[SegmentDecision | None]
    reconstructions: list[Reconstruction]


def refine_batch(
    scorer: ImageTextScorer, texts: Sequence[SegmentedText], settings: ScioSettings
) -> list[TextDecisions]:
    """Screen the text of each image of the scorer, and reconstruct its noise, as `settings` ask for.

    Segments that an earlier version marked as noise are not part of T, and are reconstructed with the others.
    """
    not_screened = ScreeningResult((), {}, {}, None)
    results = screen(scorer, texts, settings) if settings.screen else [not_screened] * len(texts)
    noise = [
        tuple(i for i in range(len(text.segments)) if not text.in_use[i] or i in result.noise)
        for text, result in zip(texts, results, strict=True)
    ]
    reconstructions: list[list[Reconstruction]] = [[] for _ in texts]
    if settings.reconstruct:
        reconstructions = reconstruct(scorer, texts, noise, settings)
    return [
        TextDecisions(_decisions(text, result, generated, settings), generated)
        for text, result, generated in zip(texts, results, reconstructions, strict=True)
    ]


def _decisions(
    text: SegmentedText,
    result: ScreeningResult,
    reconstructions: Sequence[Reconstruction],
    settings: ScioSettings,
) -> list[SegmentDecision | None]:
    decisions: list[SegmentDecision | None] = [None] * len(text.segments)
    if settings.screen:
        for i in text.used:
            decisions[i] = SegmentDecision(
                "noise" if i in result.noise else "kept",
                result.delta_itc.get(i),
                result.delta_itm.get(i),
                result.itm_score,
            )
    for one in reconstructions:
        if one.rejection is None:
            decisions[one.index] = SegmentDecision(
                "reconstructed", one.delta_itc, one.delta_itm, one.itm_score, one.text
            )
    return decisions
