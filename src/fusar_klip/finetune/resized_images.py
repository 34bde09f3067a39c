"""The images of a data set at a model's input size, in a temporary file, so that they need no memory."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusar_klip.image_io import read_image
from fusar_klip.models import Preprocess

ResizedImages = NDArray[np.uint8]
"""(N, S, S) uint8: N images of S x S pixels, 0 = no data."""


@contextmanager
def resized_images(
    files: Sequence[Path], preprocess: Preprocess, centre: float = 1.0
) -> Iterator[ResizedImages]:
    """Give (N, S, S) uint8, which exist within the `with` block only.

    Args:
        files: N images.
        preprocess: The model's, which fixes S.
        centre: Share of each image's width and height that is used, around its centre.
    """
    shape = (len(files), preprocess.size, preprocess.size)
    with tempfile.TemporaryDirectory() as folder:
        images_nss = np.lib.format.open_memmap(Path(folder) / "images.npy", "w+", np.uint8, shape)
        for image, file in zip(images_nss, files, strict=True):
            image[:] = preprocess.resize(file if centre == 1 else central_part(file, centre))
        yield images_nss


def central_part(file: Path, share: float) -> NDArray[np.uint8]:
    """Return `share` of an image's width and height, around its centre: (H, W) uint8."""
    image = read_image(file)
    height, width = (max(1, round(share * side)) for side in image.shape)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
