"""The row of a suite that measures segmentation, and its presets."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from fusar_klip.benchmark.dense_row import DenseRow
from fusar_klip.datasets.registry import SegmentationReader

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


class SegmentationRow(DenseRow):
    """Segmenter on the image tower, trained whole on masks of a data set."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = SEGMENTATION_PRESETS
    task: Literal["segmentation"]
    preset: Literal["paper", "recommended"] = "recommended"
    reader: SegmentationReader
    """The layout on disk; one of the keys of `datasets.catalogue.SEGMENTATION`."""
    before: bool = False
    """Change: the image before the event goes through the tower too, and the decoder reads each patch's
    feature together with its difference from the one before."""
    input_size: int = Field(ge=16)
    """Side of the windows in pixels, a multiple of the patch: random ones to learn, sliding ones to test."""
    overlap: float = Field(ge=0, lt=1)
    """Share of a sliding window that the next one repeats; what they say is averaged."""
    zoom: float = Field(gt=0)
    """Images are enlarged by this factor before windows are cut: finer masks, for more work."""
    layers: int = Field(ge=0)
    """Layers of the mask transformer."""
