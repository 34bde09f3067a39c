"""The images of a data set at a model's size, in a file, so that memory does not grow with the data set."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusar_klip.models import Preprocess

Squares = NDArray[np.uint8]


@contextmanager
def resized(files: Sequence[Path], preprocess: Preprocess, centre: float = 1.0) -> Iterator[Squares]:
    """Give (N, S, S) uint8, which are gone with the block.

    Args:
        files: N images.
        preprocess: The model's.
        centre: Share of each image's width and height that is kept, around its centre.
    """
    shape = (len(files), preprocess.size, preprocess.size)
    with tempfile.TemporaryDirectory() as folder:
        squares = np.lib.format.open_memmap(Path(folder) / "squares.npy", "w+", np.uint8, shape)
        for square, file in zip(squares, files, strict=True):
            square[:] = preprocess.resize(file if centre == 1 else central_part(file, centre))
        yield squares


def central_part(file: Path, share: float) -> Image.Image:
    """Return `share` of an image's width and height, around its centre."""
    with Image.open(file) as image:
        width, height = (max(1, round(share * side)) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))
