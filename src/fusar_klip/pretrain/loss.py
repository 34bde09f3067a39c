"""The pretraining losses of one batch and their weighted sum (paper 3.3, eq. 7).

`LOSSES` lists them by name. To add one, write a function of `ForwardPass`, add it to `LOSSES`, and add its
weight to `settings.LossSettings` under the same name.

With several processes each computes the losses of its own rows against the rows of all processes, so that the
mean of the processes' gradients is the gradient that one process would have for the whole batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusar_klip.models.distributed import (
    all_gather,
    all_gather_with_gradient,
    all_reduce_max,
    all_reduce_mean,
    local_rows,
    world_size,
)
from fusar_klip.models.losses import (
    IGNORE_INDEX,
    cosine_similarities,
    itc_loss,
    itm_loss,
    mlm_loss,
    sample_hard_negatives,
)
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.models.network.klip_network import KlipNetwork
from fusar_klip.models.network.momentum import MomentumTowers
from fusar_klip.models.network.queue import FeatureQueue
from fusar_klip.pretrain.data.image_text_batches import ImageTextBatch
from fusar_klip.pretrain.settings import LossSettings

# B batch of this process, A batch of all processes, P pairs, N image tokens, L text tokens, T decoder tokens,
# K tokens of all texts without padding, W image width, D text width, E embed_dim, Q queue


_KEY_BASE = 1_099_511_628_211
"""Odd, so that none of its powers is 0 modulo 2^64; FNV's prime."""


@dataclass(frozen=True)
class Losses:
    """The losses of a batch, and the features that enter the queue after the step.

    With several processes the losses are those of this process; their mean over the processes is the batch's.

    Attributes:
        by_name: A scalar for each name in `LOSSES`, in that order.
        momentum_image: (A, E) float32, normalised, of all processes.
        momentum_text: (A, E) float32, normalised, of all processes.
        ids: (A,) int64, the image ids of all processes.
    """

    by_name: Mapping[str, Tensor]
    momentum_image: Tensor
    momentum_text: Tensor
    ids: Tensor

    def total(self, weights: LossSettings) -> Tensor:
        """Return L_total of eq. 7."""
        terms: list[Tensor] = [getattr(weights, name) * loss for name, loss in self.by_name.items()]
        return reduce(add, terms)

    def values(self) -> Tensor:
        """Return the losses as one vector, in the order of `LOSSES`."""
        return torch.stack(list(self.by_name.values()))


@dataclass(frozen=True)
class _Texts:
    """The texts of a batch for matching: token ids, or with late fusion the states of the text layers."""

    ids_bl: Tensor
    mask_bl: Tensor
    states_bld: Tensor | None

    def of_all_processes(self) -> "_Texts":
        longest = all_reduce_max(self.mask_bl.shape[1], self.mask_bl.device)
        padding = longest - self.mask_bl.shape[1]
        states = self.states_bld
        return _Texts(
            all_gather(F.pad(self.ids_bl, (0, padding))),
            all_gather(F.pad(self.mask_bl, (0, padding))),
            None if states is None else all_gather_with_gradient(F.pad(states, (0, 0, 0, padding))),
        )

    def rows(self, rows_b: Tensor) -> "_Texts":
        states = self.states_bld
        return _Texts(
            self.ids_bl[rows_b],
            self.mask_bl[rows_b],
            None if states is None else states.index_select(0, rows_b),
        )

    def match_logits(self, network: KlipNetwork, image_kv: CrossAttentionCache) -> Tensor:
        if self.states_bld is None:
            return network.match_logits(self.ids_bl, self.mask_bl, image_kv)
        return network.match_logits_of(self.states_bld, self.mask_bl, image_kv)


def _concatenated(texts: list[_Texts]) -> _Texts:
    longest = max(text.mask_bl.shape[1] for text in texts)
    padding = [longest - text.mask_bl.shape[1] for text in texts]
    states = [
        F.pad(text.states_bld, (0, 0, 0, n))
        for text, n in zip(texts, padding, strict=True)
        if text.states_bld is not None
    ]
    return _Texts(
        torch.cat([F.pad(text.ids_bl, (0, n)) for text, n in zip(texts, padding, strict=True)]),
        torch.cat([F.pad(text.mask_bl, (0, n)) for text, n in zip(texts, padding, strict=True)]),
        torch.cat(states) if states else None,
    )


@dataclass(frozen=True)
class ForwardPass:
    """The forward pass that all losses of a batch share: each image is encoded once, each text once per use.

    Attributes:
        network: The network in training.
        batch: The rows of this process; every process has the same number.
        image_tokens_bnw: The tokens of the image tower.
        image_kv: The images' keys and values for cross-attention.
        image_be: Image features, float32.
        text_be: Text features, float32.
        text_states_bld: The states of the text layers, with late fusion.
        momentum_image_be: Image features of the momentum encoder.
        momentum_text_be: Text features of the momentum encoder.
        all_momentum_image_ae: The same of all processes.
        all_momentum_text_ae: The same of all processes.
        all_ids_a: int64, the image ids of all processes.
        queue_image_qe: Earlier momentum features of all processes.
        queue_text_qe: Earlier momentum features of all processes.
        queue_ids_q: int64, the image id of each row of the queue.
        alpha: Weight of the momentum targets of ITC.
        hard_share: Share of ITM's negatives that are hard; see `sample_hard_negatives`.
    """

    network: KlipNetwork
    batch: ImageTextBatch
    image_tokens_bnw: Tensor
    image_kv: CrossAttentionCache
    image_be: Tensor
    text_be: Tensor
    text_states_bld: Tensor | None
    momentum_image_be: Tensor
    momentum_text_be: Tensor
    all_momentum_image_ae: Tensor
    all_momentum_text_ae: Tensor
    all_ids_a: Tensor
    queue_image_qe: Tensor
    queue_text_qe: Tensor
    queue_ids_q: Tensor
    alpha: float
    hard_share: float


def contrastive_loss(forward: ForwardPass) -> Tensor:
    """Return ITC (eq. 4) against the batch of all processes and the queue."""
    own = local_rows(len(forward.batch.tile_ids))

    def candidates(all_rows: Tensor, queue: Tensor) -> Tensor:
        # The rows of the other processes are candidates, as those of the queue are.
        return torch.cat([all_rows[: own.start], all_rows[own.stop :], queue])

    return itc_loss(
        forward.image_be,
        forward.text_be,
        forward.momentum_image_be.float(),
        forward.momentum_text_be.float(),
        forward.batch.tile_ids,
        candidates(forward.all_momentum_image_ae, forward.queue_image_qe),
        candidates(forward.all_momentum_text_ae, forward.queue_text_qe),
        candidates(forward.all_ids_a, forward.queue_ids_q),
        temperature=forward.network.temperature,
        alpha=forward.alpha,
    )


def matching_loss(forward: ForwardPass) -> Tensor:
    """Return ITM (eq. 5) of positive pairs, images with negative texts, and texts with negative images.

    A batch of one image has no negative pairs: then ITM sees the positive pair alone.
    """
    network, batch, image_kv = forward.network, forward.batch, forward.image_kv
    texts = _Texts(batch.text, batch.text_mask, forward.text_states_bld)
    positive_b = torch.ones_like(batch.tile_ids)
    if len(forward.all_ids_a) == 1:
        return itm_loss(texts.match_logits(network, image_kv), positive_b)
    with torch.no_grad():
        negative_text_b, negative_image_b = _draw_negatives(forward)
        # Where all images of a batch are the same one, or have equal texts, there is no negative pair.
        labels_p = torch.cat(
            [positive_b, *(_negative_labels(b) for b in (negative_text_b, negative_image_b))]
        )
        negative_text_b, negative_image_b = negative_text_b.clamp(min=0), negative_image_b.clamp(min=0)
        count = all_reduce_mean((labels_p != IGNORE_INDEX).sum().float())
    if world_size() == 1:
        negative_texts, negative_image_kv = texts.rows(negative_text_b), image_kv.rows(negative_image_b)
    else:
        negative_texts = texts.of_all_processes().rows(negative_text_b)
        # Tokens are sent, and projected where they are needed: keys and values are 24 times as large.
        tokens_bnw = all_gather_with_gradient(forward.image_tokens_bnw).index_select(0, negative_image_b)
        negative_image_kv = network.image_kv(tokens_bnw)
    pairs = _concatenated([texts, negative_texts, texts])
    assert len(pairs.mask_bl) == 3 * len(batch.tile_ids)
    logits_p2 = pairs.match_logits(network, image_kv.tiled(2) + negative_image_kv)
    return itm_loss(logits_p2, labels_p, count)


def masked_language_loss(forward: ForwardPass) -> Tensor:
    """Return MLM (eq. 6): the encoder reads image and masked text, the decoder writes the masked spans."""
    batch = forward.batch
    counts_bt = batch.decoder_labels != IGNORE_INDEX
    # All up to the last label: a token without a label may still be read.
    read_bt = counts_bt.flip(1).long().cummax(1).values.flip(1)
    context_bld = forward.network.fuse(batch.masked, batch.masked_mask, forward.image_kv)
    logits_kv = forward.network.decode_packed(
        batch.decoder_input, read_bt, context_bld, batch.masked_mask, forward.image_kv
    )
    labels_k = batch.decoder_labels[read_bt.bool()]
    return mlm_loss(logits_kv, labels_k, all_reduce_mean(counts_bt.sum().float()))


LOSSES: dict[str, Callable[[ForwardPass], Tensor]] = {
    "itc": contrastive_loss,
    "itm": matching_loss,
    "mlm": masked_language_loss,
}
"""The losses of eq. 7 by name, in the order of the sum. `LossSettings` has a weight for each."""


class PretrainLoss(nn.Module):
    """The network together with its losses, in one forward pass: the module that DDP and FSDP wrap.

    Args:
        network: The network in training.
        hard_share: Share of ITM's negative pairs that are hard; see `sample_hard_negatives`.
    """

    def __init__(self, network: KlipNetwork, *, hard_share: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self._hard_share = hard_share

    def forward(
        self,
        batch: ImageTextBatch,
        momentum_image_be: Tensor,
        momentum_text_be: Tensor,
        queue_image_qe: Tensor,
        queue_text_qe: Tensor,
        queue_ids_q: Tensor,
        alpha: float,
    ) -> Losses:
        """Compute the losses of `batch`.

        Args:
            batch: The rows of this process; every process has the same number.
            momentum_image_be: Image features of `batch` by the momentum encoder.
            momentum_text_be: Text features of `batch` by the momentum encoder.
            queue_image_qe: Earlier momentum features of all processes.
            queue_text_qe: Earlier momentum features of all processes.
            queue_ids_q: int64, the image id of each row of the queue.
            alpha: Weight of the momentum targets of ITC.
        """
        network = self.network
        tokens_bnw = network.image_tokens(batch.images, batch.gsd_m)
        image_kv = network.image_kv(tokens_bnw)
        image_be = network.image_features(tokens_bnw).float()
        late = network.settings.fusion_layers is not None
        states_bld = network.text_states(batch.text, batch.text_mask) if late else None
        text_be = (
            network.text_features(batch.text, batch.text_mask)
            if states_bld is None
            else network.text_features_of(states_bld)
        ).float()
        forward = ForwardPass(
            network=network,
            batch=batch,
            image_tokens_bnw=tokens_bnw,
            image_kv=image_kv,
            image_be=image_be,
            text_be=text_be,
            text_states_bld=states_bld,
            momentum_image_be=momentum_image_be,
            momentum_text_be=momentum_text_be,
            all_momentum_image_ae=all_gather(momentum_image_be.float()),
            all_momentum_text_ae=all_gather(momentum_text_be.float()),
            all_ids_a=all_gather(batch.tile_ids),
            queue_image_qe=queue_image_qe,
            queue_text_qe=queue_text_qe,
            queue_ids_q=queue_ids_q,
            alpha=alpha,
            hard_share=self._hard_share,
        )
        return Losses(
            {name: loss(forward) for name, loss in LOSSES.items()},
            forward.all_momentum_image_ae,
            forward.all_momentum_text_ae,
            forward.all_ids_a,
        )


def batch_losses(
    pretrain_loss: nn.Module,
    momentum: MomentumTowers,
    queue: FeatureQueue,
    batch: ImageTextBatch,
    alpha: float,
) -> Losses:
    """Compute the momentum features of `batch`, then its losses.

    Args:
        pretrain_loss: A `PretrainLoss`, or the module that wraps one.
        momentum: The momentum (EMA) encoders of the network.
        queue: Earlier momentum features; not changed.
        batch: The rows of this process.
        alpha: Weight of the momentum targets of ITC.
    """
    image_be, text_be = momentum.features(batch.images, batch.text, batch.text_mask, batch.gsd_m)
    losses: Losses = pretrain_loss(
        batch, image_be, text_be, queue.image_qe, queue.text_qe, queue.ids_q, alpha
    )
    return losses


def _draw_negatives(forward: ForwardPass) -> tuple[Tensor, Tensor]:
    """Return a negative text and a negative image for each row, (B,) int64 rows of A; -1 for none.

    A pair whose texts are equal is not negative, whatever its images.
    """
    batch, temperature = forward.batch, forward.network.temperature
    image_to_text_ba = cosine_similarities(forward.image_be, all_gather(forward.text_be)) / temperature
    text_to_image_ba = cosine_similarities(forward.text_be, all_gather(forward.image_be)) / temperature
    key_b = _text_keys(batch.text, batch.text_mask)
    same_text_ba = key_b[:, None] == all_gather(key_b)
    ids = batch.tile_ids, forward.all_ids_a
    share = forward.hard_share
    return (
        sample_hard_negatives(image_to_text_ba, *ids, batch.draws[:, 0], same_text_ba, share),
        sample_hard_negatives(text_to_image_ba, *ids, batch.draws[:, 1], same_text_ba, share),
    )


def _text_keys(ids_bl: Tensor, mask_bl: Tensor) -> Tensor:
    """Return a number (B,) int64 for each text, equal for equal texts, whatever their padding.

    A polynomial of the ids modulo 2^64: two different texts almost never share one.
    """
    powers_l = torch.full_like(ids_bl[0], _KEY_BASE).cumprod(0)
    return ((ids_bl + 1) * mask_bl * powers_l).sum(1)


def _negative_labels(drawn_b: Tensor) -> Tensor:
    """Return the labels of drawn pairs: 0, or `IGNORE_INDEX` where none could be drawn."""
    return torch.where(drawn_b >= 0, 0, IGNORE_INDEX)
