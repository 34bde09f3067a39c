"""Near-duplicate detection: one image under the eight flips and rotations, shifts, noise, gains and crops.

1. The images with the nearest magnitude spectra, in four orientations, are an image's candidates.
2. Their cross-correlation at half size gives the symmetry (flip and rotation) and the shift.
3. The normalised correlation of the overlap at full size decides. Where it is between the two thresholds, a
   pair is a near-duplicate if its remaining difference is noise.

Not found: copies that were resized, crops that share less than half of the smaller one, and (on purpose)
another acquisition of the same place.

Letters: N images, O orientations, K candidates of each image, B a batch of pairs, P the padded side.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fusar_klip.datasets.near_duplicates.signatures import Floats, Signatures
from fusar_klip.progress import track

Ints = NDArray[np.int64]
Window = tuple[slice, slice]
Value = TypeVar("Value", bound=np.generic)

MIN_SCORE = 0.92
"""Pairs of at least this score are near-duplicates."""
MIN_NOISY_SCORE = 0.72
"""So are pairs of at least this score whose difference is noise: perf/near_duplicates.py measures both."""
MAX_NOISE_CORRELATION = 0.14
"""Largest correlation of neighbouring pixels of noise; the difference of two acquisitions has more."""
MIN_CLIPPED_CORRELATION, MIN_CLIPPED_CORRELATION_REDUCED = 0.36, 0.5
"""Least correlation of a pair's clipped structure; pairs below share bright scatterers alone. It is higher
for images that were reduced in size, because reduction removes noise."""
MAX_NOISE_STD = 20.0
"""Largest standard deviation of noise, in 8-bit levels of the files: 8 % of the range."""
CANDIDATES = 20
"""Number of candidates of each image by each of its two spectra; a larger group of copies is found link by
link."""
MIN_OVERLAP = 0.5
"""Least share of the smaller crop's area that two crops have in common."""

SYMMETRIES = ("same", "90", "180", "270", "flip", "flip 90", "flip 180", "flip 270")
"""Maps the second image onto the first: flipped left to right, then rotated counter-clockwise by degrees."""
# The two symmetries that have the same spectrum, for each of its four orientations.
_SYMMETRIES_OF_SPECTRUM = ((0, 2), (4, 6), (1, 3), (5, 7))
_BATCH = 256
_BLOCK = 512
# Pairs of a lower coarse correlation are dropped: other images seldom reach it, copies seldom fall below.
_MIN_COARSE = 0.35
_SMALLEST = 12
# The coarse shift is two pixels off at most: half a pixel of the half size, and an odd side cut.
_STEPS = 3


@dataclass(frozen=True)
class Match:
    """Two images that are near-duplicates, by index."""

    first: int
    second: int
    score: float
    """Mean of the normalised correlations of structure and texture over the overlap, at most 1."""
    symmetry: str
    """One of `SYMMETRIES`."""
    down: int
    """Row of the transformed second image's top left corner in the first, in pixels of the files."""
    right: int
    """Column of that corner."""


def find_near_duplicates(
    files: Sequence[Path], *, min_score: float = MIN_SCORE, min_noisy_score: float = MIN_NOISY_SCORE
) -> list[Match]:
    """Return all pairs that are near-duplicates, by index into `files`, first < second, ascending.

    Args:
        files: Images of any size and depth (`image_io.read_image`).
        min_score: Pairs of at least this score are returned.
        min_noisy_score: So are pairs of at least this score whose difference is noise.

    Raises:
        DatasetError: A file cannot be read.
    """
    if len(files) < 2:
        return []
    signatures = Signatures(files)
    pairs = np.unique(np.concatenate([_candidates(of_kind) for of_kind in signatures.spectra()]), axis=0)
    best: dict[tuple[int, int], Match] = {}
    for match in _verified(signatures, pairs, min_score, min_noisy_score):
        pair = (match.first, match.second)
        if pair not in best or match.score > best[pair].score:
            best[pair] = match
    return [best[pair] for pair in sorted(best)]


def group_ids(count: int, matches: Sequence[Match]) -> Ints:
    """Return (count,) the group of each image: images that matches link, directly or in turn, share one."""
    first, second = ([getattr(match, end) for match in matches] for end in ("first", "second"))
    links = coo_array((np.ones(len(matches)), (first, second)), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)


def transformed(chip: NDArray[Value], symmetry: int) -> NDArray[Value]:
    """Return a chip under `SYMMETRIES[symmetry]`."""
    return np.rot90(chip[:, ::-1] if symmetry >= 4 else chip, symmetry % 4)


def _candidates(spectra: NDArray[np.float32]) -> Ints:
    """Return (pairs, 3): two images, first < second, and the orientation that fits them best."""
    orientations, count, _ = spectra.shape
    nearest = min(CANDIDATES, count - 1)
    found: dict[tuple[int, int], int] = {}
    for start in track(range(0, count, _BLOCK), "Nearest spectra"):
        block = spectra[0, start : start + _BLOCK]
        likeness = np.stack([block @ spectra[o].T for o in range(orientations)])
        best = likeness.argmax(axis=0)
        most = likeness.max(axis=0)
        rows = np.arange(len(block))
        most[rows, start + rows] = -np.inf
        for row, columns in enumerate(np.argpartition(-most, nearest - 1, axis=1)[:, :nearest]):
            for column in columns.tolist():
                pair = (start + row, column) if start + row < column else (column, start + row)
                found[pair] = int(best[row, column])
    return np.array([(*pair, orientation) for pair, orientation in sorted(found.items())], dtype=np.int64)


def _verified(
    signatures: Signatures, pairs: Ints, min_score: float, min_noisy_score: float
) -> Iterator[Match]:
    """Yield a match for each pair that is one; a pair with two orientations may come twice."""
    side = fft.next_fast_len(signatures.longest // 2 * 3 // 2 + 1, real=True)
    batches = [pairs[start : start + _BATCH] for start in range(0, len(pairs), _BATCH)]
    # The transforms and filters let go of the interpreter, so threads share the work.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        results = threads.map(
            lambda batch: _verified_batch(signatures, batch, side, min_score, min_noisy_score), batches
        )
        for matches in track(results, "Comparing pairs", len(batches)):
            yield from matches


def _verified_batch(
    signatures: Signatures, batch: Ints, side: int, min_score: float, min_noisy_score: float
) -> list[Match]:
    coarse, place, down, right = _peaks(signatures, batch, side)
    matches = []
    for row in np.flatnonzero(coarse >= _MIN_COARSE).tolist():
        first, second, orientation = batch[row].tolist()
        symmetry = _SYMMETRIES_OF_SPECTRUM[orientation][int(place[row])]
        match = _fine(signatures, first, second, symmetry, 2 * int(down[row]), 2 * int(right[row]))
        if match is not None and (
            match.score >= min_score
            or (match.score >= min_noisy_score and _differs_by_noise(signatures, match))
        ):
            matches.append(match)
    return matches


def _peaks(signatures: Signatures, batch: Ints, side: int) -> tuple[Floats, Ints, Ints, Ints]:
    """Return (B,) each pair's highest correlation at half size, its symmetry (0 or 1), and its shift."""
    firsts, which = np.unique(batch[:, 0], return_inverse=True)
    first = np.zeros((len(firsts), side, side), dtype=np.float32)
    second = np.zeros((len(batch), side, side), dtype=np.float32)
    for row, i in enumerate(firsts.tolist()):
        x = signatures.half(i)
        first[row, : x.shape[0], : x.shape[1]] = x
    shapes = np.empty((len(batch), 2), dtype=np.int64)
    for row, (_, j, orientation) in enumerate(batch.tolist()):
        y = transformed(signatures.half(j), _SYMMETRIES_OF_SPECTRUM[orientation][0])
        second[row, : y.shape[0], : y.shape[1]] = y
        shapes[row] = y.shape
    first_shapes = np.array([signatures.half(i).shape for i in firsts.tolist()])[which]
    x_fpp = fft.rfft2(first)[which]
    y_fpp = fft.rfft2(second)
    unrotated = fft.irfft2(x_fpp * np.conj(y_fpp), (side, side))
    # The correlation with y rotated by 180 degrees is a convolution; its index runs from y's last row and
    # column.
    rotated = fft.irfft2(x_fpp * y_fpp, (side, side))
    lags = np.rint(fft.fftfreq(side, 1 / side)).astype(np.int64)
    allowed = _overlap(first_shapes, shapes, lags) >= MIN_OVERLAP * np.minimum(
        first_shapes.prod(axis=1), shapes.prod(axis=1)
    ).reshape(-1, 1, 1)
    rows = np.arange(len(batch))
    for row, (height, width) in enumerate(shapes.tolist()):
        rotated[row] = np.roll(rotated[row], (1 - height, 1 - width), axis=(0, 1))
    values, peaks = [], []
    for correlation in (unrotated, rotated):
        flat = np.where(allowed, correlation, np.float32(-1)).reshape(len(batch), -1)
        peaks.append(flat.argmax(axis=1))
        values.append(flat[rows, peaks[-1]])
    place = np.asarray(values[1] > values[0], dtype=np.int64)
    peak = np.stack(peaks)[place, rows]
    return np.stack(values)[place, rows], place, lags[peak // side], lags[peak % side]


def _overlap(first: Ints, second: Ints, lags: Ints) -> Ints:
    """Return (B, P, P) how many pixels two shapes (B, 2) share at each shift down and right."""
    shared = [
        np.maximum(np.minimum(first[:, a, None], second[:, a, None] + lags) - np.maximum(0, lags), 0)
        for a in (0, 1)
    ]
    return np.asarray(shared[0][:, :, None] * shared[1][:, None, :], dtype=np.int64)


def _fine(
    signatures: Signatures, first: int, second: int, symmetry: int, down: int, right: int
) -> Match | None:
    """Return the match at the best shift near the coarse one; None where overlap or likeness is too small."""
    texture, structure, clipped = signatures.channels(first)
    other_texture, other_structure, other_clipped = (
        transformed(c, symmetry) for c in signatures.channels(second)
    )
    tried: dict[tuple[int, int], float] = {}
    best = (down, right)
    for _ in range(_STEPS):
        around = [(best[0] + d, best[1] + r) for d in (-1, 0, 1) for r in (-1, 0, 1)]
        for shift in around:
            if shift not in tried:
                tried[shift] = _overlap_correlation(structure, other_structure, shift)
        before, best = best, max(around, key=lambda shift: tried[shift])
        if best == before:
            break
    reduced = signatures.factor > 1
    least = MIN_CLIPPED_CORRELATION_REDUCED if reduced else MIN_CLIPPED_CORRELATION
    if tried[best] < 0 or _overlap_correlation(clipped, other_clipped, best) < least:
        return None
    score = (tried[best] + _overlap_correlation(texture, other_texture, best)) / 2
    scale = signatures.factor
    return Match(first, second, round(score, 4), SYMMETRIES[symmetry], best[0] * scale, best[1] * scale)


def _differs_by_noise(signatures: Signatures, match: Match) -> bool:
    """Return whether the difference of a pair, apart from gain and offset, is noise.

    Neighbouring pixels of noise are uncorrelated, whereas two images that are merely similar differ by whole
    scatterers. Values beyond three standard deviations are clipped: black margins of a shift are no noise.
    """
    first = signatures.chips[match.first].astype(np.float64)
    second = transformed(signatures.chips[match.second], SYMMETRIES.index(match.symmetry)).astype(np.float64)
    shift = (match.down // signatures.factor, match.right // signatures.factor)
    windows = _overlap_windows(first.shape, second.shape, shift)
    assert windows is not None
    x, y = (chip[window] - chip[window].mean() for chip, window in zip((first, second), windows, strict=True))
    least = 1.0
    # Either image may be the noisy one.
    for clean, noisy in ((x, y), (y, x)):
        residual = noisy - np.vdot(clean, noisy) / max(float(np.vdot(clean, clean)), 1e-9) * clean
        residual -= np.median(residual)
        limit = 3 * 1.4826 * float(np.median(np.abs(residual))) + 1e-6
        residual = np.clip(residual, -limit, limit)
        residual -= residual.mean()
        if float(residual.std()) * signatures.factor > MAX_NOISE_STD:
            continue
        neighbours = (residual[:, 1:] * residual[:, :-1]).mean() + (residual[1:] * residual[:-1]).mean()
        least = min(least, float(neighbours / 2 / max(residual.var(), 1e-9)))
    return least <= MAX_NOISE_CORRELATION


def _overlap_correlation(first: Floats, second: Floats, shift: tuple[int, int]) -> float:
    """Return Pearson's correlation where two images overlap; -1 where too little of them does."""
    windows = _overlap_windows(first.shape, second.shape, shift)
    if windows is None:
        return -1.0
    x, y = first[windows[0]], second[windows[1]]
    x, y = x - x.mean(), y - y.mean()
    energy = float(np.sqrt(np.vdot(x, x) * np.vdot(y, y)))
    return float(np.vdot(x, y)) / energy if energy > 1e-6 else -1.0


def _overlap_windows(
    first: tuple[int, ...], second: tuple[int, ...], shift: tuple[int, int]
) -> tuple[Window, Window] | None:
    """Return what two shapes share, as a window into each; None where it is too little."""
    spans = [
        (max(0, move), min(length, other + move))
        for length, other, move in zip(first, second, shift, strict=True)
    ]
    (top, bottom), (left, right) = spans
    least = MIN_OVERLAP * min(first[0] * first[1], second[0] * second[1])
    if min(bottom - top, right - left) < _SMALLEST or (bottom - top) * (right - left) < least:
        return None
    down, aside = shift
    return (
        (slice(top, bottom), slice(left, right)),
        (slice(top - down, bottom - down), slice(left - aside, right - aside)),
    )
