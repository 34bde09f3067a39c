"""Images and boxes as the detector sees them: in a square, the aspect kept; at random scales to learn.

Letters: S side of the square, N boxes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fusar_klip.benchmark.settings import Flips
from fusar_klip.datasets.samples import AnnotatedImage
from fusar_klip.image_io import read_image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

LEAST_SHOWN = 0.3
"""A box of which a crop leaves less than this share is ignored: what is left does not show its class."""
LEAST_SIDE = 1.0
"""Boxes whose shorter side becomes less than one pixel are ignored."""


@dataclass(frozen=True)
class View:
    """One image for the detector."""

    square: Pixels
    """(S, S) uint8: the image from the top left corner on, then 0 (no data)."""
    size: tuple[int, int]
    """Height and width of what the square holds."""
    boxes: Floats
    """(N, 4) left, top, right, bottom in pixels of the square."""
    labels: NDArray[np.int64]
    """(N,) from 1: an index into the classes, plus 1."""
    ignored: Floats
    """(M, 4) boxes that count neither as objects nor as background."""

    def target(self, device: torch.device) -> dict[str, Tensor]:
        """Return the boxes as the detector learns them."""
        return {
            "boxes": torch.from_numpy(self.boxes.astype(np.float32)).to(device),
            "labels": torch.from_numpy(self.labels).to(device),
            "ignored": torch.from_numpy(self.ignored.astype(np.float32)).to(device),
        }


def whole_view(image: AnnotatedImage, classes: tuple[str, ...], side: int) -> tuple[View, float]:
    """Return an image whole in the square, and the factor from its pixels to the square's."""
    grey = read_image(image.file)
    scale = side / max(grey.shape)
    view = _view(_resized(grey, scale, side), boxes_of(image) * scale, image, classes, side)
    return view, scale


def training_view(
    image: AnnotatedImage,
    classes: tuple[str, ...],
    side: int,
    *,
    scales: tuple[float, float],
    gain: float,
    flips: Flips,
    rng: np.random.Generator,
) -> View:
    """Return an image turned, amplified, and drawn larger or smaller; what is too large is cropped."""
    grey, boxes = _turned(read_image(image.file), boxes_of(image), flips, rng)
    low, high = (math.log(value) for value in scales)
    scale = side / max(grey.shape) * math.exp(rng.uniform(low, high))
    drawn = _resized(grey, scale, None)
    top, left = (int(rng.integers(max(0, length - side) + 1)) for length in drawn.shape)
    drawn = drawn[top : top + side, left : left + side]
    amplified = np.minimum(drawn * rng.uniform(1 - gain, 1 + gain) + 0.5, 255).astype(np.uint8)
    return _view(amplified, boxes * scale - (left, top, left, top), image, classes, side)


def boxes_of(image: AnnotatedImage) -> Floats:
    """Return (N, 4) left, top, right, bottom of an image's boxes, in its pixels."""
    corners = [(b.x, b.y, b.x + b.width, b.y + b.height) for b in image.boxes]
    return np.array(corners, dtype=np.float64).reshape(-1, 4)


def _view(drawn: Pixels, boxes: Floats, image: AnnotatedImage, classes: tuple[str, ...], side: int) -> View:
    height, width = drawn.shape
    square = np.zeros((side, side), dtype=np.uint8)
    square[:height, :width] = drawn
    cut = np.clip(boxes, 0, (width, height, width, height))
    whole, left = _area(boxes), _area(cut)
    labels = np.array([1 + classes.index(box.category) for box in image.boxes], dtype=np.int64)
    difficult = np.array([box.difficult for box in image.boxes], dtype=np.bool_)
    there = left > 0
    short = (cut[:, 2:] - cut[:, :2]).min(axis=1, initial=np.inf) < LEAST_SIDE
    learnt = there & ~difficult & ~short & (left >= LEAST_SHOWN * whole)
    return View(square, (height, width), cut[learnt], labels[learnt], cut[there & ~learnt])


def _area(boxes: Floats) -> Floats:
    return np.asarray(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1))


def _resized(grey: Pixels, scale: float, most: int | None) -> Pixels:
    """Return the image times `scale`, no side longer than `most`."""
    height, width = (max(1, round(length * scale)) for length in grey.shape)
    if most is not None:
        height, width = min(height, most), min(width, most)
    if (height, width) == grey.shape:
        return grey
    # As in `models.Preprocess`: averages when shrinking, never overshoots.
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR))


def _turned(grey: Pixels, boxes: Floats, flips: Flips, rng: np.random.Generator) -> tuple[Pixels, Floats]:
    if flips == "none":
        return grey, boxes
    for _ in range(int(rng.integers(4)) if flips == "all" else 0):
        # A quarter turn to the left takes column x to row width - x.
        left, top, right, bottom = boxes.T
        boxes = np.stack([top, grey.shape[1] - right, bottom, grey.shape[1] - left], axis=1)
        grey = np.rot90(grey)
    if rng.random() < 0.5:
        left, top, right, bottom = boxes.T
        boxes = np.stack([grey.shape[1] - right, top, grey.shape[1] - left, bottom], axis=1)
        grey = grey[:, ::-1]
    return np.ascontiguousarray(grey), boxes
