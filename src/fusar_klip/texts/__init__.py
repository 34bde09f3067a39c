"""Texts of tiles (paper 3.2): one sentence for each field of the tile's schema.

`describe` writes them for a data set: rule-based (`measure`), from annotations (`template`), or by a language
model with a chain of thought (`openai`, `transformers`). `estimate` estimates the cost of a language model.
`measure_tile` measures a single array.
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
