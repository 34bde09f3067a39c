"""Weights to start the towers from: files in the layouts of the field's projects, or names of the hubs.

    image tower   timm; MAE (facebookresearch/mae); OpenAI's CLIP; ALBEF and BLIP, whole files too; a RUN's
                  model.safetensors, of any objective
    text side     BERT (transformers, old files too); ALBEF and BLIP, decoder included

Files are .safetensors, or .pth and the like, of which nothing but tensors is read (`weights_only`). Whatever
a file lacks or has too much is listed, and past a threshold it is an error.
"""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from timm.models import adapt_input_conv, create_model, load_state_dict
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor
from transformers import BertModel

from fusar_klip.errors import CheckpointError
from fusar_klip.models.network.bert import BertTextModel, TextDecoder
from fusar_klip.models.network.towers import ImageTower
from fusar_klip.models.state_dict import fill

_log = logging.getLogger(__name__)

_AS_CLIP = (
    "%s is of a tower with a norm before its blocks, as CLIP's: start with "
    "--set architecture.image_pre_norm=true, and if the weights are OpenAI's, also with "
    "--set architecture.image_activation=quick_gelu; without them the features are not those of the weights"
)
_MEND = "choose the model and the tokenizer that the weights were made for"

# Parts of whole models that a tower has no use for: heads, MAE's decoder, towers of the other kind.
_OTHER_IMAGE_PARTS = ("head.", "fc_norm.", "decoder_", "mask_token", "pre_logits.")
_OTHER_TEXT_PARTS = ("pooler.", "cls.", "embeddings.position_ids")


def load_image_weights(tower: ImageTower, source: str) -> None:
    """Start the image tower from a file, or from a timm name such as vit_base_patch16_224.

    The colour channels of the patch embedding are summed, and position embeddings are resampled.

    Raises:
        CheckpointError: The weights cannot be had, or are of another model.
    """
    try:
        if Path(source).is_file():
            state = _read(source)
        else:
            state = dict(create_model(source, pretrained=True).state_dict())
        state, others = _image_part(state)
        state = dict(checkpoint_filter_fn(state, tower))
        others += [key for key in state if key.startswith(_OTHER_IMAGE_PARTS)]
        name = "patch_embed.proj.weight"
        if name in state:
            state[name] = adapt_input_conv(1, state[name])
        bias_w = tower.patch_embed.proj.bias
        if "norm_pre.weight" in state and bias_w is not None:
            _log.warning(_AS_CLIP, source)
            # CLIP's patches have no bias: a fresh one would not be 0.
            state["patch_embed.proj.bias"] = torch.zeros_like(bias_w)
    except Exception as error:  # timm, torch and safetensors raise what the damage happens to cause
        raise _no_weights("init.image", source, "a file or a timm model name", error) from error
    wanted = {key: value for key, value in state.items() if not key.startswith(_OTHER_IMAGE_PARTS)}
    fill(
        tower,
        wanted,
        source,
        mend=_MEND,
        others=others,
        optional=lambda name: name.startswith("gsd_embedding."),
    )


def load_text_weights(encoder: BertTextModel, decoder: TextDecoder, source: str) -> None:
    """Start encoder and decoder from a file, a folder, or a name such as bert-base-uncased.

    BERT adds `token_type_embeddings[0]` to every position; here it goes into the position embeddings. The
    cross-attention stays as it was where the weights have none, as BERT's.

    Raises:
        CheckpointError: The weights cannot be had, or are of another model or vocabulary.
    """
    try:
        if Path(source).is_file():
            state = _read(source)
        else:
            state = dict(BertModel.from_pretrained(source).state_dict())
    except Exception as error:  # as above, and transformers
        raise _no_weights("init.text", source, "a file, a folder or a name of BERT's", error) from error
    written = {
        key.removeprefix("text_decoder."): value
        for key, value in state.items()
        if key.startswith("text_decoder.")
    }
    state, others = _text_part(state)
    types = state.pop("embeddings.token_type_embeddings.weight", None)
    if types is not None and "embeddings.position_embeddings.weight" in state:
        state["embeddings.position_embeddings.weight"] = (
            state["embeddings.position_embeddings.weight"] + types[0]
        )
    if any(key.startswith(_OTHER_TEXT_PARTS) for key in state):
        others += [key for key in state if key.startswith(_OTHER_TEXT_PARTS)]
        state = {key: value for key, value in state.items() if not key.startswith(_OTHER_TEXT_PARTS)}
    if written:
        words = len(encoder.embeddings.word_embeddings.weight)
        state = _without_added_words(state, "embeddings.word_embeddings.weight", words)
        written = _without_added_words(written, "cls.predictions.bias", words)
    own = {
        name: written[name]
        for name, parameter in decoder.named_parameters()
        if name in written
        and (".attention." in name or name.startswith("cls.predictions."))
        and written[name].shape == parameter.shape
    }
    # What the decoder shares with the encoder is taken from there.
    others += [f"text_decoder.{name}" for name in written if name not in own]
    fill(encoder, state, source, mend=_MEND, others=others, optional=lambda name: ".crossattention." in name)
    # The decoder's own self-attention starts from BERT's too; what is shared is copied onto itself.
    decoder.bert.load_state_dict(encoder.state_dict())
    decoder.load_state_dict(own, strict=False)


def _read(source: str) -> dict[str, Tensor]:
    """Return the tensors of a file, taken out of "model" or "state_dict" and of a "module." prefix."""
    # Training states of MAE, ALBEF and BLIP hold the command line beside the weights; it is read, not run.
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = load_state_dict(source, weights_only=True)
    except RuntimeError as error:
        if "TorchScript" not in str(error):
            raise
        raise ValueError(
            "a TorchScript archive, as OpenAI's CLIP is published: make a file of its tensors by "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        ) from error
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def _image_part(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the image tower's weights in a layout that timm knows, and the names of all others."""
    for prefix in ("visual_encoder.", "image_tower."):
        if any(key.startswith(prefix) for key in state):
            kept = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
            return kept, [key for key in state if not key.startswith(prefix)]
    if "visual.class_embedding" in state:
        kept = {key: value for key, value in state.items() if key.startswith("visual.")}
        return kept, [key for key in state if not key.startswith("visual.")]
    # timm takes a "mask_token" for DINOv2's.
    others = [key for key in state if key.startswith(("mask_token", "decoder_"))]
    return {key: value for key, value in state.items() if key not in others}, others


def _text_part(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the text tower's weights under BERT's names, and the names of all others."""
    others: list[str] = []
    if any(key.startswith("text_encoder.") for key in state):
        others = [key for key in state if not key.startswith(("text_encoder.", "text_decoder."))]
        state = {
            key.removeprefix("text_encoder."): value
            for key, value in state.items()
            if key.startswith("text_encoder.")
        }
    named = {}
    for key, value in state.items():
        # Older files name LayerNorm's weights after the paper's symbols.
        key = key.removeprefix("bert.")
        key = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        named[key] = value
    return named, others


def _without_added_words(state: dict[str, Tensor], name: str, words: int) -> dict[str, Tensor]:
    """Cut the two words that BLIP added after BERT's, [DEC] and [ENC], from the tensor of that name."""
    if name in state and len(state[name]) == words + 2:
        return state | {name: state[name][:words]}
    return state


def _no_weights(key: str, source: str, wanted: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(f"{key}: no weights from {source} ({reason}); give {wanted}")
