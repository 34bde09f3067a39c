"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057) around the image tower: contrast of two views, no queue.

The loss asks which of the momentum encoder's features of a batch belongs to the other view of the same tile.
Projector and predictor are used in pretraining only.
"""

from copy import deepcopy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusar_klip.models import ModelSettings
from fusar_klip.models.distributed import all_gather, local_rows
from fusar_klip.models.network.towers import ImageTower
from fusar_klip.pretrain.data.image_batches import ViewsBatch
from fusar_klip.pretrain.tasks.batch_norm import CrossRankBatchNorm
from fusar_klip.pretrain.tasks.settings import MocoV3Settings

# B batch of this process, X both views of it, A batch of all processes, S image size, W image width,
# E feature width


class MocoV3(nn.Module):
    """Image tower, projector and predictor, and the loss of a batch.

    Args:
        tower: The image tower; with `fixed_patches` its patch projection is frozen.
        model: Its sizes.
        settings: Widths and temperature.
    """

    def __init__(self, tower: ImageTower, model: ModelSettings, settings: MocoV3Settings) -> None:
        super().__init__()
        self.image_tower = tower
        if settings.fixed_patches:
            tower.patch_embed.requires_grad_(False)
        hidden, width = settings.hidden_width, settings.feature_width
        # Section 4.1 of MoCo v3: three layers and two, each with batch normalisation, the last without scale.
        self.projector = _mlp([model.image_width, hidden, hidden, width])
        self.predictor = _mlp([width, hidden, width])
        self._temperature = settings.temperature

    def forward(self, batch: ViewsBatch, keys_2be: Tensor) -> tuple[Tensor, Tensor]:
        """Return the symmetric loss, a scalar, and the share of views nearest to the key of the other view.

        With several processes both are those of this process; their mean is the whole batch's.

        Args:
            batch: The rows of this process; every process has the same number.
            keys_2be: `MomentumEncoder.features` of `batch`.
        """
        first_be, second_be = (self.predictor(rows) for rows in _projected(self, batch))
        keys_2ae = [all_gather(keys_be.float()) for keys_be in keys_2be]
        # Each view is contrasted with the other: ctr(q1, k2) + ctr(q2, k1) of Algorithm 1.
        results = [
            info_nce(query_be, keys_ae, self._temperature)
            for query_be, keys_ae in ((first_be, keys_2ae[1]), (second_be, keys_2ae[0]))
        ]
        return results[0][0] + results[1][0], (results[0][1] + results[1][1]) / 2

    def checkpoint_activations(self) -> None:
        """Turn on activation checkpointing of every block."""
        self.image_tower.grad_checkpointing = True

    def compile_layers(self) -> None:
        """Compile each block by itself (`torch.compile`)."""
        for block in self.image_tower.blocks:
            block.compile()


class MomentumEncoder(nn.Module):
    """Exponential moving averages (EMA) of tower and projector; they give the keys, without gradient.

    Args:
        model: The model that they average.
    """

    def __init__(self, model: MocoV3) -> None:
        super().__init__()
        self.image_tower = deepcopy(model.image_tower)
        self.projector = deepcopy(model.projector)
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: MocoV3, momentum: float) -> None:
        """Move every weight to `momentum` * own + (1 - `momentum`) * the model's."""
        model_weights = dict(model.named_parameters())
        names, own = zip(*self.named_parameters(), strict=True)
        torch._foreach_lerp_(list(own), [model_weights[name] for name in names], 1 - momentum)

    @torch.no_grad()
    def features(self, batch: ViewsBatch) -> Tensor:
        """Return (2, B, E), normalised: the first views' features and the second views'."""
        return torch.stack([F.normalize(rows_be.float(), dim=-1) for rows_be in _projected(self, batch)])


def info_nce(query_be: Tensor, keys_ae: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return InfoNCE times 2 tau (Algorithm 1 of MoCo v3), and the share of queries nearest to their own key.

    Args:
        query_be: This process's predictions, normalised here.
        keys_ae: The keys of all processes, normalised; key `local_rows(B).start + i` is the one of query i.
        temperature: tau.
    """
    own = local_rows(len(query_be))
    own_b = torch.arange(own.start, own.stop, device=query_be.device)
    # bfloat16 has three digits, too few for logits of similarities.
    with torch.autocast(query_be.device.type, enabled=False):
        logits_ba = F.normalize(query_be.float(), dim=-1) @ keys_ae.float().T / temperature
        loss = 2 * temperature * F.cross_entropy(logits_ba, own_b)
    return loss, (logits_ba.detach().argmax(1) == own_b).float().mean()


def _projected(model: MocoV3 | MomentumEncoder, batch: ViewsBatch) -> list[Tensor]:
    """Return the projected features of either view, (B, E) each.

    The tower encodes both at once; batch normalisation uses one view at a time, as MoCo v3's code does.
    """
    images_x1ss = batch.images.transpose(0, 1).flatten(0, 1)
    class_xw = model.image_tower.class_tokens(images_x1ss, batch.gsd_m.T.flatten())
    return [model.projector(rows_bw) for rows_bw in class_xw.chunk(2)]


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths), 1):
        last = number == len(widths) - 1
        layers += [nn.Linear(before, after, bias=False), CrossRankBatchNorm(after, affine=not last)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)
