"""The images of a data set at a model's size, in a file, so that memory does not grow with the data set."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusar_klip.image_io import read_image
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


def central_part(file: Path, share: float) -> NDArray[np.uint8]:
    """Return `share` of an image's width and height, around its centre: (H, W) uint8."""
    grey = read_image(file)
    height, width = (max(1, round(share * side)) for side in grey.shape)
    top, left = (grey.shape[0] - height) // 2, (grey.shape[1] - width) // 2
    return grey[top : top + height, left : left + width]
