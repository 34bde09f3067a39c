"""The three losses of one batch, and how they are summed (paper 3.3, eq. 7).

With several processes each computes the losses of its own rows against all processes' rows, so that the mean
of the processes' gradients is the gradient of the whole batch in one process.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusar_klip.models.distributed import (
    gathered,
    gathered_with_gradient,
    longest_of_all,
    mean_of_all,
    own_rows,
    processes,
)
from fusar_klip.models.losses import (
    IGNORED,
    hard_negatives,
    itc_loss,
    itm_loss,
    mlm_loss,
    similarities,
)
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.models.network.klip_network import KlipNetwork
from fusar_klip.models.network.momentum import MomentumTowers
from fusar_klip.models.network.queue import FeatureQueue
from fusar_klip.pretrain.data.batches import Batch
from fusar_klip.pretrain.settings import LossSettings

# B batch of this process, A batch of all processes, P pairs, N image tokens, L text tokens, T decoder tokens,
# K tokens of all texts without padding, W image width, D text width, E embed_dim, Q queue


_KEY_BASE = 1_099_511_628_211
"""Odd, so that none of its powers is 0 modulo 2^64; FNV's prime."""


@dataclass(frozen=True)
class Losses:
    """The losses of a batch (scalars), and what goes into the queue after the step.

    With several processes the losses are this one's; their mean over the processes is the batch's.

    Attributes:
        itc: Eq. 4.
        itm: Eq. 5.
        mlm: Eq. 6.
        momentum_image: (A, E) float32, normalised, of all processes.
        momentum_text: (A, E) float32, normalised, of all processes.
        ids: (A,) int64, the images of all processes.
    """

    itc: Tensor
    itm: Tensor
    mlm: Tensor
    momentum_image: Tensor
    momentum_text: Tensor
    ids: Tensor

    def total(self, weights: LossSettings) -> Tensor:
        """Return L_total of eq. 7."""
        return weights.itc * self.itc + weights.itm * self.itm + weights.mlm * self.mlm


@dataclass(frozen=True)
class _Texts:
    """The batch's texts for matching: ids, or with late fusion the states that the text alone has."""

    ids_bl: Tensor
    mask_bl: Tensor
    states_bld: Tensor | None

    def of_all_processes(self) -> "_Texts":
        longest = longest_of_all(self.mask_bl.shape[1], self.mask_bl.device)
        more = longest - self.mask_bl.shape[1]
        states = self.states_bld
        return _Texts(
            gathered(F.pad(self.ids_bl, (0, more))),
            gathered(F.pad(self.mask_bl, (0, more))),
            None if states is None else gathered_with_gradient(F.pad(states, (0, 0, 0, more))),
        )

    def rows(self, rows_b: Tensor) -> "_Texts":
        states = self.states_bld
        return _Texts(
            self.ids_bl[rows_b],
            self.mask_bl[rows_b],
            None if states is None else states.index_select(0, rows_b),
        )

    def match_logits(self, network: KlipNetwork, memory: CrossAttentionCache) -> Tensor:
        if self.states_bld is None:
            return network.match_logits(self.ids_bl, self.mask_bl, memory)
        return network.match_logits_of(self.states_bld, self.mask_bl, memory)


def _joined(rows: list[_Texts]) -> _Texts:
    longest = max(texts.mask_bl.shape[1] for texts in rows)
    more = [longest - texts.mask_bl.shape[1] for texts in rows]
    states = [
        F.pad(texts.states_bld, (0, 0, 0, n))
        for texts, n in zip(rows, more, strict=True)
        if texts.states_bld is not None
    ]
    return _Texts(
        torch.cat([F.pad(texts.ids_bl, (0, n)) for texts, n in zip(rows, more, strict=True)]),
        torch.cat([F.pad(texts.mask_bl, (0, n)) for texts, n in zip(rows, more, strict=True)]),
        torch.cat(states) if states else None,
    )


class Objective(nn.Module):
    """The network together with its losses, in one forward pass: what DDP and FSDP wrap.

    Each image is encoded and looked at once, and each text once per use.

    Args:
        network: The network in training.
        hard_share: Of ITM's wrong pairs; see `hard_negatives`.
    """

    def __init__(self, network: KlipNetwork, *, hard_share: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self._hard_share = hard_share

    def forward(
        self,
        batch: Batch,
        momentum_image_be: Tensor,
        momentum_text_be: Tensor,
        queue_image_qe: Tensor,
        queue_text_qe: Tensor,
        queue_ids_q: Tensor,
        alpha: float,
    ) -> Losses:
        """Compute the losses of `batch`. One image has no wrong pairs: ITM sees the true one alone.

        Args:
            batch: This process's rows; of the same number in every process.
            momentum_image_be: The momentum tower's image features of `batch`.
            momentum_text_be: The momentum tower's text features of `batch`.
            queue_image_qe: Earlier momentum features, those of all processes.
            queue_text_qe: Likewise.
            queue_ids_q: int64, the image of each row of the queue.
            alpha: Weight of the momentum targets of ITC.
        """
        network = self.network
        late = network.settings.fusion_layers is not None
        tokens_bnw = network.image_tokens(batch.images, batch.gsd_m)
        memory = network.image_kv(tokens_bnw)
        image_be = network.image_features(tokens_bnw).float()
        states_bld = network.text_states(batch.text, batch.text_mask) if late else None
        text_be = (
            network.text_features(batch.text, batch.text_mask)
            if states_bld is None
            else network.text_features_of(states_bld)
        ).float()
        all_image_ae, all_text_ae = gathered(momentum_image_be.float()), gathered(momentum_text_be.float())
        all_ids_a = gathered(batch.tile_ids)
        own = own_rows(len(batch.tile_ids))
        itc = itc_loss(
            image_be,
            text_be,
            momentum_image_be.float(),
            momentum_text_be.float(),
            batch.tile_ids,
            # The other processes' rows are candidates as those of the queue are.
            torch.cat([all_image_ae[: own.start], all_image_ae[own.stop :], queue_image_qe]),
            torch.cat([all_text_ae[: own.start], all_text_ae[own.stop :], queue_text_qe]),
            torch.cat([all_ids_a[: own.start], all_ids_a[own.stop :], queue_ids_q]),
            temperature=network.temperature,
            alpha=alpha,
        )
        texts = _Texts(batch.text, batch.text_mask, states_bld)
        itm = self._matching(batch, texts, tokens_bnw, memory, image_be, text_be, all_ids_a)
        mlm = self._infilling(batch, memory)
        return Losses(itc, itm, mlm, all_image_ae, all_text_ae, all_ids_a)

    def _matching(
        self,
        batch: Batch,
        texts: _Texts,
        tokens_bnw: Tensor,
        memory: CrossAttentionCache,
        image_be: Tensor,
        text_be: Tensor,
        all_ids_a: Tensor,
    ) -> Tensor:
        """Return ITM of true pairs, images with wrong texts, and texts with wrong images."""
        network, rows = self.network, len(batch.tile_ids)
        true_b = torch.ones_like(batch.tile_ids)
        if len(all_ids_a) == 1:
            return itm_loss(texts.match_logits(network, memory), true_b)
        with torch.no_grad():
            image_to_text_ba = similarities(image_be, gathered(text_be)) / network.temperature
            text_to_image_ba = similarities(text_be, gathered(image_be)) / network.temperature
            key_b = _text_keys(batch.text, batch.text_mask)
            fits_ba = key_b[:, None] == gathered(key_b)
            ids = batch.tile_ids, all_ids_a
            wrong_text_b = hard_negatives(
                image_to_text_ba, *ids, batch.draws[:, 0], fits_ba, self._hard_share
            )
            wrong_image_b = hard_negatives(
                text_to_image_ba, *ids, batch.draws[:, 1], fits_ba, self._hard_share
            )
            # Where all images of a batch are the same one, or say the same, there is no wrong pair.
            labels_p = torch.cat([true_b, *(_no_match(wrong_b) for wrong_b in (wrong_text_b, wrong_image_b))])
            wrong_text_b, wrong_image_b = wrong_text_b.clamp(min=0), wrong_image_b.clamp(min=0)
            count = mean_of_all((labels_p != IGNORED).sum().float())
        if processes() == 1:
            wrong_texts, wrong_memory = texts.rows(wrong_text_b), memory.rows(wrong_image_b)
        else:
            wrong_texts = texts.of_all_processes().rows(wrong_text_b)
            # Tokens travel, and are looked at where they are needed: keys and values are 24 times as much.
            wrong_memory = network.image_kv(gathered_with_gradient(tokens_bnw).index_select(0, wrong_image_b))
        pairs = _joined([texts, wrong_texts, texts])
        assert len(pairs.mask_bl) == 3 * rows
        logits_p2 = pairs.match_logits(network, memory.tiled(2) + wrong_memory)
        return itm_loss(logits_p2, labels_p, count)

    def _infilling(self, batch: Batch, memory: CrossAttentionCache) -> Tensor:
        """Return MLM: the encoder reads image and text with its holes, the decoder writes the holes."""
        counts_bt = batch.decoder_labels != IGNORED
        # All up to the last label: what is not asked for may still be read.
        read_bt = counts_bt.flip(1).long().cummax(1).values.flip(1)
        context_bld = self.network.fuse(batch.masked, batch.masked_mask, memory)
        logits_kv = self.network.decode_packed(
            batch.decoder_input, read_bt, context_bld, batch.masked_mask, memory
        )
        labels_k = batch.decoder_labels[read_bt.bool()]
        return mlm_loss(logits_kv, labels_k, mean_of_all(counts_bt.sum().float()))


def _text_keys(ids_bl: Tensor, mask_bl: Tensor) -> Tensor:
    """Return a number (B,) int64 for each text, equal for equal texts, whatever their padding.

    A polynomial of the ids modulo 2^64: that two other texts share one is next to impossible.
    """
    powers_l = torch.full_like(ids_bl[0], _KEY_BASE).cumprod(0)
    return ((ids_bl + 1) * mask_bl * powers_l).sum(1)


def _no_match(wrong_b: Tensor) -> Tensor:
    """Return the labels of pairs that were drawn: 0, or `IGNORED` where none could be."""
    return torch.where(wrong_b >= 0, 0, IGNORED)


def batch_losses(
    objective: nn.Module, momentum: MomentumTowers, queue: FeatureQueue, batch: Batch, alpha: float
) -> Losses:
    """Compute the losses of `batch` with its momentum features.

    Args:
        objective: An `Objective`, or what wraps one.
        momentum: The network's slow copies.
        queue: Earlier momentum features; left as it is.
        batch: This process's rows.
        alpha: Weight of the momentum targets of ITC.
    """
    image_be, text_be = momentum.features(batch.images, batch.text, batch.text_mask, batch.gsd_m)
    losses: Losses = objective(batch, image_be, text_be, queue.image_qe, queue.text_qe, queue.ids_q, alpha)
    return losses
