"""One mapping of amplitude to 8 bits per scene, from a streamed histogram (paper 3.1, step 2).

All thresholds are in amplitude: `scene.Scene` turns intensity, dB and complex pixels into it first.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusar_klip.tiles.settings import MappingSettings

_CHUNK_PX = 1 << 16  # work on pieces that stay in the processor's cache
_SIGNIFICAND_BITS = 23
_BIN_BITS = 16  # low bits of a float32 inside one bin: bins under 0.8 % wide
_EXPONENT_OFFSET = 127 + _SIGNIFICAND_BITS  # a float32 is significand * 2**(exponent - 150)


@dataclass
class AmplitudeHistogram:
    """Counts of a scene's valid amplitudes: exact integers, so that neither order nor machine matters.

    Integer amplitude has one bin per value. float32 amplitude has one per value of its upper 16 bits, with
    the sum of the lower 16 bits kept by exponent: from both together the sum of all pixels is exact too.

    Attributes:
        dtype: "uint8", "uint16" or "float32".
        counts: (256,), (65536,) or (32768,) int64 counts; bin 0 stays empty for integers (no data).
        low_sums: (256,) int64 sums of lower significand bits by exponent; all 0 for integers.
    """

    dtype: str
    counts: NDArray[np.int64]
    low_sums: NDArray[np.int64]

    @classmethod
    def empty(cls, dtype: str) -> "AmplitudeHistogram":
        """Return a histogram of no pixels."""
        bins = {"uint8": 1 << 8, "uint16": 1 << 16, "float32": 1 << 15}[dtype]
        return cls(dtype, np.zeros(bins, np.int64), np.zeros(256, np.int64))

    def add(self, amplitude: NDArray[np.generic]) -> None:
        """Count the pixels of a block of `dtype`, any shape; 0 is no data."""
        flat = np.ascontiguousarray(amplitude).ravel()
        for start in range(0, flat.size, _CHUNK_PX):
            chunk = flat[start : start + _CHUNK_PX]
            if self.dtype == "float32":
                bits = chunk.view(np.uint32)
                self.counts += np.bincount(bits >> _BIN_BITS, minlength=self.counts.size)
                low = np.bincount(
                    bits >> _SIGNIFICAND_BITS, weights=bits & ((1 << _BIN_BITS) - 1), minlength=256
                )
                self.low_sums += low.astype(np.int64)  # exact: under 2**32 per chunk
            else:
                self.counts += np.bincount(chunk, minlength=self.counts.size)
        self.counts[0] = 0

    def merge(self, other: "AmplitudeHistogram") -> None:
        """Add the pixels of another block."""
        self.counts += other.counts
        self.low_sums += other.low_sums

    @property
    def count(self) -> int:
        """The number of valid pixels."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """The mean amplitude of the valid pixels; 0 if there are none."""
        if self.count == 0:
            return 0.0
        if self.dtype != "float32":
            # Python's integers do not overflow.
            return int(self.counts.astype(object) @ np.arange(self.counts.size).astype(object)) / self.count
        floors = (np.arange(self.counts.size, dtype=np.uint32) << _BIN_BITS).view(np.float32)
        used = np.flatnonzero(self.counts)
        terms = [int(self.counts[i]) * float(floors[i]) for i in used]
        terms += [
            math.ldexp(int(low), int(max(exponent, 1)) - _EXPONENT_OFFSET)
            for exponent, low in enumerate(self.low_sums)
            if low
        ]
        return math.fsum(terms) / self.count

    def percentile(self, percent: float) -> float:
        """Return the amplitude that `percent` of the valid pixels do not exceed.

        Exact for integers; for float32 the upper end of a bin that is under 0.8 % wide.
        """
        index = int(np.searchsorted(np.cumsum(self.counts), percent / 100 * self.count))
        if self.dtype != "float32":
            return float(index)
        return float(np.uint32((index + 1) << _BIN_BITS).view(np.float32))


@dataclass(frozen=True)
class EightBitMapping:
    """An invertible mapping of amplitude to 1..255; 0 stays no data.

    Attributes:
        method: The settings' method, or "identity" for a scene that is 8-bit already.
        threshold: The amplitude that 255 stands for; what is brighter saturates.
        floor: The amplitude that 1 stands for (`db`: threshold less the dynamic range; else 0).
        gamma: Exponent of the normalised amplitude; 0 marks the logarithmic mapping of `db`.
    """

    method: str
    threshold: float
    floor: float
    gamma: float

    def levels(self, amplitude: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Map amplitude, 0 = no data, to uint8 of the same shape, 0 = no data."""
        values = amplitude.astype(np.float32)
        if self.method == "identity":
            return values.astype(np.uint8)
        if self.gamma == 0:
            with np.errstate(divide="ignore"):
                share = np.log(values / np.float32(self.floor)) / np.log(self.threshold / self.floor)
        else:
            share = values / np.float32(self.threshold)
        np.clip(share, 0, 1, out=share)
        if self.gamma not in (0, 1):
            share **= np.float32(self.gamma)
        share *= 254
        np.rint(share, out=share)
        share += values > 0
        levels: NDArray[np.uint8] = share.astype(np.uint8)
        return levels

    def lookup_table(self, dtype: str) -> NDArray[np.uint8] | None:
        """Return the levels of all values of an integer `dtype`, (256,) or (65536,); None for float32."""
        if dtype == "float32":
            return None
        return self.levels(np.arange(np.iinfo(dtype).max + 1))

    def tags(self) -> dict[str, str]:
        """Return the parameters as GeoTIFF tags, so that every tile tells how to undo its mapping."""
        return {
            "MAPPING_METHOD": self.method,
            "MAPPING_THRESHOLD": repr(self.threshold),
            "MAPPING_FLOOR": repr(self.floor),
            "MAPPING_GAMMA": repr(self.gamma),
        }


IDENTITY = EightBitMapping("identity", 255.0, 0.0, 1.0)
"""For scenes that are 8-bit already."""


def to_levels(
    amplitude: NDArray[np.generic], mapping: EightBitMapping, lookup_table: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    """Map (H, W) amplitude to (H, W) uint8: by the table where there is one, in pieces that stay in cache."""
    if mapping.method == "identity":
        return amplitude.astype(np.uint8, copy=False)
    flat = np.ascontiguousarray(amplitude).ravel()
    levels = np.empty(flat.size, np.uint8)
    for start in range(0, flat.size, _CHUNK_PX):
        piece = slice(start, start + _CHUNK_PX)
        if lookup_table is None:
            levels[piece] = mapping.levels(flat[piece])
        else:
            np.take(lookup_table, flat[piece], out=levels[piece], mode="clip")
    return levels.reshape(amplitude.shape)


def fit_mapping(histogram: AmplitudeHistogram, settings: MappingSettings) -> EightBitMapping:
    """Choose the scene's threshold (decisions.md "8-bit mapping")."""
    match settings.method:
        case "mean_multiple":
            return EightBitMapping("mean_multiple", settings.multiple * histogram.mean, 0.0, settings.gamma)
        case "percentile":
            return EightBitMapping(
                "percentile", histogram.percentile(settings.percentile), 0.0, settings.gamma
            )
        case "db":
            threshold = histogram.percentile(settings.percentile)
            return EightBitMapping("db", threshold, threshold * 10 ** (-settings.db_range / 20), 0.0)
