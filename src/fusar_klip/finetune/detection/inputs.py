"""Images and boxes as the detector's input: letterboxed into a square; at a random scale for training.

Letters: S side of the square, N boxes, M ignored boxes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fusar_klip.datasets.labelled_data import ImageWithBoxes
from fusar_klip.finetune.settings import Flips
from fusar_klip.image_io import read_image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

MIN_VISIBLE = 0.3
"""A box of which a crop leaves less than this share is ignored: what is left does not show its class."""
MIN_SIDE = 1.0
"""Boxes whose shorter side becomes less than one pixel are ignored."""


@dataclass(frozen=True)
class DetectorInput:
    """One image for the detector."""

    square: Pixels
    """(S, S) uint8: the image from the top left corner on, then 0 (no data)."""
    size: tuple[int, int]
    """Height and width of the image within the square."""
    boxes: Floats
    """(N, 4) left, top, right, bottom in pixels of the square."""
    labels: NDArray[np.int64]
    """(N,) from 1: an index into the classes, plus 1."""
    ignored: Floats
    """(M, 4) boxes that count neither as objects nor as background."""

    def target(self, device: torch.device) -> dict[str, Tensor]:
        """Return the boxes as the detector's training target."""
        return {
            "boxes": torch.from_numpy(self.boxes.astype(np.float32)).to(device),
            "labels": torch.from_numpy(self.labels).to(device),
            "ignored": torch.from_numpy(self.ignored.astype(np.float32)).to(device),
        }


def letterboxed(image: ImageWithBoxes, classes: tuple[str, ...], side: int) -> tuple[DetectorInput, float]:
    """Return the whole image in the square, and the factor from its pixels to the square's."""
    pixels = read_image(image.file)
    scale = side / max(pixels.shape)
    drawn = _resized(pixels, scale, side)
    return _detector_input(drawn, box_corners(image) * scale, image, classes, side), scale


def training_input(
    image: ImageWithBoxes,
    classes: tuple[str, ...],
    side: int,
    *,
    scales: tuple[float, float],
    gain: float,
    flips: Flips,
    rng: np.random.Generator,
) -> DetectorInput:
    """Return an image flipped, amplified and resized at random; what exceeds the square is cropped."""
    pixels, boxes = _flipped(read_image(image.file), box_corners(image), flips, rng)
    low, high = (math.log(value) for value in scales)
    scale = side / max(pixels.shape) * math.exp(rng.uniform(low, high))
    drawn = _resized(pixels, scale, None)
    top, left = (int(rng.integers(max(0, length - side) + 1)) for length in drawn.shape)
    drawn = drawn[top : top + side, left : left + side]
    amplified = np.minimum(drawn * rng.uniform(1 - gain, 1 + gain) + 0.5, 255).astype(np.uint8)
    return _detector_input(amplified, boxes * scale - (left, top, left, top), image, classes, side)


def box_corners(image: ImageWithBoxes) -> Floats:
    """Return (N, 4) left, top, right, bottom of an image's boxes, in its pixels."""
    corners = [(b.x, b.y, b.x + b.width, b.y + b.height) for b in image.boxes]
    return np.array(corners, dtype=np.float64).reshape(-1, 4)


def _detector_input(
    drawn: Pixels, boxes: Floats, image: ImageWithBoxes, classes: tuple[str, ...], side: int
) -> DetectorInput:
    height, width = drawn.shape
    square = np.zeros((side, side), dtype=np.uint8)
    square[:height, :width] = drawn
    visible = np.clip(boxes, 0, (width, height, width, height))
    area, visible_area = _area(boxes), _area(visible)
    labels = np.array([1 + classes.index(box.category) for box in image.boxes], dtype=np.int64)
    difficult = np.array([box.difficult for box in image.boxes], dtype=np.bool_)
    inside = visible_area > 0
    short = (visible[:, 2:] - visible[:, :2]).min(axis=1, initial=np.inf) < MIN_SIDE
    objects = inside & ~difficult & ~short & (visible_area >= MIN_VISIBLE * area)
    return DetectorInput(
        square, (height, width), visible[objects], labels[objects], visible[inside & ~objects]
    )


def _area(boxes: Floats) -> Floats:
    return np.asarray(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1))


def _resized(pixels: Pixels, scale: float, longest: int | None) -> Pixels:
    """Return the image times `scale`, no side longer than `longest`."""
    height, width = (max(1, round(length * scale)) for length in pixels.shape)
    if longest is not None:
        height, width = min(height, longest), min(width, longest)
    if (height, width) == pixels.shape:
        return pixels
    # As in `models.Preprocess`: averages when shrinking, never overshoots.
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _flipped(pixels: Pixels, boxes: Floats, flips: Flips, rng: np.random.Generator) -> tuple[Pixels, Floats]:
    if flips == "none":
        return pixels, boxes
    for _ in range(int(rng.integers(4)) if flips == "all" else 0):
        # A quarter turn to the left takes column x to row width - x.
        left, top, right, bottom = boxes.T
        boxes = np.stack([top, pixels.shape[1] - right, bottom, pixels.shape[1] - left], axis=1)
        pixels = np.rot90(pixels)
    if rng.random() < 0.5:
        left, top, right, bottom = boxes.T
        boxes = np.stack([pixels.shape[1] - right, top, pixels.shape[1] - left, bottom], axis=1)
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels), boxes
