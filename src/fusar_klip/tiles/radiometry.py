"""One mapping of amplitude to 8 bits per scene, from a streamed histogram (paper 3.1, step 2).

All thresholds are in amplitude: `scene.Scene` turns intensity, dB and complex pixels into it first.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusar_klip.tiles.settings import MappingSettings

_BINS_PER_E = 100  # bins 1 % wide: the error of a percentile stays under a hundredth of its value
_EXPONENT_RANGE = (-46, 46)  # e**-46 = 1e-20 to e**46 = 1e20 holds any calibrated or raw amplitude


@dataclass(frozen=True)
class AmplitudeStatistics:
    """What a mapping needs to know of a scene's valid pixels."""

    count: int
    mean: float
    histogram: NDArray[np.int64]
    """(9200,) counts in bins of log amplitude, 1 % wide, from e**-46 to e**46."""

    def percentile(self, percent: float) -> float:
        """Return the amplitude that `percent` of the valid pixels do not exceed (upper edge of its bin)."""
        cumulative = np.cumsum(self.histogram)
        index = int(np.searchsorted(cumulative, percent / 100 * self.count))
        return float(np.exp((index + 1) / _BINS_PER_E + _EXPONENT_RANGE[0]))


def amplitude_statistics(blocks: Iterable[NDArray[np.float32]]) -> AmplitudeStatistics:
    """Gather count, mean and histogram from blocks of amplitude in a fixed order; 0 is no data."""
    bins = (_EXPONENT_RANGE[1] - _EXPONENT_RANGE[0]) * _BINS_PER_E
    histogram = np.zeros(bins, np.int64)
    total, count = 0.0, 0
    for block in blocks:
        values = block[block > 0]
        position = (np.log(values) - _EXPONENT_RANGE[0]) * _BINS_PER_E
        histogram += np.bincount(np.clip(position, 0, bins - 1).astype(np.int64), minlength=bins)
        total += float(values.sum(dtype=np.float64))
        count += values.size
    return AmplitudeStatistics(count, total / max(count, 1), histogram)


@dataclass(frozen=True)
class Mapping:
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

    def apply(self, amplitude: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Map (H, W) float32 amplitude, 0 = no data, to (H, W) uint8, 0 = no data."""
        if self.method == "identity":
            return amplitude.astype(np.uint8)
        if self.gamma == 0:
            with np.errstate(divide="ignore"):
                share = np.log(amplitude / self.floor) / np.log(self.threshold / self.floor)
        else:
            share = (amplitude / self.threshold) ** self.gamma
        levels = 1 + np.rint(254 * np.clip(share, 0, 1))
        return np.where(amplitude > 0, levels, 0).astype(np.uint8)

    def tags(self) -> dict[str, str]:
        """Return the parameters as GeoTIFF tags, so that every tile tells how to undo its mapping."""
        return {
            "MAPPING_METHOD": self.method,
            "MAPPING_THRESHOLD": repr(self.threshold),
            "MAPPING_FLOOR": repr(self.floor),
            "MAPPING_GAMMA": repr(self.gamma),
        }


IDENTITY = Mapping("identity", 255.0, 0.0, 1.0)
"""For scenes that are 8-bit already."""


def fit_mapping(statistics: AmplitudeStatistics, settings: MappingSettings) -> Mapping:
    """Choose the scene's threshold (decisions.md "8-bit mapping")."""
    match settings.method:
        case "mean_multiple":
            return Mapping("mean_multiple", settings.multiple * statistics.mean, 0.0, settings.gamma)
        case "percentile":
            return Mapping("percentile", statistics.percentile(settings.percentile), 0.0, settings.gamma)
        case "db":
            threshold = statistics.percentile(settings.percentile)
            return Mapping("db", threshold, threshold * 10 ** (-settings.db_range / 20), 0.0)
