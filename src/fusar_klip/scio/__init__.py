"""SCIO: a model screens texts and reconstructs mismatched segments (paper 3.4, Algorithm 1; decisions.md).

    scoring          ImageTextScorer: ITC loss (eq. 4) and ITM score (eq. 5) of texts with a batch of images
    screening        screen: which segments of a text are noise (eqs. 10 and 11)
    reconstruction   reconstruct: what the decoder generates in place of noise (eqs. 12 to 15)
    algorithm1       refine_batch: Algorithm 1, both of the above for a batch of images
    dataset_pass     refine_texts: a pass over a data set; the decisions become a new text version
    table_pass       refine_table: a pass over a CSV or Parquet table of image paths and captions
    refine           refine: the verb

SCIO does not change weights. In a pretraining run, `refine_texts` takes its negatives from the queue;
`fusar-klip refine` takes them from a sample of the data set.
"""

from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.scio.algorithm1 import SegmentDecision, TextDecisions, refine_batch
from fusar_klip.scio.dataset_pass import RefineSummary, refine_texts
from fusar_klip.scio.reconstruction import Reconstruction, reconstruct
from fusar_klip.scio.scoring import ImageBatch, ImageTextScorer, Negatives
from fusar_klip.scio.screening import ScreeningResult, SegmentedText, screen
from fusar_klip.scio.table_pass import TableSummary, refine_table

__all__ = [
    "ImageBatch",
    "ImageTextScorer",
    "Negatives",
    "Reconstruction",
    "RefineSummary",
    "ScioSettings",
    "ScreeningResult",
    "SegmentDecision",
    "SegmentedText",
    "TableSummary",
    "TextDecisions",
    "reconstruct",
    "refine_batch",
    "refine_table",
    "refine_texts",
    "screen",
]
