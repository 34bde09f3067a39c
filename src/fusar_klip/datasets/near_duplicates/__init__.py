"""Near-duplicates of a data set, and the leakage of a split; `perf/near_duplicates.py` measures both.

from fusar_klip.datasets.near_duplicates import find_near_duplicates, leakage
report = leakage(data.images, find_near_duplicates(data.files))
"""

from fusar_klip.datasets.near_duplicates.leakage import LeakageReport, leakage
from fusar_klip.datasets.near_duplicates.matching import (
    MIN_NOISY_SCORE,
    MIN_SCORE,
    SYMMETRIES,
    Match,
    find_near_duplicates,
    group_ids,
)

__all__ = [
    "MIN_NOISY_SCORE",
    "MIN_SCORE",
    "SYMMETRIES",
    "LeakageReport",
    "Match",
    "find_near_duplicates",
    "group_ids",
    "leakage",
]
