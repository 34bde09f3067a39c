"""BERT's layers with cross-attention to an image, on texts without their padding.

Texts of unequal length are packed into one row of tokens. Only attention, which is a small part of the
work, reads them padded; every other layer computes on real tokens only, so a text's states cannot depend on
its batch. The keys and values of the cross-attention are computed once per image, for any number of texts
(`CrossAttentionCache`).

Modules and weights are named as in BERT (and BLIP's med.py), so that their files load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.models.network.dropout import attention, dropout

# B texts, L longest text, K tokens of all texts without padding, T tokens written, D text width, H heads,
# C = D / H, M images, N keys of an image, W image width, V vocabulary

_LAYER_NORM_EPS = 1e-12  # BERT's


class Packing:
    """The positions of the tokens of padded texts once the padding is removed.

    Args:
        mask_bl: (B, L), nonzero = token. Tokens stand at the front of their row; a row may be empty.
    """

    def __init__(self, mask_bl: Tensor) -> None:
        self.texts, self.longest = mask_bl.shape
        self.places_k = mask_bl.flatten().nonzero().squeeze(1)
        self.is_padded = len(self.places_k) < mask_bl.numel()
        self.key_mask_b11l = mask_bl.bool()[:, None, None, :] if self.is_padded else None
        lengths_b = mask_bl.ne(0).sum(1)
        self.first_b = lengths_b.cumsum(0) - lengths_b

    def pack(self, padded: Tensor) -> Tensor:
        """Return (K, ...) of (B, L, ...)."""
        flat = padded.flatten(0, 1)
        return flat.index_select(0, self.places_k) if self.is_padded else flat

    def unpack(self, packed: Tensor) -> Tensor:
        """Return (B, L, ...) of (K, ...), 0 where there is no token."""
        shape = (self.texts, self.longest, *packed.shape[1:])
        if not self.is_padded:
            return packed.view(shape)
        flat = packed.new_zeros(self.texts * self.longest, *packed.shape[1:])
        return flat.index_copy(0, self.places_k, packed).view(shape)


class KeyValueCache:
    """Keys and values of the tokens that a self-attention layer of the decoder has read, (B, H, T, C)."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append the newest token's keys and values; return all."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)
        self.key, self.value = key, value
        return key, value

    def reorder(self, rows_b: Tensor) -> None:
        """Keep these rows, in this order (beam search)."""
        assert self.key is not None
        assert self.value is not None
        self.key, self.value = self.key.index_select(0, rows_b), self.value.index_select(0, rows_b)


def split_heads(states_bld: Tensor, heads: int) -> Tensor:
    """Return (B, L, H, C) of (B, L, D)."""
    return states_bld.view(*states_bld.shape[:2], heads, states_bld.shape[2] // heads)


class BertOutput(nn.Module):
    """Linear layer, dropout, residual sum and layer norm, in BERT's order."""

    def __init__(self, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)
        self.dropout = dropout

    def forward(self, new_kd: Tensor, before_kd: Tensor) -> Tensor:
        """Return (K, D)."""
        new_kd = dropout(self.dense(new_kd), self.dropout, self.training)
        return self.LayerNorm(new_kd + before_kd)  # type: ignore[no-any-return]


class _Projections(nn.Module):
    def __init__(self, width: int, key_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(key_width, width)
        self.value = nn.Linear(key_width, width)


class BertAttention(nn.Module):
    """Multi-head attention with its residual.

    Args:
        width: D.
        key_width: Width of the states that keys and values are computed from.
        heads: H.
        dropout: Of the weights and of the output.
    """

    def __init__(self, width: int, key_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self = _Projections(width, key_width)
        self.output = BertOutput(width, width, dropout)
        self.heads = heads
        self.dropout = dropout

    def _split(self, packing: Packing | None, packed_kd: Tensor) -> Tensor:
        """Return (B, L, H, C); without a packing there is one token per text."""
        padded_bld = packed_kd[:, None] if packing is None else packing.unpack(packed_kd)
        return split_heads(padded_bld, self.heads)

    def self_attention(
        self,
        states_kd: Tensor,
        packing: Packing,
        *,
        causal: bool = False,
        first_only: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Return the states after self-attention; `first_only` returns each text's first token."""
        asking = states_kd.index_select(0, packing.first_b) if first_only else states_kd
        query_kd = self.self.query(asking)
        query = self._split(None if first_only else packing, query_kd)
        key = self._split(packing, self.self.key(states_kd)).transpose(1, 2)
        value = self._split(packing, self.self.value(states_kd)).transpose(1, 2)
        if cache is not None:
            key, value = cache.extend(key, value)
        output = attention(
            query.transpose(1, 2),
            key,
            value,
            # Padding stands at the end, where causal attention never reaches.
            mask=None if causal or cache is not None else packing.key_mask_b11l,
            causal=causal and cache is None,
            share=self.dropout if self.training else 0.0,
        )
        output_bld = output.transpose(1, 2).flatten(2)
        output_kd = output_bld[:, 0] if first_only else packing.pack(output_bld)
        return self.output(output_kd, asking)  # type: ignore[no-any-return]

    def cross_attention(
        self, states_kd: Tensor, packing: Packing | None, cross_kv: CrossAttentionCache, layer: int
    ) -> Tensor:
        """Return the states after cross-attention; without a packing there is one token per text."""
        query_blhc = self._split(packing, self.self.query(states_kd))
        output_bld = cross_kv.attend(query_blhc, layer, self.dropout if self.training else 0.0)
        output_kd = output_bld[:, 0] if packing is None else packing.pack(output_bld)
        return self.output(output_kd, states_kd)  # type: ignore[no-any-return]

    def keys_and_values(self, tokens_mnw: Tensor) -> tuple[Tensor, Tensor]:
        """Return this layer's keys and values of `tokens_mnw`, each (M, H, N, C)."""
        key, value = self.self.key(tokens_mnw), self.self.value(tokens_mnw)
        return (
            split_heads(key, self.heads).transpose(1, 2),
            split_heads(value, self.heads).transpose(1, 2),
        )


class _Dense(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)


class BertLayer(nn.Module):
    """One layer: self-attention, optional cross-attention, feed-forward.

    Args:
        width: D.
        heads: H.
        dropout: Probability, in every sublayer.
        cross_attention_width: Width of the image tokens; 0 makes a layer without cross-attention.
        shared: A layer whose cross-attention and feed-forward are shared; only self-attention is its own.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        cross_attention_width: int,
        shared: BertLayer | None = None,
    ) -> None:
        super().__init__()
        self.attention = BertAttention(width, width, heads, dropout)
        if cross_attention_width:
            self.crossattention: BertAttention = (
                shared.crossattention
                if shared
                else BertAttention(width, cross_attention_width, heads, dropout)
            )
        self.intermediate: _Dense = shared.intermediate if shared else _Dense(width, 4 * width)
        self.output: BertOutput = shared.output if shared else BertOutput(4 * width, width, dropout)

    def forward(
        self,
        states_kd: Tensor,
        packing: Packing,
        cross_kv: CrossAttentionCache | None = None,
        kv_layer: int = 0,
        causal: bool = False,
        first_only: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Return (K, D), or (B, D) with `first_only`: the states of each text's first token."""
        states_kd = self.attention.self_attention(
            states_kd, packing, causal=causal, first_only=first_only, cache=cache
        )
        if cross_kv is not None:
            states_kd = self.crossattention.cross_attention(
                states_kd, None if first_only else packing, cross_kv, kv_layer
            )
        return self.output(_gelu(self.intermediate.dense(states_kd)), states_kd)  # type: ignore[no-any-return]


class _Encoder(nn.Module):
    def __init__(self, layers: Sequence[BertLayer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)


class BertEmbeddings(nn.Module):
    """Word and position embeddings."""

    def __init__(self, vocabulary: int, positions: int, width: int, dropout: float, pad_id: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width, padding_idx=pad_id)
        self.position_embeddings = nn.Embedding(positions, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)
        self.dropout = dropout

    def forward(self, ids_bl: Tensor, packing: Packing, start: int = 0) -> Tensor:
        """Return (K, D); the first token of each text stands at position `start`."""
        ids_k, positions_k = packing.pack(ids_bl), packing.places_k % packing.longest + start
        states_kd = self.word_embeddings(ids_k) + self.position_embeddings(positions_k)
        return dropout(self.LayerNorm(states_kd), self.dropout, self.training)


class BertTextModel(nn.Module):
    """BERT: embeddings and layers, used as encoder and as decoder.

    Args:
        embeddings: The embeddings; encoder and decoder share them.
        layers: The layers, those with cross-attention last.
        cross_attention_layers: How many have cross-attention.
    """

    def __init__(
        self, embeddings: BertEmbeddings, layers: Sequence[BertLayer], cross_attention_layers: int
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.encoder = _Encoder(layers)
        self.cross_attention_layers = cross_attention_layers
        self.checkpointing = False

    @property
    def layers(self) -> list[BertLayer]:
        """The layers in order."""
        return list(self.encoder.layer)  # type: ignore[arg-type]

    def forward(
        self,
        states_kd: Tensor,
        packing: Packing,
        *,
        cross_kv: CrossAttentionCache | None = None,
        layers: range | None = None,
        causal: bool = False,
        first_only: bool = False,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """Return (K, D) after the layers (default: all), or (B, D) of the texts' first tokens.

        Args:
            states_kd: The input of the first layer, such as `embeddings`.
            packing: Packing of the texts.
            cross_kv: Keys and values for cross-attention; None reads the text alone.
            layers: Indices of the layers to run.
            causal: Whether a token attends only to itself and earlier tokens.
            first_only: Compute only the first token of each text in the last layer.
            caches: One per layer; each text is one further token, which attends to all tokens read before.
        """
        layers = range(len(self.layers)) if layers is None else layers
        for number in layers:
            place = number - (len(self.layers) - self.cross_attention_layers)
            arguments = (
                states_kd,
                packing,
                cross_kv if place >= 0 else None,
                max(place, 0),
                causal,
                first_only and number == layers[-1],
                caches[number] if caches is not None else None,
            )
            layer = self.layers[number]
            if self.checkpointing and torch.is_grad_enabled():
                states_kd = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                states_kd = layer(*arguments)
        return states_kd

    def image_kv(self, tokens_mnw: Tensor) -> CrossAttentionCache:
        """Return keys and values of `tokens_mnw` for every layer with cross-attention."""
        fusion = self.layers[len(self.layers) - self.cross_attention_layers :]
        pairs = [layer.crossattention.keys_and_values(tokens_mnw) for layer in fusion]
        return CrossAttentionCache.of([key for key, _ in pairs], [value for _, value in pairs])


def _gelu(states_kd: Tensor) -> Tensor:
    """Return the GELU of (K, D), computed on the transpose to save memory.

    On the CPU, oneDNN caches buffers for the last thousand values of K, which packed texts reach within
    minutes: gigabytes. It leaves tensors that are not contiguous to torch, which is as fast.
    """
    return F.gelu(states_kd.mT).mT


class _Transform(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)


class _Predictions(nn.Module):
    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = _Transform(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))


class _Head(nn.Module):
    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.predictions = _Predictions(width, vocabulary)


class TextDecoder(nn.Module):
    """Reads causally and predicts the next token; its output matrix is the word embedding (BERT).

    Args:
        bert: Its embeddings and layers.
    """

    def __init__(self, bert: BertTextModel) -> None:
        super().__init__()
        vocabulary, width = bert.embeddings.word_embeddings.weight.shape
        self.bert = bert
        self.cls = _Head(width, vocabulary)

    def logits(self, states_kd: Tensor) -> Tensor:
        """Return (K, V)."""
        head = self.cls.predictions
        states_kd = head.transform.LayerNorm(_gelu(head.transform.dense(states_kd)))
        return F.linear(states_kd, self.bert.embeddings.word_embeddings.weight, head.bias)
