"""Model references: what a user writes for MODEL, parsed once.

    RUN             a folder written by `fusar-klip pretrain`, or one of its .safetensors files
    untrained:RUN   the architecture, preprocessing and tokenizer of RUN, randomly initialised (seed 0)
    NAME:SOURCE     a published model (`fusar-klip models` lists the names); SOURCE is a file, a folder, or
                    OWNER/NAME or OWNER/NAME/FILE of the Hugging Face hub
    llm:NAME        a language model behind a server, which can only be asked questions

A reference knows what its model can do (`capabilities`) without loading weights. To add a kind of model,
extend `ModelKind` and each `match` over it below; nothing else looks into the text.
"""

import difflib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from fusar_klip.errors import CheckpointError
from fusar_klip.models.capability import Capability
from fusar_klip.models.checkpoint import (
    checkpoint_digest,
    image_objective,
    load_checkpoint,
    load_image_tower,
)
from fusar_klip.models.klip import Klip
from fusar_klip.models.pretrained.registry import PRETRAINED
from fusar_klip.models.protocols import VisionLanguageModel

ModelKind = Literal["run", "untrained", "pretrained", "llm"]

_PREFIX_UNTRAINED = "untrained:"
_PREFIX_LLM = "llm:"
_IMAGE_ONLY: frozenset[Capability] = frozenset({"image_features", "patch_grid"})
_ALL_OF_A_RUN: frozenset[Capability] = _IMAGE_ONLY | {"text_features", "matching", "generation"}
_OR_OTHER_TASKS = "or choose other tasks with --task"


@dataclass(frozen=True)
class ModelRef:
    """One model as the user named it. `ModelRef.parse` makes one.

    Attributes:
        kind: What `name` and `source` mean.
        name: The published model, a key of the registry, or the server's name of a language model; else "".
        source: Path of a run or of one of its files, or where the published weights are; "" for `llm`.
        text: The reference as the user wrote it.
    """

    kind: ModelKind
    name: str
    source: str
    text: str

    @classmethod
    def parse(cls, reference: str | Path) -> Self:
        """Return the reference that a text stands for. Neither weights nor the run are read.

        Raises:
            CheckpointError: The text names no model: an unknown name, or one without its weights.
        """
        text = str(reference)
        name, colon, rest = text.partition(":")
        if text.startswith(_PREFIX_LLM):
            if not rest:
                raise CheckpointError("llm: names no model: give llm:NAME, such as llm:gpt-4o")
            return cls("llm", rest, "", text)
        if text.startswith(_PREFIX_UNTRAINED):
            if not rest:
                raise CheckpointError("untrained: names no run: give untrained:RUN")
            return cls("untrained", "", rest, text)
        if colon and name in PRETRAINED:
            if not rest:
                raise CheckpointError(
                    f"{text} names no weights: write {name}:FILE (download {PRETRAINED[name].title}'s from "
                    f"{PRETRAINED[name].weights})"
                )
            return cls("pretrained", name, rest, text)
        looks_like_a_name = (colon and name.replace("-", "").isalnum()) or text in PRETRAINED
        if looks_like_a_name and not Path(text).exists():
            near = difflib.get_close_matches(name, PRETRAINED, n=1)
            hint = f"did you mean {near[0]}:FILE?" if near else "fusar-klip models lists the names"
            raise CheckpointError(
                f"{text} is neither a checkpoint nor a published model with its weights; {hint}"
            )
        return cls("run", "", text, text)

    @property
    def prefix(self) -> str:
        """The part of the text that stands before name or source: "", "untrained:", "clip:", "llm:"."""
        match self.kind:
            case "run":
                return ""
            case "untrained":
                return _PREFIX_UNTRAINED
            case "pretrained":
                return f"{self.name}:"
            case "llm":
                return _PREFIX_LLM

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the model can do, found from the registry or the checkpoint's header.

        Raises:
            CheckpointError: There is no such run, or its training has not ended.
        """
        match self.kind:
            case "run" | "untrained":
                return _IMAGE_ONLY if image_objective(Path(self.source)) else _ALL_OF_A_RUN
            case "pretrained":
                return PRETRAINED[self.name].capabilities
            case "llm":
                return frozenset({"chat"})

    def require(self, capability: Capability, task: str) -> None:
        """Refuse a task that the model cannot run, before work begins.

        Args:
            capability: What the task needs.
            task: How the message calls the task.

        Raises:
            CheckpointError: The model lacks it; the message states what it lacks and what to do.
        """
        if capability in self.capabilities:
            return
        if self.kind == "llm":
            raise CheckpointError(
                f"{self.text} is a language model, which can only be asked questions, so it cannot run "
                f"{task}: add --task vqa, or leave it out"
            )
        raise CheckpointError(self._reason(capability, task))

    def _reason(self, capability: Capability, task: str) -> str:
        match capability:
            case "generation":
                return (
                    f"{self.text} has no fusion and no decoder, so it cannot run {task}: name a RUN whose "
                    f"text side is attached to it, text_side = RUN in the suite's row, {_OR_OTHER_TASKS}"
                )
            case "chat":
                return f"{self.text} cannot be asked as a language model, which {task} needs: give llm:NAME"
            case "patch_grid":
                return (
                    f"{self._title} cannot run {task}, which needs a plain ViT whose position embeddings can "
                    f"be resampled to another image size: leave {self.text} out, {_OR_OTHER_TASKS}"
                )
        if self.kind == "pretrained":
            return (
                f"{self._title} has no text tower, so it cannot run {task}: leave {self.text} out, "
                f"{_OR_OTHER_TASKS}"
            )
        return (
            f"{self.text} was trained on images alone ({image_objective(Path(self.source))}), so it cannot "
            f"run {task}: leave it out, {_OR_OTHER_TASKS}"
        )

    def digest(self) -> str:
        """Return 64 hexadecimal digits that change when the model that `load` gives may have changed.

        Raises:
            CheckpointError: There is no such model, or its files are incomplete.
        """
        match self.kind:
            case "run" | "untrained":
                return checkpoint_digest(Path(self.source), randomly_initialised=self.kind == "untrained")
            case "pretrained":
                # Imported here and below: it takes transformers and the hub's client.
                from fusar_klip.models.pretrained.encoder import pretrained_digest

                return pretrained_digest(self.name, self.source)
            case "llm":
                return hashlib.sha256(self.text.encode()).hexdigest()

    def load(self, device: str = "cpu") -> VisionLanguageModel:
        """Return the model; without a text tower its text methods raise.

        Raises:
            CheckpointError: There is no such model, its files do not fit, or it runs on a server.
        """
        if self.kind in ("run", "untrained") and "text_features" in self.capabilities:
            return self.load_klip(device)
        # These take transformers and the hub's client.
        from fusar_klip.models.pretrained.encoder import load_pretrained, wrap_image_tower

        match self.kind:
            case "run" | "untrained":
                path = Path(self.source)
                tower, preprocess = load_image_tower(path, randomly_initialised=self.kind == "untrained")
                return wrap_image_tower(tower, preprocess, image_objective(path), self.text, device)
            case "pretrained":
                return load_pretrained(self.name, self.source, device)
            case "llm":
                raise CheckpointError(
                    f"{self.text} is a language model behind a server, which cannot be loaded: give a RUN"
                )

    def load_klip(self, device: str = "cpu") -> Klip:
        """Return the model of a run, with text tower, fusion encoder, decoder and tokenizer.

        Raises:
            CheckpointError: The reference is no run, the run was trained on images alone, its training has
                not ended, or its files do not fit.
        """
        if self.kind not in ("run", "untrained"):
            raise CheckpointError(
                f"{self.text} is no run of fusar-klip pretrain, and only runs have a fusion encoder and a "
                "decoder: give a RUN folder"
            )
        return load_checkpoint(Path(self.source), device, randomly_initialised=self.kind == "untrained")

    def resolved(self) -> Self:
        """Return the reference with an absolute path, so that it holds in any folder."""
        if self.kind not in ("run", "untrained"):
            return self
        source = str(Path(self.source).resolve())
        return replace(self, source=source, text=self.prefix + source)

    @property
    def _title(self) -> str:
        return PRETRAINED[self.name].title if self.kind == "pretrained" else self.text


def load(checkpoint: str | Path, device: str = "cpu") -> Klip:
    """Return the model of a RUN folder or of one of its safetensors files.

    `untrained:RUN` gives the same architecture, preprocessing and tokenizer, randomly initialised (seed 0):
    the model that a trained one is compared with.

    Raises:
        CheckpointError: There is no checkpoint, its training has not ended, or its files do not fit.
    """
    return ModelRef.parse(checkpoint).load_klip(device)
