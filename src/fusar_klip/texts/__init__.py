"""Tiles into eight-field texts (paper 3.2): what is measured and where it is, each field one sentence.

`describe` is the entry point of the stage: by measuring alone (`measure`), from annotations (`template`), or
by a language model led through a chain of thought (`openai`, `transformers`). `estimate` tells what a model
would cost, `measure_tile` measures a single array.
"""

from fusar_klip.texts.describe import describe, estimate
from fusar_klip.texts.measure.measure_tile import measure_tile
from fusar_klip.texts.settings import DescribeSettings
from fusar_klip.texts.summary import DescribeEstimate, DescribeSummary

__all__ = [
    "DescribeEstimate",
    "DescribeSettings",
    "DescribeSummary",
    "describe",
    "estimate",
    "measure_tile",
]
