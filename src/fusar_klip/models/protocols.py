"""What the stages ask of a model, whoever trained it: `Klip` and `PretrainedEncoder` both fulfil it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fusar_klip.models.klip import Text
from fusar_klip.models.preprocess import ImageInput, Preprocess


class VisionEncoder(Protocol):
    """A model that turns images into features; enough for probes, classification, detection, segmentation."""

    preprocess: Preprocess
    """Turns images into the tower's input."""
    device: torch.device

    @property
    def title(self) -> str:
        """How messages call the model."""

    @property
    def image_tower(self) -> nn.Module:
        """The image tower; its input is (B, 1, S, S)."""

    def features(self, images: Sequence[ImageInput]) -> NDArray[np.float32]:
        """Return (N, W) float32: one feature per image, before any projection."""


class VisionLanguageModel(VisionEncoder, Protocol):
    """A vision encoder with a text tower. Where the weights lack one, the methods raise `CheckpointError`."""

    @property
    def can_match(self) -> bool:
        """Whether `match` works: the weights have a head for image-text matching."""

    def embed_image(self, images: Sequence[ImageInput]) -> NDArray[np.float32]:
        """Return (N, E) float32, L2-normalised, comparable with `embed_text`."""

    def embed_text(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return (N, E) float32, L2-normalised, comparable with `embed_image`."""

    def match(self, image: ImageInput, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return the probabilities that the image and each text belong together, (N,) float32, in 0 to 1."""
