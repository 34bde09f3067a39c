"""Autoregressive generation of the spans that [MASK]s stand for (paper eq. 13).

Batched over texts and beams. The keys and values of generated tokens are cached, and those of image and
context are computed once per text. Greedy decoding is beam search with one beam.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fusar_klip.models.network.bert import KeyValueCache, Packing, TextDecoder
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.models.tokenizer import SpecialTokens

# B texts, M beams, V vocabulary, T tokens generated so far; rows run over beams, then texts: row m * B + b


def generate_spans(
    decoder: TextDecoder,
    decoder_kv: CrossAttentionCache,
    special: SpecialTokens,
    spans: Sequence[int],
    *,
    max_tokens: int,
    beams: int,
) -> list[list[int]]:
    """Return the best answer of each text: `spans` spans, each ended by [SEP].

    Answers are ranked by their mean log-probability per token, the last [SEP] counted. Special tokens other
    than [SEP] are never generated. Call it with the decoder in evaluation mode.

    Args:
        decoder: The decoder.
        decoder_kv: Its keys and values for cross-attention, one place per text.
        special: Ids of the special tokens.
        spans: Number of spans of each text; 0 gives an empty answer.
        max_tokens: Longest answer.
        beams: Answers kept per text.
    """
    texts = len(decoder_kv)
    if not texts or not max_tokens or not any(spans):
        return [[] for _ in range(texts)]
    device = decoder.cls.predictions.bias.device
    wanted_b = torch.tensor(list(spans), device=device)
    caches = [KeyValueCache() for _ in decoder.bert.layers]
    beam_kv = decoder_kv.tiled(beams)
    search = _BeamSearch(texts, beams, wanted_b, special.sep_id, max_tokens)
    tokens = torch.full((beams * texts,), special.cls_id, device=device)
    for place in range(max_tokens):
        packing = Packing(torch.ones_like(tokens)[:, None])
        states = decoder.bert(
            decoder.bert.embeddings(tokens[:, None], packing, place),
            packing,
            cross_kv=beam_kv,
            caches=caches,
        )
        logits = decoder.logits(states).float()
        logits[:, list(special.never_written)] = -torch.inf
        tokens, rows = search.extend(logits.log_softmax(1).view(beams, texts, -1))
        if search.all_done():
            break
        if beams > 1:
            for cache in caches:
                cache.reorder(rows)
    return search.best()


class _BeamSearch:
    """The partial answers of all beams, (M, B). A finished one stays unchanged."""

    def __init__(self, texts: int, beams: int, wanted_b: Tensor, sep_id: int, max_tokens: int) -> None:
        self._wanted_b, self._sep_id = wanted_b, sep_id
        device = wanted_b.device
        self._written = torch.zeros(beams, texts, max_tokens, dtype=torch.int64, device=device)
        self._length = torch.zeros(beams, texts, dtype=torch.int64, device=device)
        self._left = wanted_b.expand(beams, texts).clone()
        self._total = torch.zeros(beams, texts, device=device)
        # At the start all beams are equal: only the first one counts.
        self._total[1:] = -torch.inf
        self._text_b = torch.arange(texts, device=device)

    def extend(self, log_probability_mbv: Tensor) -> tuple[Tensor, Tensor]:
        """Add a token to each answer; return the tokens (M * B,) and the rows (M * B,) that they follow."""
        beams, texts, words = log_probability_mbv.shape
        done_mb = self._left == 0
        # A finished answer has one successor: itself.
        total_mbv = self._total[..., None] + log_probability_mbv.masked_fill(done_mb[..., None], -torch.inf)
        total_mbv[..., 0] = torch.where(done_mb, self._total, total_mbv[..., 0])
        length_mb = self._length + (~done_mb)
        score_mbv = total_mbv / length_mb.clamp(min=1)[..., None]
        chosen_bm = score_mbv.transpose(0, 1).flatten(1).topk(beams, dim=1).indices
        parent_mb, token_mb = (chosen_bm // words).T, (chosen_bm % words).T
        picked = (parent_mb, self._text_b)
        self._total = total_mbv[(*picked, token_mb)]
        was_done_mb = done_mb[picked]
        self._length, self._left = length_mb[picked], self._left[picked]
        self._written = self._written[picked]
        place_mb = (self._length - 1).clamp(min=0)[..., None]
        kept_mb = self._written.gather(2, place_mb)[..., 0]
        self._written.scatter_(2, place_mb, torch.where(was_done_mb, kept_mb, token_mb)[..., None])
        self._left = self._left - ((token_mb == self._sep_id) & ~was_done_mb).long()
        return token_mb.flatten(), (parent_mb * texts + self._text_b).flatten()

    def all_done(self) -> bool:
        """Whether all answers are finished."""
        return bool((self._left == 0).all())

    def best(self) -> list[list[int]]:
        """Return the best answer of each text; a finished one precedes an unfinished one."""
        score_mb = self._total / self._length.clamp(min=1)
        finished_mb = (self._left == 0) & self._total.isfinite()
        score_mb = score_mb.masked_fill(finished_mb.any(0) & ~finished_mb, -torch.inf)
        best_b = score_mb.argmax(0)
        written = self._written[best_b, self._text_b].tolist()
        lengths = self._length[best_b, self._text_b].tolist()
        return [ids[:length] for ids, length in zip(written, lengths, strict=True)]
