"""From an image to the network's input: one implementation for training, benchmark and search."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor

from fusar_klip.errors import CheckpointError, DatasetError
from fusar_klip.files import write_json
from fusar_klip.image_io import read_image, to_single_channel

ImageInput: TypeAlias = str | Path | npt.NDArray[np.uint8] | Image.Image
"""The path of an image of any depth (`image_io.read_image`), (H, W) or (H, W, 3) uint8, or a Pillow image."""


@dataclass(frozen=True)
class Preprocess:
    """Resize to a square and standardise. It belongs to the weights and is saved beside them.

    Attributes:
        size: Side of the input in pixels.
        mean: Mean of the training pixels, in 0 to 1.
        std: Standard deviation of the training pixels, in 0 to 1.
    """

    size: int
    mean: float = 0.5
    std: float = 0.25

    def __call__(self, image: ImageInput) -> Tensor:
        """Return (1, size, size) float32.

        Raises:
            DatasetError: The image cannot be read.
        """
        return self.standardise(self.resize(image)[None])[0]

    def batch(self, images: Sequence[ImageInput]) -> Tensor:
        """Return (N, 1, size, size) float32."""
        squares = np.empty((len(images), self.size, self.size), np.uint8)
        for square, image in zip(squares, images, strict=True):
            square[:] = self.resize(image)
        return self.standardise(squares)

    def resize(self, image: ImageInput) -> npt.NDArray[np.uint8]:
        """Return (size, size) uint8: one channel, resized with an anti-aliased triangle filter."""
        grey = _grey(image)
        if grey.size != (self.size, self.size):
            # Bilinear with Pillow's support scaling averages when shrinking. Bicubic would overshoot around
            # the bright scatterers of SAR, and nearest would drop them.
            grey = grey.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(grey)

    def standardise(self, squares: npt.NDArray[np.uint8]) -> Tensor:
        """Return (N, 1, S, S) float32 of (N, S, S) uint8: (x / 255 - mean) / std."""
        pixels = torch.from_numpy(squares.astype(np.float32))[:, None]
        return (pixels / 255.0 - self.mean) / self.std

    def save(self, path: Path) -> None:
        """Write `preprocess.json`, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read `preprocess.json`.

        Raises:
            CheckpointError: The file is missing or holds something else.
        """
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}; give a whole RUN folder") from error
        except ValueError as error:
            raise CheckpointError(
                f"{path} is no preprocess.json of a run: give a whole RUN folder"
            ) from error


def _grey(image: ImageInput) -> Image.Image:
    if isinstance(image, Image.Image):
        return Image.fromarray(to_single_channel(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise DatasetError(
                f"an image array must be (H, W) or (H, W, 3) uint8, not {image.shape} {image.dtype}: "
                "map it to 8 bits first"
            )
        return Image.fromarray(image).convert("L")
    return Image.fromarray(read_image(Path(image)))
