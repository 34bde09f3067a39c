"""A model that the benchmark evaluates: loaded when first needed, its features computed once per data set."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fusar_klip.datasets.labelled_data import ClassificationData
from fusar_klip.errors import CheckpointError
from fusar_klip.models import ModelRef, VisionLanguageModel
from fusar_klip.progress import track

# Images in memory at once while features are computed.
_BLOCK = 256


class EvaluatedModel:
    """A model under evaluation, loaded when the first row needs it.

    Args:
        ref: The model.
        name: Its name in the results.
        results: Folder that stores a language model's answers.
        base_url: A language model's server; None for OPENAI_BASE_URL or OpenAI's own.
        device: Where it computes; None for the GPU if torch finds one, else the CPU.
    """

    def __init__(
        self,
        ref: ModelRef,
        name: str,
        results: Path = Path(),
        base_url: str | None = None,
        device: str | None = None,
    ) -> None:
        self.ref = ref
        self.name = name
        self.results = results
        self.base_url = base_url
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._features: dict[str, NDArray[np.float32]] = {}

    @property
    def language_model(self) -> str | None:
        """The server's name of a language model (`llm:NAME`); None for a model with weights."""
        return self.ref.name if self.ref.kind == "llm" else None

    @cached_property
    def model(self) -> VisionLanguageModel:
        """The loaded model."""
        return self.ref.load(self.device)

    def features(self, data: ClassificationData) -> NDArray[np.float32]:
        """Return (N, W) features of all images of a data set, before the projection."""
        if data.digest not in self._features:
            starts = range(0, len(data.files), _BLOCK)
            self._features[data.digest] = np.concatenate(
                [
                    self.model.features(data.files[start : start + _BLOCK])
                    for start in track(starts, f"Features, {self.name}")
                ]
            )
        return self._features[data.digest]


def model_names(refs: Sequence[ModelRef]) -> list[str]:
    """Return a name for each model: the last parts of its path, as many as make all names different.

    Raises:
        CheckpointError: No model is given, or one is given twice.
    """
    if not refs:
        raise CheckpointError(
            "no checkpoint is given: name a RUN folder, untrained:RUN, or a published model such as clip:FILE"
        )
    split = [(ref.prefix, _path_parts(ref)) for ref in refs]
    if len(set(split)) < len(split):
        raise CheckpointError("a checkpoint is given twice: name each once")
    longest = max(len(parts) for _, parts in split)
    for count in range(1, longest + 1):
        names = [prefix + "/".join(parts[-count:]) for prefix, parts in split]
        if len(set(names)) == len(names):
            break
    return names


def _path_parts(ref: ModelRef) -> tuple[str, ...]:
    if ref.kind == "llm":
        return tuple(ref.name.split("/"))
    path = Path(ref.source)
    # A published model's source may be a name on the hub.
    return path.parts if ref.kind == "pretrained" and not path.exists() else path.absolute().parts
