"""Tiles into eight-field texts (paper 3.2): what is measured and where it is, each field one sentence.

This version holds one describer, `measure`, which needs no language model. `describe` is the entry point of
the stage, `measure_tile` that for a single array.
"""

from fusar_klip.texts.describe import DescribeSummary, describe
from fusar_klip.texts.measure import measure_tile
from fusar_klip.texts.settings import DescribeSettings

__all__ = ["DescribeSettings", "DescribeSummary", "describe", "measure_tile"]
