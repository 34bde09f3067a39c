"""The image tower (timm's ViT) and the text side (BERT's layers), and their initialisation."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.create_act import get_act_layer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fusar_klip.models.network.bert import BertEmbeddings, BertLayer, BertTextModel, TextDecoder, split_heads
from fusar_klip.models.settings import MAX_POSITIONS, ModelSettings
from fusar_klip.models.tokenizer import Tokenizer

# B batch, S image size, N image tokens (class token first), W image width

# The standard deviation with which BERT and ViT are initialised suits their width. A narrow tower initialised
# with it has almost no gain, and its features barely differ in the first hundred steps.
_INIT_STD, _INIT_WIDTH = 0.02, 768

# With BERT's initialisation [CLS] depends mostly on itself: the features of all texts are alike (mean cosine
# 0.998), and the first steps of ITC make the features of all images alike, too. The initial attention gives
# more weight to words, and less to positions, which all texts share (mean cosine 0.96).
_ATTENTION_GAIN, _POSITION_GAIN = 2.5, 0.2

# Periods of the waves over log2(spacing): half an octave to 32 octaves, more than any two sensors differ.
_GSD_WAVES, _GSD_SHORTEST, _GSD_LONGEST = 16, 0.5, 32.0


class GsdEmbedding(nn.Module):
    """The ground spacing as a vector that is added to every image token.

    Sine and cosine waves of log2(metres), so that a factor of two is the same step everywhere, and a matrix.
    An unknown spacing has a learned vector. Both are initialised to 0, so a loaded tower starts unchanged.

    Args:
        width: W.
    """

    periods: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        steps = torch.linspace(0, 1, _GSD_WAVES)
        periods = _GSD_SHORTEST * (_GSD_LONGEST / _GSD_SHORTEST) ** steps
        self.register_buffer("periods", periods, persistent=False)
        self.linear = nn.Linear(2 * _GSD_WAVES, width)
        self.unknown = nn.Parameter(torch.zeros(width))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, gsd_m_b: Tensor) -> Tensor:
        """Return (B, W) of spacings in metres, nan = unknown."""
        known_b = gsd_m_b.isfinite() & (gsd_m_b > 0)
        octaves_b = torch.where(known_b, gsd_m_b, 1.0).float().log2()
        angles = 2 * math.pi * octaves_b[:, None] / self.periods
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        return torch.where(known_b[:, None], self.linear(waves), self.unknown)


class ImageTower(VisionTransformer):
    """A ViT with one input channel, a class token and no head.

    Args:
        settings: The sizes.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(
            img_size=settings.image_size,
            patch_size=settings.patch_size,
            in_chans=1,
            num_classes=0,
            embed_dim=settings.image_width,
            depth=settings.image_depth,
            num_heads=settings.image_heads,
            pre_norm=settings.image_pre_norm,
            act_layer=get_act_layer(settings.image_activation),
        )
        self.gsd_embedding = GsdEmbedding(settings.image_width) if settings.gsd_embedding else None
        # timm draws every matrix of the blocks with 0.02, which suits 768.
        with torch.no_grad():
            for parameter in self.blocks.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(_init_std(settings.image_width) / _INIT_STD)

    def tokens(self, images_b1ss: Tensor, gsd_m_b: Tensor | None = None) -> Tensor:
        """Return the normalised output (B, N, W), class token first."""
        return self.encoded(self.embedded(images_b1ss, gsd_m_b))

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Return `tokens` of images of unknown spacing; fine-tuning calls it by timm's name."""
        assert attn_mask is None
        assert not is_causal
        return self.tokens(x)

    def embedded(self, images_b1ss: Tensor, gsd_m_b: Tensor | None = None) -> Tensor:
        """Return the input of the first block, (B, N, W): class token and patches with positions."""
        tokens_bnw: Tensor = self._pos_embed(self.patch_embed(images_b1ss))
        if self.gsd_embedding is not None:
            if gsd_m_b is None:
                gsd_m_b = torch.full((len(images_b1ss),), torch.nan, device=images_b1ss.device)
            tokens_bnw = tokens_bnw + self.gsd_embedding(gsd_m_b)[:, None]
        normed_bnw: Tensor = self.norm_pre(tokens_bnw)
        return normed_bnw

    def encoded(self, embedded_bnw: Tensor) -> Tensor:
        """Return the normalised output (B, N, W) of `embedded`, or of some of its tokens."""
        tokens_bnw: Tensor = self.norm(self._through(len(self.blocks), embedded_bnw))
        return tokens_bnw

    def class_tokens(self, images_b1ss: Tensor, gsd_m_b: Tensor | None = None) -> Tensor:
        """Return the class token of `tokens`, (B, W); the last block computes no other token."""
        tokens_bnw = self._through(len(self.blocks) - 1, self.embedded(images_b1ss, gsd_m_b))
        block: Any = self.blocks[-1]
        attention, width = block.attn, tokens_bnw.shape[2]
        heads = attention.num_heads
        normed_bnw = block.norm1(tokens_bnw)
        query_weight, other_weight = attention.qkv.weight.split([width, 2 * width])
        query_bias, other_bias = attention.qkv.bias.split([width, 2 * width])
        query = F.linear(normed_bnw[:, :1], query_weight, query_bias)
        key, value = F.linear(normed_bnw, other_weight, other_bias).chunk(2, dim=2)
        query, key, value = (split_heads(part, heads).transpose(1, 2) for part in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        class_b1w = tokens_bnw[:, :1] + block.ls1(attention.proj(attended))
        class_b1w = class_b1w + block.ls2(block.mlp(block.norm2(class_b1w)))
        class_bw: Tensor = self.norm(class_b1w)[:, 0]
        return class_bw

    def _through(self, blocks: int, tokens_bnw: Tensor) -> Tensor:
        """Return the tokens (B, N, W) after that many blocks."""
        for block in self.blocks[:blocks]:
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens_bnw = checkpoint(block, tokens_bnw, use_reentrant=False)
            else:
                tokens_bnw = block(tokens_bnw)
        return tokens_bnw


def _init_std(width: int) -> float:
    """Return the initial standard deviation that gives a layer the gain of 0.02 at width 768."""
    return _INIT_STD * math.sqrt(_INIT_WIDTH / width)


def text_towers(settings: ModelSettings, tokenizer: Tokenizer) -> tuple[BertTextModel, TextDecoder]:
    """Return encoder and decoder. They share all weights but self-attention and the decoder's head (BLIP).

    The encoder reads a text alone, or together with an image in the layers with cross-attention: all of them,
    or the last `fusion_layers`.
    """
    embeddings = BertEmbeddings(
        len(tokenizer), MAX_POSITIONS, settings.text_width, settings.text_dropout, tokenizer.pad_id
    )
    layers = [_bert_layer(settings, number) for number in range(settings.text_depth)]
    encoder = BertTextModel(embeddings, layers, settings.cross_attention_layers)
    own = [_bert_layer(settings, number, layer) for number, layer in enumerate(layers)]
    decoder = TextDecoder(BertTextModel(embeddings, own, settings.cross_attention_layers))
    for module in (encoder, decoder):
        _initialise(module, settings.text_width)
    with torch.no_grad():
        embeddings.position_embeddings.weight.mul_(_POSITION_GAIN)
        for layer in (*layers, *own):
            layer.attention.self.value.weight.mul_(_ATTENTION_GAIN)
            layer.attention.output.dense.weight.mul_(_ATTENTION_GAIN)
    return encoder, decoder


def text_only_tower(encoder: BertTextModel, settings: ModelSettings) -> BertTextModel:
    """Return a copy of the layers that read a text alone: no cross-attention and no fusion layers."""
    old = encoder.embeddings
    words, width = old.word_embeddings.weight.shape
    pad_id = old.word_embeddings.padding_idx
    assert pad_id is not None
    embeddings = BertEmbeddings(words, MAX_POSITIONS, width, settings.text_dropout, pad_id)
    layers = [
        BertLayer(width, settings.text_heads, settings.text_dropout, 0)
        for _ in range(settings.text_only_layers)
    ]
    copy = BertTextModel(embeddings, layers, 0).to(old.word_embeddings.weight.device)
    state = encoder.state_dict()
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            parameter.copy_(state[name])
    return copy


def _bert_layer(settings: ModelSettings, number: int, shared: BertLayer | None = None) -> BertLayer:
    fuses = number >= settings.text_depth - settings.cross_attention_layers
    return BertLayer(
        settings.text_width,
        settings.text_heads,
        settings.text_dropout,
        settings.image_width if fuses else 0,
        shared,
    )


def _initialise(module: nn.Module, width: int) -> None:
    """Initialise as BERT; parameters that two modules share are drawn with each, which changes nothing."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=_init_std(width))
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=_init_std(width))
            if part.padding_idx is not None:
                with torch.no_grad():
                    part.weight[part.padding_idx] = 0
