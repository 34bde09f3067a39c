"""Settings of the segmenter and of its training, with the presets `paper` (table 3) and `recommended`."""

from typing import ClassVar

from pydantic import Field

from fusar_klip.finetune.settings import DenseSettings, PresetValues

SEGMENTATION_PRESETS: PresetValues = {
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


class SegmentationSettings(DenseSettings):
    """Segmenter on the image tower: the sizes of its parts, and its training."""

    PRESETS: ClassVar[PresetValues] = SEGMENTATION_PRESETS
    before: bool = False
    """Change detection: the image before the event goes through the tower too, and the decoder gets each
    patch's feature together with its difference from the one before."""
    input_size: int = Field(ge=16)
    """Side of the windows in pixels, a multiple of the patch: random windows for training, sliding windows
    for evaluation."""
    overlap: float = Field(ge=0, lt=1)
    """Overlap of neighbouring sliding windows as a share of their side; their logits are averaged."""
    zoom: float = Field(gt=0)
    """Images are enlarged by this factor before windows are cut: finer masks, at a higher cost."""
    layers: int = Field(ge=0)
    """Number of layers of the mask transformer."""
