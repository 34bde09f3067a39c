"""From C channels to one: repeating and standardising the chip is folded into the patch embedding.

    channel c reads (g - m_c) / s_c of the pixel value g; the preprocessing gives z = (g - M) / S, so it is
    z S / s_c + (M - m_c) / s_c, and a convolution without padding sums over c.

One kernel of one channel gives the same output as C kernels on the repeated chip. Fine-tuning then trains
that one kernel.
"""

from statistics import fmean

import torch
from torch import Tensor

# O outputs, C channels, P patch side


def single_channel_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[float, float]:
    """Return M and S: the means over the channels."""
    return fmean(mean), fmean(std)


def fold_channels(
    weight_ocpp: Tensor, bias_o: Tensor | None, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Return the kernel (O, 1, P, P) and bias (O,) that read z.

    Args:
        weight_ocpp: The kernels of C channels.
        bias_o: Their bias, or None.
        mean: Each channel's mean in 0 to 1; where their number is not C, all channels take the mean value.
        std: Each channel's standard deviation, likewise.
    """
    channels = weight_ocpp.shape[1]
    gray_mean, gray_std = single_channel_normalisation(mean, std)
    if len(mean) != channels:
        mean, std = (gray_mean,) * channels, (gray_std,) * channels
    mean_c, std_c = (torch.tensor(values, dtype=weight_ocpp.dtype) for values in (mean, std))
    folded = (weight_ocpp * (gray_std / std_c)[:, None, None]).sum(1, keepdim=True)
    offset_o = (weight_ocpp * ((gray_mean - mean_c) / std_c)[:, None, None]).sum((1, 2, 3))
    return folded, offset_o if bias_o is None else bias_o + offset_o
