"""A model under test: its checkpoint, known by content, and its features, once for each data set.

A checkpoint is a RUN folder, a file of one, `untrained:RUN`, or a name of the zoo with its weights:
`remoteclip:FILE` (`fusar-klip models` lists the names).
"""

import difflib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusar_klip import models
from fusar_klip.benchmark.datasets.samples import ClassificationData
from fusar_klip.benchmark.zoo import ZOO
from fusar_klip.benchmark.zoo.encoder import ZooEncoder, load_zoo, split_name, zoo_digest
from fusar_klip.errors import CheckpointError
from fusar_klip.progress import track

_BLOCK = 256


class Subject:
    """A model under test, loaded when the first row needs it.

    Args:
        checkpoint: A RUN folder, a checkpoint file, `untrained:RUN`, or a zoo name with its weights.
        name: How the results call it.
    """

    def __init__(self, checkpoint: str, name: str) -> None:
        self.checkpoint = checkpoint
        self.name = name
        self._features: dict[str, NDArray[np.float32]] = {}

    @cached_property
    def model(self) -> models.Klip | ZooEncoder:
        """The loaded model."""
        return load_zoo(self.checkpoint) if split_name(self.checkpoint) else models.load(self.checkpoint)

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


def subject_digest(checkpoint: str) -> str:
    """Return 64 hexadecimal digits that change when the model of a checkpoint may have changed.

    Raises:
        CheckpointError: There is no such checkpoint, or no such name in the zoo.
    """
    if split_name(checkpoint):
        return zoo_digest(checkpoint)
    name, colon, _ = checkpoint.partition(":")
    looks_like_a_name = colon and name + colon != models.UNTRAINED and name.replace("-", "").isalnum()
    if (looks_like_a_name or checkpoint in ZOO) and not Path(checkpoint).exists():
        near = difflib.get_close_matches(name, ZOO, n=1)
        hint = f"did you mean {near[0]}:FILE?" if near else "fusar-klip models lists the names"
        raise CheckpointError(f"{checkpoint} is no checkpoint and no zoo name with its weights; {hint}")
    return models.checkpoint_digest(checkpoint)


def refuse_without_texts(checkpoints: Sequence[str]) -> None:
    """Refuse the zoo's models that have no text tower, before anything runs.

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
    split = split_name(checkpoint)
    if split is not None:
        path = Path(split[1])
        return f"{split[0]}:", path.absolute().parts if path.exists() else path.parts
    kind = models.UNTRAINED if checkpoint.startswith(models.UNTRAINED) else ""
    return kind, Path(checkpoint.removeprefix(models.UNTRAINED)).absolute().parts
