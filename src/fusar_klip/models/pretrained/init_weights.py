"""Initial weights of the towers, `init.image` and `init.text` of `pretrain`: files, or names of the hubs.

    image tower   timm; MAE (facebookresearch/mae); OpenAI's CLIP; ALBEF and BLIP, whole files too; a RUN's
                  model.safetensors, of any objective
    text side     BERT (transformers, old files too); ALBEF and BLIP, decoder included

Missing and unused tensors are logged, and past a limit they are an error (`state_dict`).
"""

import logging
from pathlib import Path

import torch
from timm.models import adapt_input_conv, create_model
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor
from transformers import BertModel

from fusar_klip.errors import CheckpointError
from fusar_klip.models.network.bert import BertTextModel, TextDecoder
from fusar_klip.models.network.towers import ImageTower
from fusar_klip.models.pretrained.key_layouts import any_image_tower, bert_encoder
from fusar_klip.models.pretrained.state_dict import load_tensors
from fusar_klip.models.pretrained.weight_files import read_tensors

_log = logging.getLogger(__name__)

_CLIP_SETTINGS = (
    "%s has a norm before its blocks, as CLIP has: give --set architecture.image_pre_norm=true, and for "
    "OpenAI's weights also --set architecture.image_activation=quick_gelu; without them the features are not "
    "those of the weights"
)
_ADVICE = "choose the model and the tokenizer that the weights were made for"

# Parts of whole models that a tower has no use for: heads, MAE's decoder.
_OTHER_IMAGE_KEYS = ("head.", "fc_norm.", "decoder_", "mask_token", "pre_logits.")


def load_image_weights(tower: ImageTower, source: str) -> None:
    """Initialise the image tower from a file, or from a timm name such as vit_base_patch16_224.

    The colour channels of the patch embedding are summed, and position embeddings are resampled.

    Raises:
        CheckpointError: The weights cannot be read or downloaded, or are of another model.
    """
    try:
        if Path(source).is_file():
            state = read_tensors([Path(source)])
        else:
            state = dict(create_model(source, pretrained=True).state_dict())
        state, skipped = any_image_tower(state)
        state = dict(checkpoint_filter_fn(state, tower))
        skipped += [key for key in state if key.startswith(_OTHER_IMAGE_KEYS)]
        name = "patch_embed.proj.weight"
        if name in state:
            state[name] = adapt_input_conv(1, state[name])
        bias_w = tower.patch_embed.proj.bias
        if "norm_pre.weight" in state and bias_w is not None:
            _log.warning(_CLIP_SETTINGS, source)
            # CLIP's patch embedding has no bias, and a randomly initialised one would not be 0.
            state["patch_embed.proj.bias"] = torch.zeros_like(bias_w)
    except Exception as error:  # timm, torch and safetensors raise many classes for a damaged file
        raise _no_weights("init.image", source, "a file or a timm model name", error) from error
    load_tensors(
        tower,
        {key: value for key, value in state.items() if not key.startswith(_OTHER_IMAGE_KEYS)},
        source,
        advice=_ADVICE,
        skipped=skipped,
        optional=lambda name: name.startswith("gsd_embedding."),
    )


def load_text_weights(encoder: BertTextModel, decoder: TextDecoder, source: str) -> None:
    """Initialise encoder and decoder from a file, a folder, or a name such as bert-base-uncased.

    Where the weights have no cross-attention, as BERT's, the cross-attention keeps its initialisation.

    Raises:
        CheckpointError: The weights cannot be read or downloaded, or are of another model or vocabulary.
    """
    try:
        if Path(source).is_file():
            state = read_tensors([Path(source)])
        else:
            state = dict(BertModel.from_pretrained(source).state_dict())
    except Exception as error:  # as above, and transformers
        raise _no_weights("init.text", source, "a file, a folder or a name of BERT's", error) from error
    prefix = "text_decoder."
    of_decoder = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    state, skipped = bert_encoder(state)
    if of_decoder:
        words = len(encoder.embeddings.word_embeddings.weight)
        state = _without_added_words(state, "embeddings.word_embeddings.weight", words)
        of_decoder = _without_added_words(of_decoder, "cls.predictions.bias", words)
    own = {
        name: of_decoder[name]
        for name, parameter in decoder.named_parameters()
        if name in of_decoder
        and (".attention." in name or name.startswith("cls.predictions."))
        and of_decoder[name].shape == parameter.shape
    }
    # The parameters that the decoder shares with the encoder are read from the encoder's.
    skipped += [f"{prefix}{name}" for name in of_decoder if name not in own]
    load_tensors(
        encoder,
        state,
        source,
        advice=_ADVICE,
        skipped=skipped,
        optional=lambda name: ".crossattention." in name,
    )
    # The decoder's own self-attention starts from BERT's too; shared parameters are copied onto themselves.
    decoder.bert.load_state_dict(encoder.state_dict())
    decoder.load_state_dict(own, strict=False)


def _without_added_words(state: dict[str, Tensor], name: str, words: int) -> dict[str, Tensor]:
    """Remove the two words that BLIP appends to BERT's, [DEC] and [ENC], from the tensor of that name."""
    if name in state and len(state[name]) == words + 2:
        return state | {name: state[name][:words]}
    return state


def _no_weights(key: str, source: str, wanted: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(f"{key}: no weights from {source} ({reason}); give {wanted}")
