"""The images of a data set at a model's size, in a file, so that memory does not grow with the data set."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusar_klip.models import Preprocess

Squares = NDArray[np.uint8]


@contextmanager
def resized(files: Sequence[Path], preprocess: Preprocess) -> Iterator[Squares]:
    """Give (N, S, S) uint8, which are gone with the block."""
    shape = (len(files), preprocess.size, preprocess.size)
    with tempfile.TemporaryDirectory() as folder:
        squares = np.lib.format.open_memmap(Path(folder) / "squares.npy", "w+", np.uint8, shape)
        for square, file in zip(squares, files, strict=True):
            square[:] = preprocess.resize(file)
        yield squares
