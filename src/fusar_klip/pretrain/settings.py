"""The settings of `fusar-klip pretrain`; the defaults are the paper's (section 4.1), or BLIP's recipe."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fusar_klip.config import Settings
from fusar_klip.models.losses import POSITIVE_SHARE
from fusar_klip.models.settings import MAX_POSITIONS, MODELS, ModelName, ModelSettings
from fusar_klip.pretrain.tasks.settings import MaeSettings, MocoV3Settings

TaskName = Literal["klip", "mae", "mocov3"]


class InitSettings(Settings):
    """Initial weights of the towers. The paper uses ImageNet and BERT weights."""

    image: str | None = None
    """A file of ViT weights, or the name of a timm model. Default: random initialisation."""
    text: str | None = None
    """A file or folder of BERT weights, or a model name of transformers; needs BERT's `tokenizer`. Default:
    random initialisation."""


class TextSettings(Settings):
    """Text version, vocabulary, and how a step samples segments of a text."""

    version: str = "v000"
    """The text version, as in DATASET/texts/<version>.parquet."""
    vocab_size: int = Field(default=8192, ge=256)
    """Largest size of the vocabulary that is trained if `tokenizer` is not given."""
    min_segments: int = Field(default=1, ge=1)
    """A step uses a random subset of each text's segments, at least this many, in random order."""
    bucket_batches: int = Field(default=16, ge=1)
    """Texts of similar length share a batch: texts are sorted by length within groups of this many batches;
    1 does not sort. A group is at most an eighth of an epoch, so that batches differ between epochs."""


class MaskSettings(Settings):
    """Which tokens MLM masks (decisions.md, MLM)."""

    fraction: float = Field(default=0.15, gt=0, lt=1)
    """Share of the tokens that is masked in spans."""
    span_tokens: float = Field(default=3.0, ge=1)
    """Mean length of a span in tokens."""
    segment_probability: float = Field(default=0.1, ge=0, le=1)
    """Probability that a whole segment is masked, as in SCIO's reconstruction."""


class ContrastSettings(Settings):
    """ITC's queue and momentum distillation."""

    queue: int = Field(default=20_000, ge=0)
    """Image-text pairs in the queue; 0 uses no queue."""
    alpha: float = Field(default=0.4, ge=0, le=1)
    """Weight of the momentum targets; it rises linearly from 0 during the first epoch."""
    momentum: float = Field(default=0.995, ge=0, lt=1)
    """EMA momentum of the momentum encoders: the share of their own weights that they keep at each step."""


class MatchingSettings(Settings):
    """Negative pairs of ITM."""

    hard_share: float = Field(default=1.0, ge=0, le=1)
    """Share of hard negatives, which are sampled by similarity; the others are sampled uniformly. The paper
    uses 1. Use less if `loss_itm` stays at chance level, 0.637."""


class LossSettings(Settings):
    """The weights of eq. 7 (lambda), one for each entry of `loss.LOSSES`, under the same name."""

    itc: float = Field(default=1.0, ge=0)
    """Weight of the image-text contrastive loss."""
    itm: float = Field(default=1.0, ge=0)
    """Weight of the image-text matching loss."""
    mlm: float = Field(default=1.0, ge=0)
    """Weight of the masked language modelling loss."""

    @model_validator(mode="after")
    def _one_weight_is_positive(self) -> Self:
        weights = self.model_dump()
        if not any(weights.values()):
            raise ValueError(
                f"with all weights 0 nothing is learned: set one of {', '.join(weights)} above 0"
            )
        return self


class OptimizerSettings(Settings):
    """AdamW and BLIP's learning rate schedule: linear warm-up per step, decay per epoch."""

    lr: float = Field(default=3e-4, gt=0)
    """Learning rate of the first epoch after warm-up."""
    min_lr: float = Field(default=1e-6, ge=0)
    """Minimum learning rate after warm-up."""
    warmup_lr: float = Field(default=1e-6, ge=0)
    """Learning rate of the first step."""
    warmup_steps: int = Field(default=3000, ge=0)
    """Warm-up steps; they may span several epochs."""
    decay: float = Field(default=0.9, gt=0, le=1)
    """Factor by which the learning rate changes from one epoch to the next."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay of all weights except biases and norms."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Maximum gradient norm (gradient clipping)."""


class LossSpikeSettings(Settings):
    """Which steps are skipped, and when the run stops. A skipped step changes neither weights nor queue."""

    spike: float = Field(default=6.0, ge=0)
    """A loss this many standard deviations above the mean of the window is a spike; 0 disables the test."""
    window: int = Field(default=100, ge=10)
    """Number of preceding steps that a loss is compared with; before that many there are no spikes."""
    patience: int = Field(default=10, ge=1)
    """This many skipped steps in a row end the run with an error."""


class ScioSettings(Settings):
    """A SCIO pass: the settings of `refine`, and of the stages 2 and 3 of pretraining."""

    screen: bool = True
    """Detect noise among the segments in use (stage 2)."""
    reconstruct: bool = True
    """Reconstruct noise, including the noise of earlier versions (stage 3)."""
    judge: Literal["left_out", "alone"] = "left_out"
    """How the contrastive loss judges a segment. `left_out`: compare the text with and without it (eq. 10).
    `alone`: test whether the segment by itself fits this image better than other images."""
    itm: Literal["segment", "set", "off"] = "segment"
    """How the matching score confirms candidates. `segment`: each one (eq. 11). `set`: all together
    (Algorithm 1). `off`: not at all, for models whose matching loss is at chance level. With `alone`, a
    candidate is noise if its own score is below chance level."""
    itm_for_all: bool = False
    """Also score segments that are not candidates. This takes more time and does not change decisions."""
    itc_margin: float = Field(default=0.0, ge=0)
    """A segment is a candidate if leaving it out lowers the contrastive loss by more than this. Paper: 0."""
    itm_margin: float = Field(default=0.0, ge=0, lt=1)
    """A candidate is noise if leaving it out raises the matching score by more than this. Paper: 0. With
    `alone`: if its own score is below chance level, 1/3, by more than this."""
    reconstruction_margin: float = Field(default=0.0, ge=0)
    """A reconstruction must lower the contrastive loss of `baseline` by more than this. Paper: 0. With
    `alone`, a margin of 1 requires that this image is e times as likely for it as the average image."""
    baseline: Literal["filtered", "original"] = "filtered"
    """The text that a reconstruction must improve on: `filtered`, without noise (Algorithm 1), or `original`
    (eq. 14). Not used with `alone`."""
    beams: int = Field(default=1, ge=1, le=16)
    """Width of the beam search that generates a segment; 1 is greedy decoding."""
    max_new_tokens: int = Field(default=48, ge=4, le=MAX_POSITIONS)
    """Longest generated segment in tokens; a longer one is discarded."""
    references: int = Field(default=1024, ge=1)
    """Images and texts that a pair is contrasted with if there is no queue."""
    images_per_block: int = Field(default=32, ge=1)
    """Images per block. Larger blocks are faster on a GPU, and take more memory."""
    texts_per_batch: int = Field(default=64, ge=1)
    """Texts per forward pass."""

    @model_validator(mode="after")
    def _alone_excludes_text_comparisons(self) -> Self:
        if self.judge == "left_out":
            return self
        if self.itm == "set":
            raise ValueError("judge=alone scores each segment by itself: use itm=segment or itm=off")
        if self.baseline == "original":
            raise ValueError("judge=alone does not compare texts: remove baseline=original")
        if self.itm_margin >= POSITIVE_SHARE:
            raise ValueError(
                "with judge=alone and this itm_margin no segment can be noise: use less than 1/3"
            )
        return self


class ScioStageSettings(ScioSettings):
    """SCIO's stages within a run, and its passes, which screen in stage 2 and reconstruct in stage 3."""

    enabled: bool = False
    """Run SCIO's stages; each pass writes a text version into DATASET/texts."""
    align_epochs: int = Field(default=12, ge=1)
    """Epochs of stage 1."""
    screen_epochs: int = Field(default=12, ge=0)
    """Epochs of stage 2; 0 skips it."""
    reconstruct_epochs: int = Field(default=12, ge=0)
    """Epochs of stage 3; 0 skips it."""
    every: Literal["epoch"] | Annotated[int, Field(ge=1)] = "epoch"
    """Interval of the SCIO passes of a stage, the first at its start: `epoch`, or a number of steps."""
    max_iter: int = Field(default=1, ge=1)
    """Iterations over the three stages (Algorithm 1)."""

    @property
    def epochs(self) -> int:
        """Epochs of a whole run."""
        return self.max_iter * (self.align_epochs + self.screen_epochs + self.reconstruct_epochs)


class PretrainSettings(Settings):
    """All settings of a run; RUN/config.toml contains them."""

    objective: TaskName = "klip"
    """The pretraining task: `klip`, the paper's, on tiles and texts; `mae` or `mocov3` on tiles alone."""
    model: ModelName = "vit_b"
    """The preset of `architecture`."""
    architecture: ModelSettings = MODELS["vit_b"]
    """The sizes of the model; keys that are not set have the preset's values."""
    tokenizer: str | None = None
    """A vocab.txt such as BERT's, or a RUN's tokenizer.json. Default: train one on the texts."""
    init: InitSettings = InitSettings()
    """Initial weights."""
    texts: TextSettings = TextSettings()
    """Texts."""
    masking: MaskSettings = MaskSettings()
    """Masking for MLM."""
    contrast: ContrastSettings = ContrastSettings()
    """ITC."""
    matching: MatchingSettings = MatchingSettings()
    """ITM."""
    loss: LossSettings = LossSettings()
    """Weights of the losses."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer and learning rate schedule."""
    guard: LossSpikeSettings = LossSpikeSettings()
    """Skipped steps: loss spikes, and losses that are not finite."""
    scio: ScioStageSettings = ScioStageSettings()
    """SCIO's stages."""
    mae: MaeSettings = MaeSettings()
    """Masked autoencoder, with `objective = "mae"`."""
    mocov3: MocoV3Settings = MocoV3Settings()
    """Momentum contrast of two views, with `objective = "mocov3"`."""
    batch_size: int = 32
    """Tiles per step, over all processes. With fewer training tiles, every step uses all of them."""
    accumulate: int = Field(default=1, ge=1)
    """Gradient accumulation: micro-batches per step, to save memory. Each micro-batch is contrasted with
    itself and the queue."""
    epochs: int = Field(default=36, ge=1)
    """Passes over the training tiles. With SCIO: the sum of its stages' epochs."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many steps, even before `epochs` are complete."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Random seed. The random numbers of a step depend on it and the step number only."""
    log_every: int = Field(default=50, ge=1)
    """Steps between lines in metrics.jsonl."""
    validate_every: int = Field(default=1000, ge=1)
    """Steps between validations; the last step is always validated."""
    save_every: int = Field(default=1000, ge=1)
    """Steps between saves of the state that --resume needs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` uses a GPU if there is one. float32 on the CPU, bfloat16 autocast on a GPU."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: DDP (every process holds all weights) or FSDP (weights are sharded)."""
    checkpoint_activations: bool = False
    """Activation checkpointing: less memory, about a third more computation."""
    compile: bool = False
    """Compile the layers (torch.compile). This takes minutes at the start, and changes rounding."""
    workers: int | None = Field(default=None, ge=0)
    """Worker processes that prefetch batches. Default: 4 per GPU, and 0 on the CPU."""
    tensorboard: bool = False
    """Also write the metrics to RUN/tensorboard."""

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the steps of the whole run."""
        steps = self.epochs * steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    @field_validator("batch_size")
    @classmethod
    def _contrastive_loss_needs_two(cls, size: int) -> int:
        if size < 2:
            raise ValueError("a contrastive loss needs two tiles per step: use 2 or more")
        return size

    @model_validator(mode="before")
    @classmethod
    def _architecture_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or isinstance(values.get("architecture"), ModelSettings):
            return values
        name = values.get("model", cls.model_fields["model"].default)
        preset = next((sizes for known, sizes in MODELS.items() if known == name), None)
        given = values.get("architecture", {})
        if preset is None or not isinstance(given, Mapping):
            # The validation of the fields reports the error.
            return values
        return {**values, "architecture": {**preset.model_dump(), **given}}

    @model_validator(mode="after")
    def _epochs_equal_scio_epochs(self) -> Self:
        if self.scio.enabled and self.epochs != self.scio.epochs:
            raise ValueError(
                f"with scio.enabled the stages have {self.scio.epochs} epochs, but epochs is {self.epochs}: "
                "set scio.align_epochs, .screen_epochs and .reconstruct_epochs, and epochs to their sum"
            )
        return self

    @model_validator(mode="after")
    def _image_only_tasks(self) -> Self:
        if self.objective == "klip":
            return self
        text_settings = {
            "scio.enabled": self.scio.enabled,
            "tokenizer": self.tokenizer,
            "init.text": self.init.text,
        }
        if present := [key for key, value in text_settings.items() if value]:
            raise ValueError(f"objective {self.objective} reads no texts: remove {', '.join(present)}")
        if self.parallel == "fsdp":
            raise ValueError(f"objective {self.objective} does not support fsdp: use parallel=ddp")
        if self.architecture.image_size == self.architecture.patch_size:
            raise ValueError(
                f"objective {self.objective} needs two patches or more: use a smaller architecture.patch_size"
            )
        if self.architecture.image_width % 4:
            raise ValueError(
                f"objective {self.objective} has 2D sine-cosine position embeddings: "
                "use an architecture.image_width that is a multiple of 4"
            )
        return self
