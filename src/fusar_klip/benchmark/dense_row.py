"""What the rows of detection and segmentation share: they train on whole images, drawn at random scales."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from fusar_klip.benchmark.settings import Flips, SplitRow, TrainedRow
from fusar_klip.finetune.training_loop import Decay


class DenseRow(SplitRow, TrainedRow):
    """A row that trains the image tower on boxes or masks."""

    decay: Decay
    """How the rate falls after the warm-up: `cosine`, `multistep` or `poly`."""
    scales: Annotated[tuple[float, float], Field(min_length=2)]
    """Training images are drawn larger or smaller by a random factor from this range (of segmentation: on top
    of `zoom`); what does not fit is cropped."""
    gain: float = Field(ge=0, lt=1)
    """Random gain of the amplitude within 1 - gain to 1 + gain; before and after an event get the same."""
    flips: Flips
    """Random flips: `horizontal` alone, or `all` eight flips and right-angle turns."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 0 < self.scales[0] <= self.scales[1]:
            raise ValueError("scales must be two positive numbers, the smaller one first")
        return self
