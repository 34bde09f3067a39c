"""Near-duplicates in a data set, and what of them a split leaks; `perf/leaks.py` measures the finder.

from fusar_klip.datasets.near_duplicates import find_near_duplicates, leakage
report = leakage(data.images, find_near_duplicates(data.files))
"""

from fusar_klip.datasets.near_duplicates.leakage import LeakReport, leakage
from fusar_klip.datasets.near_duplicates.matching import (
    LEAST,
    SURE,
    TURNS,
    Match,
    find_near_duplicates,
    group_numbers,
)

__all__ = [
    "LEAST",
    "SURE",
    "TURNS",
    "LeakReport",
    "Match",
    "find_near_duplicates",
    "group_numbers",
    "leakage",
]
