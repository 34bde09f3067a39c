"""Batch normalisation over the rows of all processes, with the result of one process on the whole batch.

torch's SyncBatchNorm does not run on the CPU. There are no running averages: projector and predictor are used
in pretraining only, always on a whole batch.
"""

import torch
from torch import Tensor, nn

from fusar_klip.models.distributed import all_gather_with_gradient

# B rows of this process, D width

_EPS = 1e-5


class CrossRankBatchNorm(nn.Module):
    """Standardise each column by its mean and standard deviation over the batch of all processes.

    Args:
        width: D.
        affine: Whether scale and shift are learned.
    """

    def __init__(self, width: int, *, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, rows_bd: Tensor) -> Tensor:
        """Return (B, D) float32; every process needs the same number of rows."""
        with torch.autocast(rows_bd.device.type, enabled=False):
            rows_bd = rows_bd.float()
            centred_bd = rows_bd - _mean(rows_bd)
            normal_bd = centred_bd * (_mean(centred_bd.square()) + _EPS).rsqrt()
            if self.weight is None or self.bias is None:
                return normal_bd
            return normal_bd * self.weight + self.bias


def _mean(rows_bd: Tensor) -> Tensor:
    """Return the mean over the rows of all processes, (D,)."""
    return all_gather_with_gradient(rows_bd.mean(0, keepdim=True)).mean(0)
