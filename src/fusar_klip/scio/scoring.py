"""What screening asks of a model: the ITC loss and the ITM score of single pairs.

A pair's loss is the symmetric InfoNCE of eq. 4 against a frozen set of negatives, without soft targets: it
depends neither on the batch nor on what else is screened (decisions.md, "L_ITC of one pair").

B images, N pairs, Q references, E embed_dim, L text tokens, S image size
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fusar_klip.models import KlipNetwork, Tokenizer
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.models.network.queue import FeatureQueue

T = TypeVar("T")


@dataclass(frozen=True)
class ImageBlock:
    """Images that are worked on together.

    Attributes:
        images_b1ss: float32, standardised, on the network's device.
        ids: The identity of each image among the references: equal for equal images alone.
        gsd_m_b: Ground spacing in metres, nan where it is not known; for networks that are told it.
    """

    images_b1ss: Tensor
    ids: Sequence[int]
    gsd_m_b: Tensor | None = None


@dataclass(frozen=True)
class References:
    """The frozen negatives of a pass.

    Attributes:
        image_qe: (Q, E) float32, normalised image features.
        text_qe: (Q, E) float32, normalised features of the texts of the same pairs.
        ids_q: (Q,) int64, the image of each; entries of a pair's own image are never its negatives.
    """

    image_qe: Tensor
    text_qe: Tensor
    ids_q: Tensor

    @classmethod
    def of_queue(cls, queue: FeatureQueue) -> Self:
        """Return the queue's features as they are now; the queue may go on."""
        return cls(queue.image_qe.clone(), queue.text_qe.clone(), queue.ids_q.clone())

    @classmethod
    @torch.inference_mode()
    def encode(
        cls,
        network: KlipNetwork,
        tokenizer: Tokenizer,
        pairs: Iterable[tuple[ImageBlock, Sequence[Sequence[int]]]],
        texts_per_batch: int = 64,
    ) -> Self:
        """Return the network's own features of a sample.

        Args:
            network: In evaluation mode.
            tokenizer: Pads.
            pairs: Blocks of images, with a text as ids for each image.
            texts_per_batch: Texts encoded at a time.
        """
        device = next(network.parameters()).device
        nothing = torch.zeros(0, network.settings.embed_dim, device=device)
        images, texts = [nothing], [nothing]
        ids: list[int] = []
        for block, of_block in pairs:
            tokens_bnw = network.image_tokens(block.images_b1ss, block.gsd_m_b)
            images.append(network.image_features(tokens_bnw).float())
            text_be = torch.empty_like(images[-1])
            for places, ids_bl, mask_bl in _by_length(of_block, tokenizer, texts_per_batch, device):
                text_be[places] = network.text_features(ids_bl, mask_bl).float()
            texts.append(text_be)
            ids += block.ids
        return cls(torch.cat(images), torch.cat(texts), torch.tensor(ids, dtype=torch.int64, device=device))


class PairScorer:
    """Scores texts with the images of a block; each image is encoded once, whatever is asked about it.

    Args:
        network: In evaluation mode.
        tokenizer: Pads and joins.
        images: The block.
        references: The negatives.
        texts_per_batch: Texts encoded at a time.
    """

    @torch.inference_mode()
    def __init__(
        self,
        network: KlipNetwork,
        tokenizer: Tokenizer,
        images: ImageBlock,
        references: References,
        *,
        texts_per_batch: int = 64,
    ) -> None:
        assert not network.training, "dropout would make every decision a draw"
        self.tokenizer = tokenizer
        self.max_tokens = network.settings.max_tokens
        self._network = network
        self._references = references
        self._texts_per_batch = texts_per_batch
        self._device = images.images_b1ss.device
        self._tokens_bnw = network.image_tokens(images.images_b1ss, images.gsd_m_b)
        self._image_be = network.image_features(self._tokens_bnw).float()
        self._temperature = float(network.temperature)
        own_b1 = torch.tensor(list(images.ids), dtype=torch.int64, device=self._device)[:, None]
        self._own_bq = own_b1 == references.ids_q[None, :]
        # The other texts that an image could have: what its own text competes with, once for all variants.
        self._rivals_b = self._log_sum(self._image_be @ references.text_qe.T, self._own_bq)
        # With late fusion the matching of a text goes on from its states alone, which ITC has computed.
        self._is_late = network.settings.fusion_layers is not None
        self._alone: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def _memory(self) -> CrossAttentionCache:
        return self._network.image_kv(self._tokens_bnw)

    @torch.inference_mode()
    def itc(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        """Return the ITC loss of each text with the image at its place in `rows` (eq. 4, both directions)."""
        loss_n = torch.empty(len(texts), device=self._device)
        for places, of, own_n, rival_images_n in self._against_images(texts, rows):
            # -log(e^s / (e^s + sum of rivals)) without the overflow that e^s invites at tau = 0.001.
            image_to_text = F.softplus(self._rivals_b[of] - own_n)
            text_to_image = F.softplus(rival_images_n - own_n)
            loss_n[places] = (image_to_text + text_to_image) / 2
        return list(loss_n.tolist())

    @torch.inference_mode()
    def itc_alone(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        """Return what each text adds to the ITC loss of saying nothing; arguments as `itc`.

        The text-to-image half of eq. 4 minus the logarithm of the candidates' number, which is the loss of a
        text that tells no image apart: under 0 where the text fits this image better than the references' on
        average. The other half contrasts with the references' texts, whole ones: no measure for a part.
        """
        loss_n = torch.empty(len(texts), device=self._device)
        for places, of, own_n, rival_images_n in self._against_images(texts, rows):
            candidates_n = 1 + (~self._own_bq[of]).sum(1)
            loss_n[places] = F.softplus(rival_images_n - own_n) - candidates_n.log()
        return list(loss_n.tolist())

    @torch.inference_mode()
    def itm(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        """Return the matching score of each text with its image: p of eq. 5, 0 to 1."""
        score_n = torch.empty(len(texts), device=self._device)
        for places, ids_nl, mask_nl in self._batches(texts):
            memory = self._looked_at([rows[place] for place in places])
            logits_n2 = self._match_logits([texts[place] for place in places], ids_nl, mask_nl, memory)
            score_n[places] = logits_n2.float().softmax(1)[:, 1]
        return list(score_n.tolist())

    @torch.inference_mode()
    def write(
        self, texts: Sequence[Sequence[int]], rows: Sequence[int], *, max_tokens: int, beams: int
    ) -> list[list[int]]:
        """Return what the decoder writes for the one [MASK] of each text; what has ended ends with [SEP]."""
        answers: list[list[int]] = [[] for _ in texts]
        for places, ids_nl, mask_nl in self._batches(texts):
            memory = self._looked_at([rows[place] for place in places])
            written = self._network.generate(
                ids_nl, mask_nl, memory, spans=1, max_tokens=max_tokens, beams=beams
            )
            for place, answer in zip(places, written, strict=True):
                answers[place] = answer
        return answers

    def _looked_at(self, rows: Sequence[int]) -> CrossAttentionCache:
        return self._memory.rows(torch.tensor(rows, dtype=torch.int64, device=self._device))

    def _against_images(
        self, texts: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> Iterator[tuple[list[int], list[int], Tensor, Tensor]]:
        """Compare texts with images, batch by batch.

        Yields:
            Places among the texts; their rows; and, both over tau, the similarity with the own image and the
            log-sum of those with the references' images.
        """
        for places, ids_nl, mask_nl in self._batches(texts):
            of = [rows[place] for place in places]
            text_ne = self._text_features([texts[place] for place in places], ids_nl, mask_nl)
            own_n = (self._image_be[of] * text_ne).sum(1) / self._temperature
            yield places, of, own_n, self._log_sum(text_ne @ self._references.image_qe.T, self._own_bq[of])

    def _text_features(self, texts: Sequence[Sequence[int]], ids_nl: Tensor, mask_nl: Tensor) -> Tensor:
        if not self._is_late:
            return self._network.text_features(ids_nl, mask_nl).float()
        states_nld = self._network.text_states(ids_nl, mask_nl)
        for text, states_ld in zip(texts, states_nld, strict=True):
            self._alone[tuple(text)] = states_ld[: len(text)]
        return self._network.text_features_of(states_nld).float()

    def _match_logits(
        self, texts: Sequence[Sequence[int]], ids_nl: Tensor, mask_nl: Tensor, memory: CrossAttentionCache
    ) -> Tensor:
        known = [self._alone.get(tuple(text)) for text in texts]
        states = [states_ld for states_ld in known if states_ld is not None]
        if not texts or len(states) < len(texts):
            return self._network.match_logits(ids_nl, mask_nl, memory)
        return self._network.match_logits_of(pad_sequence(states, batch_first=True), mask_nl, memory)

    def _log_sum(self, similarity_nq: Tensor, own_nq: Tensor) -> Tensor:
        logits_nq = (similarity_nq / self._temperature).masked_fill(own_nq, -torch.inf)
        return logits_nq.logsumexp(1)

    def _batches(self, texts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        return _by_length(texts, self.tokenizer, self._texts_per_batch, self._device)


def _by_length(
    texts: Sequence[Sequence[int]], tokenizer: Tokenizer, count: int, device: torch.device
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield (places, ids, mask) of `count` texts of about equal length, so that little is padded."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for start in range(0, len(order), count):
        places = order[start : start + count]
        ids_nl, mask_nl = tokenizer.pad([texts[place] for place in places])
        yield places, ids_nl.to(device), mask_nl.to(device)
