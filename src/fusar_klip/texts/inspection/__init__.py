"""Statistics of texts (paper 4.2, figures 8, 10 and 11), of a data set or of any other caption file.

`inspect` computes them and, with `out`, writes a self-contained HTML report.
"""

from fusar_klip.texts.inspection.inspect import InspectSummary, inspect
from fusar_klip.texts.inspection.statistics import CaptionStatistics, FieldStatistics

__all__ = ["CaptionStatistics", "FieldStatistics", "InspectSummary", "inspect"]
