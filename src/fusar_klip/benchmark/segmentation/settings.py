"""The row of a suite that measures segmentation, and its presets."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fusar_klip.benchmark.datasets.catalogue import SegmentationReader
from fusar_klip.benchmark.settings import Flips, SplitRow, TrainedRow
from fusar_klip.benchmark.training import Decay

SEGMENTATION_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Paper, table 3: AdamW, 0.001, 100 epochs, PolyLR. The rest is Segmenter's (windows of 512, batches of 8,
    # no warm-up, scales of 0.5 to 2, horizontal flips), but for its weight decay of 0, which is SGD's.
    "paper": {
        "epochs": 100,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "decay": "poly",
        "warmup_epochs": 0.0,
        "weight_decay": 0.05,
        "layer_decay": 1.0,
        "input_size": 512,
        "overlap": 0.5,
        "zoom": 1.0,
        "layers": 2,
        "scales": (0.5, 2.0),
        "gain": 0.0,
        "flips": "horizontal",
    },
    # As for the other tasks: layer-wise decay, a lower rate, a warm-up; no flips (decisions.md).
    "recommended": {
        "epochs": 50,
        "batch_size": 8,
        "learning_rate": 5e-4,
        "decay": "poly",
        "warmup_epochs": 2.0,
        "weight_decay": 0.05,
        "layer_decay": 0.75,
        "input_size": 512,
        "overlap": 0.5,
        "zoom": 1.0,
        "layers": 2,
        "scales": (0.7, 1.4),
        "gain": 0.15,
        "flips": "none",
    },
}


class SegmentationRow(SplitRow, TrainedRow):
    """Segmenter on the image tower, trained whole on masks of a data set."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = SEGMENTATION_PRESETS
    task: Literal["segmentation"]
    preset: Literal["paper", "recommended"] = "recommended"
    reader: SegmentationReader
    """The layout on disk; one of the keys of `datasets.catalogue.SEGMENTATION`."""
    before: bool = False
    """Change: the image before the event goes through the tower too, and the decoder reads each patch's
    feature together with its difference from the one before."""
    decay: Decay
    """How the rate falls after the warm-up: `cosine`, `multistep` or `poly`."""
    input_size: int = Field(ge=16)
    """Side of the windows in pixels, a multiple of the patch: random ones to learn, sliding ones to test."""
    overlap: float = Field(ge=0, lt=1)
    """Share of a sliding window that the next one repeats; what they say is averaged."""
    zoom: float = Field(gt=0)
    """Images are enlarged by this factor before windows are cut: finer masks, for more work."""
    layers: int = Field(ge=0)
    """Layers of the mask transformer."""
    scales: Annotated[tuple[float, float], Field(min_length=2)]
    """Training images are drawn larger or smaller by a random factor from this range, on top of `zoom`."""
    gain: float = Field(ge=0, lt=1)
    """Random gain of the amplitude within 1 - gain to 1 + gain, the same for before and after."""
    flips: Flips
    """Random flips: `horizontal` alone, or `all` eight flips and right-angle turns."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 0 < self.scales[0] <= self.scales[1]:
            raise ValueError("scales must be two positive numbers, the smaller one first")
        return self
