"""Near-duplicates in a data set, and what of them a split leaks; `benchmarks/leaks.py` measures the finder.

from fusar_klip.benchmark.leaks import find_near_duplicates, leakage
report = leakage(data.images, find_near_duplicates(data.files))
"""

from fusar_klip.benchmark.leaks.matching import (
    LEAST,
    SURE,
    TURNS,
    Match,
    find_near_duplicates,
    group_numbers,
)
from fusar_klip.benchmark.leaks.report import LeakReport, leakage

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
