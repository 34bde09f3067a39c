"""Windows of images and masks for Segmenter: random windows for training, sliding windows for evaluation.

Letters: H and W an image's height and width, S side of a window, I images of a place, K classes, B batch.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fusar_klip.datasets.labelled_data import IGNORED, ClassTable, ImageWithMask, read_mask
from fusar_klip.errors import DatasetError
from fusar_klip.finetune.settings import Flips
from fusar_klip.image_io import read_image

Pixels = NDArray[np.uint8]


def read_images(image: ImageWithMask, before: bool) -> Pixels:
    """Return (I, H, W) uint8: the image, and then, with `before`, the one before the event.

    Raises:
        DatasetError: An image cannot be read, or the two differ in size.
    """
    files = [image.file, image.before] if before and image.before else [image.file]
    images = [read_image(file) for file in files]
    if len({pixels.shape for pixels in images}) > 1:
        raise DatasetError(f"{image.file} and {image.before} differ in size: cut them to the same area")
    return np.stack(images)


def checked_mask(image: ImageWithMask, table: ClassTable, shape: tuple[int, ...]) -> Pixels:
    """Return (H, W) uint8 classes of an image.

    Raises:
        DatasetError: The mask has unknown values, or another size than the image.
    """
    mask = read_mask(image.mask, table)
    if mask.shape != shape:
        raise DatasetError(
            f"the mask {image.mask} is {mask.shape}, and its image {shape}: give a mask of the image's size"
        )
    return mask


def training_window(
    images: Pixels,
    mask: Pixels,
    side: int,
    *,
    zoom: float,
    scales: tuple[float, float],
    gain: float,
    flips: Flips,
    rng: np.random.Generator,
) -> tuple[Pixels, Pixels]:
    """Return a random window (I, S, S) and its mask (S, S); beyond the image are 0 and `IGNORED`."""
    low, high = (math.log(value) for value in scales)
    scale = zoom * math.exp(rng.uniform(low, high))
    height, width = (max(1, round(length * scale)) for length in mask.shape)
    top, left = (int(rng.integers(max(0, length - side) + 1)) for length in (height, width))
    pixels = np.stack([resized(image, (height, width), Image.Resampling.BILINEAR) for image in images])
    classes = resized(mask, (height, width), Image.Resampling.NEAREST)
    pixels = pixels[:, top : top + side, left : left + side]
    classes = classes[top : top + side, left : left + side]
    amplified = np.minimum(pixels * rng.uniform(1 - gain, 1 + gain) + 0.5, 255).astype(np.uint8)
    window_iss, mask_ss = _padded(amplified, side, 0), _padded(classes, side, IGNORED)
    quarter_turns = int(rng.integers(4)) if flips == "all" else 0
    window_iss, mask_ss = np.rot90(window_iss, quarter_turns, (1, 2)), np.rot90(mask_ss, quarter_turns)
    if flips != "none" and rng.random() < 0.5:
        window_iss, mask_ss = window_iss[..., ::-1], mask_ss[:, ::-1]
    return np.ascontiguousarray(window_iss), np.ascontiguousarray(mask_ss)


def sliding_window_logits(
    images: Pixels, side: int, zoom: float, overlap: float, logits: Callable[[Pixels], Tensor]
) -> Tensor:
    """Return (K, H, W) class logits of a whole image, the mean over the windows that cover a pixel.

    Args:
        images: (I, H, W).
        side: S.
        zoom: Factor by which the image is enlarged before windows are cut.
        overlap: Overlap of neighbouring windows as a share of S.
        logits: From (B, I, S, S) windows to (B, K, S, S).
    """
    size = images.shape[1:]
    height, width = (max(1, round(length * zoom)) for length in size)
    pixels = np.stack([resized(image, (height, width), Image.Resampling.BILINEAR) for image in images])
    rows, columns = (window_starts(length, side, overlap) for length in (height, width))
    total, count = None, torch.zeros(height, width)
    for top in rows:
        windows = [_padded(pixels[:, top : top + side, left : left + side], side, 0) for left in columns]
        logits_bkss = logits(np.stack(windows)).cpu()
        if total is None:
            total = torch.zeros(logits_bkss.shape[1], height, width)
        for left, logits_kss in zip(columns, logits_bkss, strict=True):
            covered = total[:, top : top + side, left : left + side]
            covered += logits_kss[:, : covered.shape[1], : covered.shape[2]]
            count[top : top + side, left : left + side] += 1
    assert total is not None
    mean = total / count
    if (height, width) == size:
        return mean
    return F.interpolate(mean[None], size, mode="bilinear", antialias=zoom > 1)[0]


def window_starts(length: int, side: int, overlap: float) -> Sequence[int]:
    """Return the first pixels of windows that cover a length; the last window ends with it."""
    if length <= side:
        return [0]
    steps = math.ceil((length - side) / max(1, round(side * (1 - overlap))))
    return [round(step * (length - side) / steps) for step in range(steps + 1)]


def resized(image: Pixels, size: tuple[int, int], resampling: Image.Resampling) -> Pixels:
    """Return an image at a height and width."""
    if image.shape == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), resampling))


def _padded(image: Pixels, side: int, value: int) -> Pixels:
    down, right = side - image.shape[-2], side - image.shape[-1]
    margins = [(0, 0)] * (image.ndim - 2) + [(0, down), (0, right)]
    return np.pad(image, margins, constant_values=value)
