"""The image tower (timm ViT), the text tower and decoder (BERT with cross-attention), and their weights.

Weights come from a file or, by name, from the hubs of timm and transformers. Whatever does not fit is listed,
and past a threshold it is an error.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from timm.models import adapt_input_conv, create_model, load_state_dict
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from transformers import BertModel, BlipTextConfig
from transformers.cache_utils import Cache
from transformers.models.blip.modeling_blip_text import (
    BlipTextAttention,
    BlipTextLMHeadModel,
    BlipTextModel,
)

from fusar_klip.errors import CheckpointError
from fusar_klip.models.settings import MAX_POSITIONS, ModelSettings
from fusar_klip.models.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

# BERT's and ViT's spread of fresh weights is meant for their width. A narrow tower with it passes on next to
# nothing of its input, and tells nothing apart for its first hundred steps.
_INIT_STD, _INIT_WIDTH = 0.02, 768

# What timm, transformers, torch and safetensors raise for weights that are missing or damaged.
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, UnpicklingError, SafetensorError)

# More than this share of a tower's weights missing means that the file is of another model.
_MISSING_LIMIT = 0.1


def image_tower(settings: ModelSettings) -> VisionTransformer:
    """Return a ViT with one input channel, a class token and no head."""
    tower = VisionTransformer(
        img_size=settings.image_size,
        patch_size=settings.patch_size,
        in_chans=1,
        num_classes=0,
        embed_dim=settings.image_width,
        depth=settings.image_depth,
        num_heads=settings.image_heads,
    )
    # timm draws every matrix of the blocks with 0.02, which suits 768.
    with torch.no_grad():
        for parameter in tower.blocks.parameters():
            if parameter.ndim == 2:
                parameter.mul_(_init_std(settings.image_width) / _INIT_STD)
    return tower


def _init_std(width: int) -> float:
    """Return the spread of fresh weights that keeps a layer's gain what 0.02 makes of it at width 768."""
    return _INIT_STD * math.sqrt(_INIT_WIDTH / width)


def text_towers(settings: ModelSettings, tokenizer: Tokenizer) -> tuple[BlipTextModel, BlipTextLMHeadModel]:
    """Return encoder and decoder. They share all weights but self-attention and the decoder's head (BLIP).

    The encoder is text-only without `encoder_hidden_states`, and the fusion encoder with them. Its
    cross-attention takes states of the image tower's width.
    """
    config = BlipTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.text_width,
        encoder_hidden_size=settings.image_width,
        intermediate_size=4 * settings.text_width,
        num_hidden_layers=settings.text_depth,
        num_attention_heads=settings.text_heads,
        max_position_embeddings=MAX_POSITIONS,
        hidden_dropout_prob=settings.text_dropout,
        attention_probs_dropout_prob=settings.text_dropout,
        pad_token_id=tokenizer.pad_id,
        bos_token_id=tokenizer.cls_id,
        eos_token_id=tokenizer.sep_id,
        sep_token_id=tokenizer.sep_id,
        is_decoder=True,
        use_cache=False,
        initializer_range=_init_std(settings.text_width),
    )
    encoder = BlipTextModel(config, add_pooling_layer=False)
    decoder = BlipTextLMHeadModel(config)
    for layer in encoder.encoder.layer:
        masked = _CrossAttention(config, is_cross_attention=True)  # type: ignore[no-untyped-call]
        masked.load_state_dict(layer.get_submodule("crossattention").state_dict())
        layer.crossattention = masked
    decoder.bert.embeddings = encoder.embeddings
    for layer, shared in zip(decoder.bert.encoder.layer, encoder.encoder.layer, strict=True):
        layer.crossattention = shared.crossattention
        layer.intermediate = shared.intermediate
        layer.output = shared.output
    head = decoder.cls.predictions
    head.decoder.weight = encoder.embeddings.word_embeddings.weight
    head.decoder.bias = head.bias
    return encoder, decoder


class _CrossAttention(BlipTextAttention):
    """Cross-attention that heeds its mask.

    transformers (seen in 5.23) hands the mask on as `attention_mask`, where its own cross-attention reads
    `encoder_attention_mask`: padding would be attended to, and a text's states would depend on its batch.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        context, weights = self.self(
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=kwargs.get("encoder_attention_mask", attention_mask),
            past_key_values=past_key_values,
        )
        return self.output(context, hidden_states), weights


def load_image_weights(tower: VisionTransformer, source: str) -> None:
    """Start the image tower from ImageNet weights: a file, or a timm name such as vit_base_patch16_224.

    The colour channels of the patch embedding are summed, and position embeddings are resampled.

    Raises:
        CheckpointError: The weights cannot be had, or are of another model.
    """
    try:
        if Path(source).is_file():
            state = load_state_dict(source)
        else:
            state = create_model(source, pretrained=True).state_dict()
        state = checkpoint_filter_fn(dict(state), tower)
        name = "patch_embed.proj.weight"
        if name in state:
            state[name] = adapt_input_conv(1, state[name])
    except _UNREADABLE as error:
        raise _no_weights("init.image", source, "a file or a timm model name", error) from error
    _load_into(tower, {k: v for k, v in state.items() if not k.startswith(("head.", "fc_norm."))}, source)


def load_text_weights(encoder: BlipTextModel, decoder: BlipTextLMHeadModel, source: str) -> None:
    """Start encoder and decoder from BERT: a file, a folder, or a name such as bert-base-uncased.

    BERT adds `token_type_embeddings[0]` to every position; here it goes into the position embeddings. The
    cross-attention, which BERT has none of, stays as it was.

    Raises:
        CheckpointError: The weights cannot be had, or are of another model or vocabulary.
    """
    try:
        if Path(source).is_file():
            state = dict(load_state_dict(source))
        else:
            state = BertModel.from_pretrained(source).state_dict()
    except _UNREADABLE as error:
        raise _no_weights("init.text", source, "a file, a folder or a name of BERT's", error) from error
    state = {key.removeprefix("bert."): value for key, value in state.items()}
    types = state.pop("embeddings.token_type_embeddings.weight", None)
    if types is not None and "embeddings.position_embeddings.weight" in state:
        state["embeddings.position_embeddings.weight"] = (
            state["embeddings.position_embeddings.weight"] + types[0]
        )
    # Older files name LayerNorm's weights after the paper's symbols.
    state = {k.replace("LayerNorm.gamma", "LayerNorm.weight"): v for k, v in state.items()}
    state = {k.replace("LayerNorm.beta", "LayerNorm.bias"): v for k, v in state.items()}
    state = {
        k: v for k, v in state.items() if not k.startswith(("pooler.", "cls.", "embeddings.position_ids"))
    }
    _load_into(encoder, state, source, new=".crossattention.")
    # The decoder's own self-attention starts from BERT's too; what is shared is copied onto itself.
    decoder.bert.load_state_dict(encoder.state_dict())


def _load_into(module: nn.Module, state: Mapping[str, Tensor], source: str, new: str | None = None) -> None:
    """Load `state`; parameters whose name holds `new` are not expected in it."""
    own = dict(module.named_parameters())
    expected = {name for name in own if new is None or new not in name}
    if wrong := [n for n in sorted(expected & state.keys()) if own[n].shape != state[n].shape]:
        shapes = f"{tuple(state[wrong[0]].shape)} instead of {tuple(own[wrong[0]].shape)}"
        raise CheckpointError(
            f"{source} does not fit: {wrong[0]} is {shapes}; "
            "choose the model and the tokenizer that the weights were made for"
        )
    missing, unused = sorted(expected - state.keys()), sorted(state.keys() - own.keys())
    share = sum(own[n].numel() for n in missing) / sum(own[n].numel() for n in expected)
    if share > _MISSING_LIMIT:
        raise CheckpointError(
            f"{source} lacks {share:.0%} of the weights ({', '.join(missing[:3])}, ...): "
            "choose the model that the weights were made for"
        )
    if missing or unused:
        _log.warning("%s: missing %s; unused %s", source, missing or "none", unused or "none")
    module.load_state_dict(dict(state), strict=False)


def _no_weights(key: str, source: str, wanted: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(f"{key}: no weights from {source} ({reason}); give {wanted}")


def clone_text_only(encoder: BlipTextModel) -> BlipTextModel:
    """Return a copy of the text tower for text-only use: it has no cross-attention."""
    config = BlipTextConfig(**{**encoder.config.to_dict(), "is_decoder": False})
    copy = BlipTextModel(config, add_pooling_layer=False)
    state = encoder.state_dict()
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            parameter.copy_(state[name])
    return copy
