"""The momentum (EMA) encoders of both towers and projections (decisions.md, "Momentum encoders")."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusar_klip.models.network.bert import Packing
from fusar_klip.models.network.klip_network import KlipNetwork
from fusar_klip.models.network.towers import text_only_tower


class MomentumTowers(nn.Module):
    """Exponential moving averages of the network's towers, without gradient.

    The text tower has no cross-attention: ITC reads the text alone.
    """

    def __init__(self, network: KlipNetwork) -> None:
        super().__init__()
        self.image_tower = deepcopy(network.image_tower)
        self.text_tower = text_only_tower(network.text_tower, network.settings)
        self.image_projection = deepcopy(network.image_projection)
        self.text_projection = deepcopy(network.text_projection)
        self.requires_grad_(False)
        # Without dropout: a soft target should not be noisier than it has to be.
        self.eval()

    @torch.no_grad()
    def update(self, network: KlipNetwork, momentum: float) -> None:
        """Move every weight to `momentum` * own + (1 - `momentum`) * the network's."""
        theirs = dict(network.named_parameters())
        names, own = zip(*self.named_parameters(), strict=True)
        # One fused call: parameter by parameter this costs as much as a small model's forward pass.
        torch._foreach_lerp_(list(own), [theirs[name] for name in names], 1 - momentum)

    @torch.no_grad()
    def features(
        self, images_b1ss: Tensor, ids_bl: Tensor, mask_bl: Tensor, gsd_m_b: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return image and text features, each (B, E) and normalised."""
        packing = Packing(mask_bl)
        class_bw = self.image_tower.class_tokens(images_b1ss, gsd_m_b)
        first_bd = self.text_tower(self.text_tower.embeddings(ids_bl, packing), packing, first_only=True)
        image_be = F.normalize(self.image_projection(class_bw), dim=-1)
        text_be = F.normalize(self.text_projection(first_bd), dim=-1)
        return image_be, text_be
