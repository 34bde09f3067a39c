"""Scores single image-text pairs for SCIO: their ITC loss (eq. 4) and their ITM score (eq. 5).

The ITC loss of a pair is the symmetric InfoNCE of eq. 4 against a frozen set of negatives, without soft
targets. It depends neither on the batch nor on the other texts that are screened (decisions.md, "L_ITC of one
pair").

B images, N pairs, Q negatives, E embed_dim, L text tokens, S image size, W image width, D text width
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fusar_klip.models import KlipNetwork, Tokenizer
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.models.network.queue import FeatureQueue


@dataclass(frozen=True)
class ImageBatch:
    """Images that are processed together.

    Attributes:
        images_b1ss: float32, standardised, on the network's device.
        ids: The identity of each image, equal to that in `Negatives.ids_q` if and only if the image is.
        gsd_m_b: Ground spacing in metres, NaN if unknown; for networks that take it as input.
    """

    images_b1ss: Tensor
    ids: Sequence[int]
    gsd_m_b: Tensor | None = None


@dataclass(frozen=True)
class Negatives:
    """The frozen negatives of a pass.

    Attributes:
        image_qe: (Q, E) float32, normalised image features.
        text_qe: (Q, E) float32, normalised features of the texts of the same pairs.
        ids_q: (Q,) int64, the identity of each image. Entries of a pair's own image are not its negatives.
    """

    # A text version's metadata holds a digest of these attributes and their names: do not rename them.
    image_qe: Tensor
    text_qe: Tensor
    ids_q: Tensor

    @classmethod
    def of_queue(cls, queue: FeatureQueue) -> Self:
        """Return a copy of the queue's features."""
        return cls(queue.image_qe.clone(), queue.text_qe.clone(), queue.ids_q.clone())

    @classmethod
    @torch.inference_mode()
    def encode(
        cls,
        network: KlipNetwork,
        tokenizer: Tokenizer,
        pairs: Iterable[tuple[ImageBatch, Sequence[Sequence[int]]]],
        texts_per_batch: int = 64,
    ) -> Self:
        """Return the network's features of a sample of pairs.

        Args:
            network: In evaluation mode.
            tokenizer: Pads.
            pairs: Batches of images, with the token ids of one text per image.
            texts_per_batch: Texts encoded at a time.
        """
        device = next(network.parameters()).device
        no_features = torch.zeros(0, network.settings.embed_dim, device=device)
        images, texts = [no_features], [no_features]
        ids: list[int] = []
        for batch, texts_of_batch in pairs:
            tokens_bnw = network.image_tokens(batch.images_b1ss, batch.gsd_m_b)
            images.append(network.image_features(tokens_bnw).float())
            text_be = torch.empty_like(images[-1])
            for indices, ids_bl, mask_bl in _by_length(texts_of_batch, tokenizer, texts_per_batch, device):
                text_be[indices] = network.text_features(ids_bl, mask_bl).float()
            texts.append(text_be)
            ids += batch.ids
        return cls(torch.cat(images), torch.cat(texts), torch.tensor(ids, dtype=torch.int64, device=device))


class ImageTextScorer:
    """Scores any texts with the images of a batch. Each image is encoded once.

    In all methods, `texts` are token ids, and `rows` gives the image of each text by its row in the batch.

    Args:
        network: In evaluation mode.
        tokenizer: Pads and joins.
        images: The batch.
        negatives: Of the ITC loss.
        texts_per_batch: Texts encoded at a time.
    """

    @torch.inference_mode()
    def __init__(
        self,
        network: KlipNetwork,
        tokenizer: Tokenizer,
        images: ImageBatch,
        negatives: Negatives,
        *,
        texts_per_batch: int = 64,
    ) -> None:
        assert not network.training, "dropout would make the decisions random"
        self.tokenizer = tokenizer
        self.max_tokens = network.settings.max_tokens
        self._network = network
        self._negatives = negatives
        self._texts_per_batch = texts_per_batch
        self._device = images.images_b1ss.device
        self._tokens_bnw = network.image_tokens(images.images_b1ss, images.gsd_m_b)
        self._image_be = network.image_features(self._tokens_bnw).float()
        self._temperature = float(network.temperature)
        own_b1 = torch.tensor(list(images.ids), dtype=torch.int64, device=self._device)[:, None]
        self._same_image_bq = own_b1 == negatives.ids_q[None, :]
        # The image's similarities with the negative texts are the same for all variants of its own text.
        self._negative_texts_b = self._log_sum(self._image_be @ negatives.text_qe.T, self._same_image_bq)
        # With late fusion, the ITM score starts from the text states that the ITC loss has computed.
        self._is_late = network.settings.fusion_layers is not None
        self._states_of: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def _image_kv(self) -> CrossAttentionCache:
        return self._network.image_kv(self._tokens_bnw)

    @torch.inference_mode()
    def itc_loss(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        """Return the ITC loss of each pair: eq. 4, the mean of both directions."""
        loss_n = torch.empty(len(texts), device=self._device)
        for indices, batch_rows, positive_n, negative_images_n in self._similarities(texts, rows):
            # Eq. 4: -log(e^s / (e^s + sum of negatives)), in a form that does not overflow at tau = 0.001.
            image_to_text = F.softplus(self._negative_texts_b[batch_rows] - positive_n)
            text_to_image = F.softplus(negative_images_n - positive_n)
            loss_n[indices] = (image_to_text + text_to_image) / 2
        return list(loss_n.tolist())

    @torch.inference_mode()
    def itc_loss_alone(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        """Return the text-to-image ITC loss of each pair minus that of an uninformative text.

        This is the text-to-image half of eq. 4 minus the logarithm of the number of candidates, which is the
        loss of a text that fits all images equally. It is negative if the text fits its image better than the
        negatives' images on average. The image-to-text half is left out, because it contrasts with whole
        texts, and `texts` are single segments.
        """
        loss_n = torch.empty(len(texts), device=self._device)
        for indices, batch_rows, positive_n, negative_images_n in self._similarities(texts, rows):
            candidates_n = 1 + (~self._same_image_bq[batch_rows]).sum(1)
            loss_n[indices] = F.softplus(negative_images_n - positive_n) - candidates_n.log()
        return list(loss_n.tolist())

    @torch.inference_mode()
    def itm_score(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        """Return the matching score of each pair: p of eq. 5, 0 to 1."""
        score_n = torch.empty(len(texts), device=self._device)
        for indices, ids_nl, mask_nl in self._batches(texts):
            image_kv = self._image_kv_of([rows[i] for i in indices])
            logits_n2 = self._match_logits([texts[i] for i in indices], ids_nl, mask_nl, image_kv)
            score_n[indices] = logits_n2.float().softmax(1)[:, 1]
        return list(score_n.tolist())

    @torch.inference_mode()
    def generate(
        self, texts: Sequence[Sequence[int]], rows: Sequence[int], *, max_tokens: int, beams: int
    ) -> list[list[int]]:
        """Return the decoder's token ids for the one [MASK] of each text; a finished one ends with [SEP]."""
        generated: list[list[int]] = [[] for _ in texts]
        for indices, ids_nl, mask_nl in self._batches(texts):
            image_kv = self._image_kv_of([rows[i] for i in indices])
            answers = self._network.generate(
                ids_nl, mask_nl, image_kv, spans=1, max_tokens=max_tokens, beams=beams
            )
            for i, answer in zip(indices, answers, strict=True):
                generated[i] = answer
        return generated

    def _image_kv_of(self, rows: Sequence[int]) -> CrossAttentionCache:
        return self._image_kv.rows(torch.tensor(rows, dtype=torch.int64, device=self._device))

    def _similarities(
        self, texts: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> Iterator[tuple[list[int], list[int], Tensor, Tensor]]:
        """Compare texts with images, batch by batch.

        Yields:
            Indices of the texts; the rows of their images; and, both divided by tau, the similarity with the
            own image and the log-sum-exp of those with the negatives' images.
        """
        for indices, ids_nl, mask_nl in self._batches(texts):
            batch_rows = [rows[i] for i in indices]
            text_ne = self._text_features([texts[i] for i in indices], ids_nl, mask_nl)
            positive_n = (self._image_be[batch_rows] * text_ne).sum(1) / self._temperature
            negative_images_n = self._log_sum(
                text_ne @ self._negatives.image_qe.T, self._same_image_bq[batch_rows]
            )
            yield indices, batch_rows, positive_n, negative_images_n

    def _text_features(self, texts: Sequence[Sequence[int]], ids_nl: Tensor, mask_nl: Tensor) -> Tensor:
        if not self._is_late:
            return self._network.text_features(ids_nl, mask_nl).float()
        states_nld = self._network.text_states(ids_nl, mask_nl)
        for text, states_ld in zip(texts, states_nld, strict=True):
            self._states_of[tuple(text)] = states_ld[: len(text)]
        return self._network.text_features_of(states_nld).float()

    def _match_logits(
        self, texts: Sequence[Sequence[int]], ids_nl: Tensor, mask_nl: Tensor, image_kv: CrossAttentionCache
    ) -> Tensor:
        known = [self._states_of.get(tuple(text)) for text in texts]
        states = [states_ld for states_ld in known if states_ld is not None]
        if not texts or len(states) < len(texts):
            return self._network.match_logits(ids_nl, mask_nl, image_kv)
        return self._network.match_logits_of(pad_sequence(states, batch_first=True), mask_nl, image_kv)

    def _log_sum(self, similarity_nq: Tensor, same_image_nq: Tensor) -> Tensor:
        logits_nq = (similarity_nq / self._temperature).masked_fill(same_image_nq, -torch.inf)
        return logits_nq.logsumexp(1)

    def _batches(self, texts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        return _by_length(texts, self.tokenizer, self._texts_per_batch, self._device)


def _by_length(
    texts: Sequence[Sequence[int]], tokenizer: Tokenizer, count: int, device: torch.device
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield (indices, token ids, mask) of `count` texts of similar length, which need little padding."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), count):
        indices = order[start : start + count]
        ids_nl, mask_nl = tokenizer.pad([texts[i] for i in indices])
        yield indices, ids_nl.to(device), mask_nl.to(device)
