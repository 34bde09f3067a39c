"""Pretraining on a data set's tiles and texts: ITC, ITM and MLM together (paper 3.3, 3.4 stage 1, 4.1).

Also the single-modal baselines of table 4, on the tiles alone: MAE and MoCo v3.
"""

from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.train import PretrainSummary, pretrain

__all__ = ["PretrainSettings", "PretrainSummary", "pretrain"]
