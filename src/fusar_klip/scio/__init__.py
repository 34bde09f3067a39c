"""SCIO: texts that a model screens, filters and reconstructs (paper 3.4, Algorithm 1; decisions.md).

The parts, from the inside to the outside:

    PairScorer      ITC loss and ITM score of texts against a block of images that are encoded once
    screen          which segments of a text are noise (eqs. 10 and 11), and T' as a whole
    reconstruct     what the decoder writes in place of noise, and whether it is accepted (eqs. 12 to 15)
    refine_block    both, for a block of images
    refine_texts    both, for a data set: the decisions become a new text version
    refine_table    both, for a CSV or Parquet file of image paths and captions

Nothing here changes a weight. A pass in training is `refine_texts` with the queue's features as references;
`fusar-klip refine` calls it with features of a sample of the data set.
"""

from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.scio.block import Decision, Refined, refine_block
from fusar_klip.scio.reconstruction import Reconstruction, reconstruct
from fusar_klip.scio.scoring import ImageBlock, PairScorer, References
from fusar_klip.scio.screening import ImageText, Screening, screen
from fusar_klip.scio.tables import TableSummary, refine_table
from fusar_klip.scio.versions import RefineSummary, refine_texts

__all__ = [
    "Decision",
    "ImageBlock",
    "ImageText",
    "PairScorer",
    "Reconstruction",
    "References",
    "RefineSummary",
    "Refined",
    "ScioSettings",
    "Screening",
    "TableSummary",
    "reconstruct",
    "refine_block",
    "refine_table",
    "refine_texts",
    "screen",
]
