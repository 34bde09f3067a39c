"""A model under test: its checkpoint, known by content, and its features, once for each data set."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusar_klip import models
from fusar_klip.benchmark.class_folders import ClassificationData
from fusar_klip.errors import CheckpointError
from fusar_klip.progress import track

_BLOCK = 256


class Subject:
    """A model under test, loaded when the first row needs it.

    Args:
        checkpoint: A RUN folder, a checkpoint file, or `untrained:RUN`.
        name: How the results call it.
    """

    def __init__(self, checkpoint: str, name: str) -> None:
        self.checkpoint = checkpoint
        self.name = name
        self._features: dict[str, NDArray[np.float32]] = {}

    @cached_property
    def model(self) -> models.Klip:
        """The loaded model."""
        return models.load(self.checkpoint)

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


def subject_names(checkpoints: Sequence[str]) -> list[str]:
    """Return a name for each checkpoint: as many last parts of its path as tell them apart.

    Raises:
        CheckpointError: None is given, or one is given twice.
    """
    if not checkpoints:
        raise CheckpointError("no checkpoint is given: name a RUN folder, or untrained:RUN")
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
    kind = models.UNTRAINED if checkpoint.startswith(models.UNTRAINED) else ""
    return kind, Path(checkpoint.removeprefix(models.UNTRAINED)).absolute().parts
