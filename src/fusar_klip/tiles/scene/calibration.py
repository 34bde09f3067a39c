"""Sigma0 from the look-up table of a Sentinel-1 product's calibration annotation.

Sentinel-1 Product Specification, S1-RS-MDA-52-7441, "calibration data set record": the radiometric
calibration of level-1 products divides |DN|^2 by A_sigma^2, A_sigma bilinear between the table's points.
Thermal noise is not subtracted.
"""

from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from fusar_klip.errors import SceneError

_MEND = "get the product again, or leave scene.calibration out"


@dataclass(frozen=True)
class Calibration:
    """The sigma0 look-up table of one measurement file.

    Attributes:
        lines: (L,) float64, strictly increasing rows of the table's vectors; the first may lie above row 0.
        pixels: (P,) float64, strictly increasing columns.
        sigma: (L, P) float64, A_sigma, positive.
    """

    lines: NDArray[np.float64]
    pixels: NDArray[np.float64]
    sigma: NDArray[np.float64]

    def sigma0(self, dn: NDArray[np.generic], row: int, col: int) -> NDArray[np.float32]:
        """Return the amplitude |DN| / A_sigma, whose square is sigma0 in linear units.

        Args:
            dn: (h, w) digital numbers, real or complex; 0 = no data.
            row: The scene's row of dn[0, 0].
            col: The scene's column of dn[0, 0].

        Returns:
            (h, w) float32; 0 where `dn` is 0.
        """
        height, width = dn.shape
        upper, row_share = _between(self.lines, row + np.arange(height))
        left, col_share = _between(self.pixels, col + np.arange(width))
        # Along the lines first: a window needs few of the table's columns in between only.
        table = self.sigma[upper] * (1 - row_share)[:, None] + self.sigma[upper + 1] * row_share[:, None]
        a_sigma = table[:, left] * (1 - col_share) + table[:, left + 1] * col_share
        amplitude: NDArray[np.float32] = (np.abs(dn) / a_sigma).astype(np.float32)
        return amplitude


def _between(
    knots: NDArray[np.float64], at: NDArray[np.int_]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the index of the knot at or before each position, and the share of the next; flat outside."""
    index = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
    share = (at - knots[index]) / (knots[index + 1] - knots[index])
    return index, np.clip(share, 0.0, 1.0)


def calibration_of(root: Element, name: str) -> Calibration:
    """Read the sigmaNought vectors of a calibration annotation.

    Args:
        root: The document's root, without namespaces.
        name: What errors call it.

    Raises:
        SceneError: There are under two vectors, or one is no increasing, positive table.
    """
    vectors = sorted(
        (
            (_numbers(v, "line", name), _numbers(v, "pixel", name), _numbers(v, "sigmaNought", name))
            for v in root.iterfind("calibrationVectorList/calibrationVector")
        ),
        key=lambda vector: float(vector[0][0]),
    )
    if len(vectors) < 2:
        raise SceneError(f"{name} has {len(vectors)} calibration vectors, and needs two: {_MEND}")
    lines = np.concatenate([line[:1] for line, _, _ in vectors])
    pixels = vectors[0][1]
    for _, columns, sigma in vectors:
        increasing = len(columns) >= 2 and bool((np.diff(columns) > 0).all())
        if len(columns) != len(sigma) or not increasing or not bool((sigma > 0).all()):
            raise SceneError(f"{name} has a damaged calibration vector: {_MEND}")
    if not bool((np.diff(lines) > 0).all()):
        raise SceneError(f"{name} has two calibration vectors of one line: {_MEND}")
    # Vectors mostly share their columns; where they do not, the first one's serve for all.
    table = np.stack([np.interp(pixels, columns, sigma) for _, columns, sigma in vectors])
    return Calibration(lines=lines, pixels=pixels, sigma=table)


def _numbers(vector: Element, tag: str, name: str) -> NDArray[np.float64]:
    try:
        numbers = np.array((vector.findtext(tag) or "").split(), np.float64)
    except ValueError:
        numbers = np.empty(0)
    if not numbers.size or not bool(np.isfinite(numbers).all()):
        raise SceneError(f"{name} has a calibration vector without numbers in {tag}: {_MEND}")
    return numbers
