"""The settings of a SCIO pass; the defaults are decisions.md's reading of the paper."""

from typing import Literal, Self

from pydantic import Field, model_validator

from fusar_klip.config import Settings
from fusar_klip.models.losses import TRUE_PAIRS
from fusar_klip.models.settings import MAX_POSITIONS


class ScioSettings(Settings):
    """What `refine` and the stages 2 and 3 of pretraining do to a text."""

    screen: bool = True
    """Look for noise among the segments in use (stage 2)."""
    reconstruct: bool = True
    """Write noise anew, that of an earlier version too (stage 3)."""
    judge: Literal["left_out", "alone"] = "left_out"
    """What the contrastive loss is asked of a segment: `left_out`, whether the text is better without it
    (eq. 10); `alone`, whether by itself it fits this image better than others."""
    itm: Literal["segment", "set", "off"] = "segment"
    """Whether the matching score confirms each candidate (eq. 11), all of them together (Algorithm 1), or is
    not asked: for models whose matching loss is still that of guessing. With `alone` each candidate is asked
    by itself, whether it matches worse than a guess."""
    itm_for_all: bool = False
    """Score segments that need not be scored, too: tells more, costs more, decides nothing."""
    itc_margin: float = Field(default=0.0, ge=0)
    """Leaving a candidate out lowers the contrastive loss by more than this; the paper's is 0."""
    itm_margin: float = Field(default=0.0, ge=0, lt=1)
    """Leaving noise out raises the matching score by more than this; the paper's is 0. With `alone`: its own
    score is under a guess's, a third, by more than this."""
    reconstruction_margin: float = Field(default=0.0, ge=0)
    """A reconstruction's contrastive loss is under what it has to beat by more than this; the paper's is 0.
    With `alone` a margin of 1 asks for a fit to this image e times as likely as to the average one."""
    baseline: Literal["filtered", "original"] = "filtered"
    """What a reconstruction has to beat: the text without noise (Algorithm 1), or the original (eq. 14); with
    `alone`, neither."""
    beams: int = Field(default=1, ge=1, le=16)
    """Width of the beam search that writes a segment; 1 takes the likeliest token each time."""
    max_new_tokens: int = Field(default=48, ge=4, le=MAX_POSITIONS)
    """Longest segment that is written, in tokens; one that has not ended by then is not used."""
    references: int = Field(default=1024, ge=1)
    """Images and texts that a pair is contrasted with, where there is no queue."""
    images_per_block: int = Field(default=32, ge=1)
    """Images worked on at a time. More are faster on a GPU, and take more memory."""
    texts_per_batch: int = Field(default=64, ge=1)
    """Texts encoded at a time."""

    @model_validator(mode="after")
    def _alone_nothing_else_is_asked(self) -> Self:
        if self.judge == "left_out":
            return self
        if self.itm == "set":
            raise ValueError("judge alone asks each segment by itself: use itm=segment or itm=off")
        if self.baseline == "original":
            raise ValueError("judge alone compares no texts: leave baseline out")
        if self.itm_margin >= TRUE_PAIRS:
            raise ValueError("with judge alone nothing can be noise by this itm_margin: use less than 1/3")
        return self
