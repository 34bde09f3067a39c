"""A model under test: its checkpoint, known by content, and its features, once for each data set.

A checkpoint is a RUN folder, a file of one, `untrained:RUN`, or a name of the zoo with its weights:
`remoteclip:FILE` (`fusar-klip models` lists the names). `llm:NAME` is a general language model behind a
server, which can be asked questions alone.
"""

import difflib
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fusar_klip import models
from fusar_klip.datasets.samples import ClassificationData
from fusar_klip.errors import CheckpointError
from fusar_klip.models.pretrained import ZOO
from fusar_klip.models.pretrained.encoder import ZooEncoder, load_image_run, load_zoo, split_name, zoo_digest
from fusar_klip.progress import track

LANGUAGE_MODEL = "llm:"

_BLOCK = 256


class EvaluatedModel:
    """A model under test, loaded when the first row needs it.

    Args:
        checkpoint: A RUN folder, a checkpoint file, `untrained:RUN`, a zoo name with its weights, or
            `llm:NAME`.
        name: How the results call it.
        results: Folder that keeps a language model's answers.
        base_url: A language model's server; None for OPENAI_BASE_URL or OpenAI's own.
        device: Where it computes; None for the GPU where torch sees one, else the CPU.
    """

    def __init__(
        self,
        checkpoint: str,
        name: str,
        results: Path = Path(),
        base_url: str | None = None,
        device: str | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.name = name
        self.results = results
        self.base_url = base_url
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._features: dict[str, NDArray[np.float32]] = {}

    @property
    def language_model(self) -> str | None:
        """The name of a general language model; None for a checkpoint."""
        return language_model(self.checkpoint)

    @cached_property
    def model(self) -> models.Klip | ZooEncoder:
        """The loaded model."""
        if split_name(self.checkpoint):
            return load_zoo(self.checkpoint, self.device)
        objective = models.image_objective(self.checkpoint)
        if objective:
            return load_image_run(self.checkpoint, objective, self.device)
        return models.load(self.checkpoint, self.device)

    def features(self, data: ClassificationData) -> NDArray[np.float32]:
        """Return (N, W) CLS features of all images of a data set, before the projection."""
        if data.digest not in self._features:
            starts = range(0, len(data.files), _BLOCK)
            self._features[data.digest] = np.concatenate(
                [
                    self.model.features(data.files[start : start + _BLOCK])
                    for start in track(starts, f"Features, {self.name}")
                ]
            )
        return self._features[data.digest]


def language_model(checkpoint: str) -> str | None:
    """Return NAME of `llm:NAME`, else None."""
    name = checkpoint.removeprefix(LANGUAGE_MODEL)
    return name if name != checkpoint else None


def subject_digest(checkpoint: str) -> str:
    """Return 64 hexadecimal digits that change when the model of a checkpoint may have changed.

    Raises:
        CheckpointError: There is no such checkpoint, or no such name in the zoo.
    """
    if split_name(checkpoint):
        return zoo_digest(checkpoint)
    if (asked := language_model(checkpoint)) is not None:
        if not asked:
            raise CheckpointError("llm: names no model: give llm:NAME, such as llm:gpt-4o")
        return hashlib.sha256(checkpoint.encode()).hexdigest()
    name, colon, _ = checkpoint.partition(":")
    looks_like_a_name = colon and name + colon != models.UNTRAINED and name.replace("-", "").isalnum()
    if (looks_like_a_name or checkpoint in ZOO) and not Path(checkpoint).exists():
        near = difflib.get_close_matches(name, ZOO, n=1)
        hint = f"did you mean {near[0]}:FILE?" if near else "fusar-klip models lists the names"
        raise CheckpointError(f"{checkpoint} is no checkpoint and no zoo name with its weights; {hint}")
    return models.checkpoint_digest(checkpoint)


def refuse_without_texts(checkpoints: Sequence[str]) -> None:
    """Refuse models that have no text tower, of the zoo and of runs on images alone, before anything runs.

    Raises:
        CheckpointError: One of them cannot run retrieval.
    """
    for checkpoint in checkpoints:
        split = split_name(checkpoint)
        if split is not None and ZOO[split[0]].texts is None:
            raise CheckpointError(
                f"{ZOO[split[0]].title} has no text tower, so it cannot run retrieval: leave {checkpoint} "
                "out, or choose other tasks with --task"
            )
        # What is not there at all, `subject_digest` names better.
        there = split is None and Path(checkpoint.removeprefix(models.UNTRAINED)).exists()
        if there and (objective := models.image_objective(checkpoint)):
            raise CheckpointError(
                f"{checkpoint} was trained on images alone ({objective}), so it cannot run retrieval: leave "
                "it out, or choose other tasks with --task"
            )


def refuse_without_decoder(checkpoints: Sequence[str], task: str) -> None:
    """Refuse models without fusion and decoder for a row that names no text side, before anything runs.

    Raises:
        CheckpointError: One of them cannot run the task.
    """
    for checkpoint in checkpoints:
        path = Path(checkpoint.removeprefix(models.UNTRAINED))
        if split_name(checkpoint) or (path.exists() and models.image_objective(checkpoint)):
            raise CheckpointError(
                f"{checkpoint} has no fusion and no decoder, so it cannot run {task}: name a RUN whose text "
                "side is put behind it, text_side = RUN in the suite's row, or choose other tasks with --task"
            )


def refuse_language_models(checkpoints: Sequence[str], tasks: Sequence[str]) -> None:
    """Refuse general language models where tasks are that none can run, before anything runs.

    Args:
        checkpoints: All that are given.
        tasks: The suite's tasks that train or look into a model.

    Raises:
        CheckpointError: A language model is among the checkpoints, and there is such a task.
    """
    asked = next((checkpoint for checkpoint in checkpoints if language_model(checkpoint) is not None), None)
    if asked is not None and tasks:
        raise CheckpointError(
            f"{asked} is a language model, which can be asked questions alone, so it cannot run {tasks[0]}: "
            "add --task vqa, or leave it out"
        )


def subject_names(checkpoints: Sequence[str]) -> list[str]:
    """Return a name for each checkpoint: as many last parts of its path as tell them apart.

    Raises:
        CheckpointError: None is given, or one is given twice.
    """
    if not checkpoints:
        raise CheckpointError(
            "no checkpoint is given: name a RUN folder, untrained:RUN, or a zoo name such as clip:FILE"
        )
    split = [_kind_and_parts(checkpoint) for checkpoint in checkpoints]
    if len(set(split)) < len(split):
        raise CheckpointError("a checkpoint is given twice: name each once")
    longest = max(len(parts) for _, parts in split)
    for count in range(1, longest + 1):
        names = [kind + "/".join(parts[-count:]) for kind, parts in split]
        if len(set(names)) == len(names):
            break
    return names


def _kind_and_parts(checkpoint: str) -> tuple[str, tuple[str, ...]]:
    if (asked := language_model(checkpoint)) is not None:
        return LANGUAGE_MODEL, tuple(asked.split("/"))
    split = split_name(checkpoint)
    if split is not None:
        path = Path(split[1])
        return f"{split[0]}:", path.absolute().parts if path.exists() else path.parts
    kind = models.UNTRAINED if checkpoint.startswith(models.UNTRAINED) else ""
    return kind, Path(checkpoint.removeprefix(models.UNTRAINED)).absolute().parts
