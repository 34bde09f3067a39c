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
    """Weights that the towers start from. The paper's are ImageNet's and BERT's."""

    image: str | None = None
    """A file of ViT weights, or a timm model's name; without it the image tower starts fresh."""
    text: str | None = None
    """A file or folder of BERT weights, or BERT's name; needs BERT's `tokenizer`. Without it: fresh."""


class TextSettings(Settings):
    """Which texts are read, and what a step makes of them."""

    version: str = "v000"
    """The text version, as in DATASET/texts/<version>.parquet."""
    vocab_size: int = Field(default=8192, ge=256)
    """Most tokens of the vocabulary that is trained where `tokenizer` is not given."""
    min_segments: int = Field(default=1, ge=1)
    """A step shows each tile with a random subset of its segments, this many at least, in random order."""
    bucket_batches: int = Field(default=16, ge=1)
    """Texts of like length go into one batch, sorted among this many batches; 1 does not sort. At most an
    eighth of an epoch is sorted together, so that a tile meets others from epoch to epoch."""


class MaskSettings(Settings):
    """What MLM hides (decisions.md, MLM)."""

    fraction: float = Field(default=0.15, gt=0, lt=1)
    """Share of the tokens that is hidden in spans."""
    span_tokens: float = Field(default=3.0, ge=1)
    """Mean length of a span in tokens."""
    segment_probability: float = Field(default=0.1, ge=0, le=1)
    """Chance of a segment to be hidden whole, as SCIO's reconstruction does."""


class ContrastSettings(Settings):
    """ITC's queue and momentum distillation."""

    queue: int = Field(default=20_000, ge=0)
    """Image-text pairs kept as further candidates."""
    alpha: float = Field(default=0.4, ge=0, le=1)
    """Weight of the momentum targets, reached linearly at the end of the first epoch."""
    momentum: float = Field(default=0.995, ge=0, lt=1)
    """Share of its own weights that a momentum tower keeps at each step."""


class MatchingSettings(Settings):
    """ITM's wrong pairs."""

    hard_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the wrong pairs that are drawn by their similarity; the others are any. The paper's is 1, and
    teaches nothing while ITC tells all that fusion knows: use less where `loss_itm` stays at 0.637."""


class LossSettings(Settings):
    """lambda_1 to lambda_3 of eq. 7."""

    itc: float = Field(default=1.0, ge=0)
    """Weight of the image-text contrastive loss."""
    itm: float = Field(default=1.0, ge=0)
    """Weight of the image-text matching loss."""
    mlm: float = Field(default=1.0, ge=0)
    """Weight of the masked language modelling loss."""

    @model_validator(mode="after")
    def _one_counts(self) -> Self:
        if not (self.itc or self.itm or self.mlm):
            raise ValueError("with all weights 0 nothing is learnt: give one of itc, itm, mlm more")
        return self


class OptimizerSettings(Settings):
    """AdamW and BLIP's schedule: linear warm-up per step, decay per epoch."""

    lr: float = Field(default=3e-4, gt=0)
    """Learning rate of the first epoch after warm-up."""
    min_lr: float = Field(default=1e-6, ge=0)
    """Least learning rate after warm-up."""
    warmup_lr: float = Field(default=1e-6, ge=0)
    """Learning rate of the first step."""
    warmup_steps: int = Field(default=3000, ge=0)
    """Steps of warm-up; it may span epochs."""
    decay: float = Field(default=0.9, gt=0, le=1)
    """Factor of the learning rate from epoch to epoch."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay of all weights but biases and norms."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient; a longer one is scaled down."""


class LossSpikeSettings(Settings):
    """Which steps are left out, and when a run gives up. A step left out changes no weight and no queue."""

    spike: float = Field(default=6.0, ge=0)
    """A loss this many standard deviations over the mean of the window is a spike; 0 looks for none."""
    window: int = Field(default=100, ge=10)
    """Steps taken before there can be a spike, and whose losses it is compared with."""
    patience: int = Field(default=10, ge=1)
    """Steps left out in a row that end the run."""


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
        if self.itm_margin >= POSITIVE_SHARE:
            raise ValueError("with judge alone nothing can be noise by this itm_margin: use less than 1/3")
        return self


class ScioStageSettings(ScioSettings):
    """SCIO's place in a run, and what its passes do: they screen in stage 2, and reconstruct in stage 3."""

    enabled: bool = False
    """Go through SCIO's stages; each pass writes a text version into DATASET/texts."""
    align_epochs: int = Field(default=12, ge=1)
    """Epochs of stage 1."""
    screen_epochs: int = Field(default=12, ge=0)
    """Epochs of stage 2; 0 leaves it out."""
    reconstruct_epochs: int = Field(default=12, ge=0)
    """Epochs of stage 3; 0 leaves it out."""
    every: Literal["epoch"] | Annotated[int, Field(ge=1)] = "epoch"
    """When a stage looks at the texts again: as it begins, and at each epoch or after so many steps."""
    max_iter: int = Field(default=1, ge=1)
    """Rounds of the three stages (Algorithm 1)."""

    @property
    def epochs(self) -> int:
        """Epochs of a whole run."""
        return self.max_iter * (self.align_epochs + self.screen_epochs + self.reconstruct_epochs)


class PretrainSettings(Settings):
    """All settings of a run. RUN/config.toml holds them."""

    objective: TaskName = "klip"
    """What is learnt: `klip` the paper's, from tiles and texts; `mae` or `mocov3` from tiles alone."""
    model: ModelName = "vit_b"
    """The preset that `architecture` starts from."""
    architecture: ModelSettings = MODELS["vit_b"]
    """The sizes of the model; what is not given is the preset's."""
    tokenizer: str | None = None
    """A vocab.txt such as BERT's, or a RUN's tokenizer.json; without it one is trained on the texts."""
    init: InitSettings = InitSettings()
    """Weights to start from."""
    texts: TextSettings = TextSettings()
    """Texts."""
    masking: MaskSettings = MaskSettings()
    """Masks of MLM."""
    contrast: ContrastSettings = ContrastSettings()
    """ITC."""
    matching: MatchingSettings = MatchingSettings()
    """ITM."""
    loss: LossSettings = LossSettings()
    """Weights of the losses."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimiser and schedule."""
    guard: LossSpikeSettings = LossSpikeSettings()
    """Spikes and losses that are not finite."""
    scio: ScioStageSettings = ScioStageSettings()
    """SCIO's stages."""
    mae: MaeSettings = MaeSettings()
    """Masked autoencoder, with `objective = "mae"`."""
    mocov3: MocoV3Settings = MocoV3Settings()
    """Contrast of two views, with `objective = "mocov3"`."""
    batch_size: int = 32
    """Tiles of a step, of all processes together. Fewer training tiles are all taken at each step."""
    accumulate: int = Field(default=1, ge=1)
    """Gradient accumulation: micro-batches per step, to save memory. Each micro-batch is contrasted with
    itself and the queue."""
    epochs: int = Field(default=36, ge=1)
    """Passes over the training tiles. With SCIO: the sum of its stages' epochs."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many steps, if epochs have not ended before."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Every draw of a step follows from this number and the step's."""
    log_every: int = Field(default=50, ge=1)
    """Steps between two lines in metrics.jsonl."""
    validate_every: int = Field(default=1000, ge=1)
    """Steps between two validations; there is one at the end in any case."""
    save_every: int = Field(default=1000, ge=1)
    """Steps between two saves of the state that --resume needs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: `auto` is a GPU if there is one. float32 on the CPU, bfloat16 autocast on a GPU."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: every process holds all weights, or a share of each."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass: less memory, about a third more work."""
    compile: bool = False
    """Compile the layers (torch.compile): minutes at the start, and sums in another order."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that make batches ahead; without it 4 per GPU, and none on the CPU."""
    tensorboard: bool = False
    """Also write the metrics to RUN/tensorboard."""

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the steps of the whole run."""
        steps = self.epochs * steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    @field_validator("batch_size")
    @classmethod
    def _contrast_needs_two(cls, size: int) -> int:
        if size < 2:
            raise ValueError("contrast needs two tiles in a step: use 2 or more")
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
            # Left to the validation of the fields, which says what is wrong.
            return values
        return {**values, "architecture": {**preset.model_dump(), **given}}

    @model_validator(mode="after")
    def _epochs_are_the_stages(self) -> Self:
        if self.scio.enabled and self.epochs != self.scio.epochs:
            raise ValueError(
                f"with scio.enabled the stages' epochs make {self.scio.epochs}, and epochs is {self.epochs}: "
                "set scio.align_epochs, .screen_epochs and .reconstruct_epochs, and epochs to their sum"
            )
        return self

    @model_validator(mode="after")
    def _baselines_read_no_texts(self) -> Self:
        if self.objective == "klip":
            return self
        of_texts = {
            "scio.enabled": self.scio.enabled,
            "tokenizer": self.tokenizer,
            "init.text": self.init.text,
        }
        if given := [key for key, value in of_texts.items() if value]:
            raise ValueError(f"objective {self.objective} reads no texts: leave out {', '.join(given)}")
        if self.parallel == "fsdp":
            raise ValueError(f"objective {self.objective} runs by ddp alone: use parallel=ddp")
        if self.architecture.image_size == self.architecture.patch_size:
            raise ValueError(
                f"objective {self.objective} needs two patches or more: use a smaller architecture.patch_size"
            )
        if self.architecture.image_width % 4:
            raise ValueError(
                f"objective {self.objective} has positions of sines and cosines of two axes: "
                "use an architecture.image_width that is a multiple of 4"
            )
        return self
