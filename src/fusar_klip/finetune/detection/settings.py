"""Settings of the detector and of its training, with the presets `paper` (table 3) and `recommended`."""

from typing import ClassVar, Literal

from pydantic import Field

from fusar_klip.finetune.settings import DenseSettings, PresetValues

Head = Literal["faster", "cascade"]
BoxHead = Literal["conv", "linear"]

COARSEST_STRIDE = 32
"""`input_size` is a multiple of it, so that the sizes of the pyramid's levels match."""

DETECTION_PRESETS: PresetValues = {
    # Paper, table 3: AdamW, 0.0001, 36 epochs, warm-up and multi-step. The rest is ViTDet's (Detectron2's
    # projects/ViTDet/configs), but for its batch of 64 on 64 GPUs, and its stochastic depth.
    "paper": {
        "epochs": 36,
        "batch_size": 16,
        "learning_rate": 1e-4,
        "decay": "multistep",
        "warmup_epochs": 1.0,
        "weight_decay": 0.1,
        "layer_decay": 0.7,
        "input_size": 1024,
        "window": 14,
        "global_blocks": 4,
        "head": "faster",
        "box_head": "conv",
        "channels": 256,
        "anchor_size": 32,
        "regions": 512,
        "scales": (0.1, 2.0),
        "gain": 0.0,
        "flips": "horizontal",
    },
    # For small sets and small targets: smaller anchors, milder scales, no flips (decisions.md).
    "recommended": {
        "epochs": 36,
        "batch_size": 8,
        "learning_rate": 3e-4,
        "decay": "cosine",
        "warmup_epochs": 1.0,
        "weight_decay": 0.05,
        "layer_decay": 0.8,
        "input_size": 800,
        "window": 14,
        "global_blocks": 4,
        "head": "cascade",
        "box_head": "linear",
        "channels": 256,
        "anchor_size": 16,
        "regions": 256,
        "scales": (0.7, 1.4),
        "gain": 0.15,
        "flips": "none",
    },
}


class DetectionSettings(DenseSettings):
    """ViTDet on the image tower: the sizes of its parts, and its training."""

    PRESETS: ClassVar[PresetValues] = DETECTION_PRESETS
    input_size: int = Field(ge=COARSEST_STRIDE, multiple_of=COARSEST_STRIDE)
    """Side of the square that an image is resized into, its aspect kept, in pixels: a multiple of 32."""
    window: int = Field(ge=0)
    """Side of the attention windows in patches; 0 for global attention in every block."""
    global_blocks: int = Field(ge=0)
    """Number of blocks with global attention, evenly spaced."""
    head: Head
    """`faster`: one stage at IoU 0.5 (Faster R-CNN); `cascade`: three, at 0.5, 0.6 and 0.7 (Cascade
    R-CNN)."""
    box_head: BoxHead
    """Layers of the box head: `conv`, four convolutions with layer norm and a linear layer of 4 x `channels`
    (ViTDet); `linear`, two such linear layers, a tenth of the cost."""
    channels: int = Field(ge=8)
    """Channels of the pyramid and the heads."""
    anchor_size: int = Field(ge=4)
    """Side of the smallest anchors in pixels of the input; it doubles with each of the five levels."""
    regions: int = Field(ge=8)
    """Number of regions per image that are sampled for the loss of the heads; half as many anchors are."""
