"""The three losses of one batch, and how they are summed (paper 3.3, eq. 7)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fusar_klip.models.losses import hard_negatives, itc_loss, itm_loss, mlm_loss
from fusar_klip.models.momentum import MomentumTowers
from fusar_klip.models.network import KlipNetwork
from fusar_klip.models.queue import FeatureQueue
from fusar_klip.pretrain.batches import Batch
from fusar_klip.pretrain.settings import LossSettings

# B batch, N image tokens, L text tokens, T decoder tokens, W image width, E embed_dim


@dataclass(frozen=True)
class Losses:
    """The losses of a batch (scalars), and the momentum features that go into the queue after the step.

    Attributes:
        itc: Eq. 4.
        itm: Eq. 5.
        mlm: Eq. 6.
        momentum_image: (B, E), normalised.
        momentum_text: (B, E), normalised.
    """

    itc: Tensor
    itm: Tensor
    mlm: Tensor
    momentum_image: Tensor
    momentum_text: Tensor

    def total(self, weights: LossSettings) -> Tensor:
        """Return L_total of eq. 7."""
        return weights.itc * self.itc + weights.itm * self.itm + weights.mlm * self.mlm


def batch_losses(
    network: KlipNetwork, momentum: MomentumTowers, queue: FeatureQueue, batch: Batch, alpha: float
) -> Losses:
    """Compute the losses of `batch`; each tile's image is encoded once for all three.

    Args:
        network: The network in training.
        momentum: Its slow copies.
        queue: Earlier momentum features; left as it is.
        batch: At least two different tiles.
        alpha: Weight of the momentum targets of ITC.
    """
    tokens_bnw = network.image_tokens(batch.images)
    image_be = network.image_features(tokens_bnw)
    text_be = network.text_features(batch.text, batch.text_mask)
    momentum_image_be, momentum_text_be = momentum.features(batch.images, batch.text, batch.text_mask)
    itc = itc_loss(
        image_be.float(),
        text_be.float(),
        momentum_image_be.float(),
        momentum_text_be.float(),
        batch.tile_ids,
        queue.image_qe,
        queue.text_qe,
        queue.ids_q,
        temperature=network.temperature,
        alpha=alpha,
    )
    return Losses(
        itc,
        _matching(network, batch, tokens_bnw, image_be, text_be),
        _infilling(network, batch, tokens_bnw),
        momentum_image_be.float(),
        momentum_text_be.float(),
    )


def _matching(
    network: KlipNetwork, batch: Batch, tokens_bnw: Tensor, image_be: Tensor, text_be: Tensor
) -> Tensor:
    """Return ITM of the true pairs, the texts with hard wrong images, the images with hard wrong texts."""
    with torch.no_grad():
        similarity_bb = image_be.float() @ text_be.float().T / network.temperature
        wrong_text_b = hard_negatives(similarity_bb, batch.tile_ids, batch.tile_ids)
        wrong_image_b = hard_negatives(similarity_bb.T, batch.tile_ids, batch.tile_ids)
    text = torch.cat([batch.text, batch.text, batch.text[wrong_text_b]])
    mask = torch.cat([batch.text_mask, batch.text_mask, batch.text_mask[wrong_text_b]])
    tokens = torch.cat([tokens_bnw, tokens_bnw[wrong_image_b], tokens_bnw])
    matches = torch.arange(len(text), device=text.device) < len(batch.text)
    return itm_loss(network.match_logits(text, mask, tokens), matches.long())


def _infilling(network: KlipNetwork, batch: Batch, tokens_bnw: Tensor) -> Tensor:
    context_bld = network.fuse(batch.masked, batch.masked_mask, tokens_bnw)
    logits_btv = network.decode(batch.decoder_input, context_bld, batch.masked_mask, tokens_bnw)
    return mlm_loss(logits_btv, batch.decoder_labels)
