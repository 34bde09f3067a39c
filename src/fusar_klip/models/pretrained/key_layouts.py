"""The key layout of each project: renames its tensors to the names of the module that reads them.

Image towers get timm's names, text towers those of `clip_text`, of transformers' BLIP or of `network.bert`.
Tensors are renamed, cut and joined, never made up. Each function takes all tensors of a file and returns
those of one tower; image towers and BERT also return the names of all other tensors, for the log.

`read_vision` and the text towers serve published models, whose project is known by name. `any_image_tower`
and `bert_encoder` serve `init.image` and `init.text`, where a file comes without a name.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fusar_klip.errors import CheckpointError
from fusar_klip.models.pretrained.registry import Layout, PretrainedSpec

State = dict[str, Tensor]
Read = tuple[State, list[str]]

PATCH = "patch_embed.proj.weight"

# Parts of a whole model other than its encoder: heads, decoders, masks, targets of pretraining.
_BESIDE = re.compile(
    r"head\.|decoder|mask_token|encoder_pred\.|sarfeature\d|local_cls_norm|temporal_embed_enc\.|location_embed_enc\."
)
# BERT's heads and buffers, which the text tower has no use for.
_OTHER_TEXT_KEYS = ("pooler.", "cls.", "embeddings.position_ids")
_OPENAI_TEXT = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
_TRANSFORMERS_TEXT = (
    ("text_model.", ""),
    ("embeddings.token_embedding.", "token_embedding."),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("encoder.layers.", "blocks."),
    ("self_attn.", "attn."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
    ("final_layer_norm.", "ln_final."),
)
_OPENAI_BLOCK = (
    ("ln_", "norm"),
    ("attn.in_proj_", "attn.qkv."),
    ("attn.out_proj", "attn.proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
_QKV = re.compile(r"(.*)\.[qkv]_proj\.(weight|bias)")


def read_vision(model: PretrainedSpec, state: Mapping[str, Tensor], source: str) -> Read:
    """Return the image tower's tensors under timm's names, and the names of all others.

    Raises:
        CheckpointError: The file holds no image tower of this project.
    """
    vision, others = READERS[model.layout](model, state)
    if PATCH not in vision:
        shown = ", ".join(sorted(state)[:3]) or "nothing"
        if any(".layer1.0." in key for key in state):
            raise CheckpointError(f"{source} is a ResNet, which is not supported: give the project's ViT")
        raise CheckpointError(
            f"{source} holds no image tower of {model.title} (it has {shown}, ...): give weights of "
            f"{model.title}, or use the name of their own project (fusar-klip models lists the names)"
        )
    if model.class_tokens != 1:
        vision["cls_token"] = vision["cls_token"] * model.class_tokens
    others += [key for key in vision if _BESIDE.match(key)]
    return {key: value for key, value in vision.items() if not _BESIDE.match(key)}, others


def _clip(model: PretrainedSpec, state: Mapping[str, Tensor]) -> Read:
    """OpenAI's and open_clip's names, or transformers' (CLIP alone, or inside a language model)."""
    inner = "vision_model.embeddings.class_embedding"
    if prefix := next(
        (key.removesuffix("embeddings.class_embedding") for key in state if key.endswith(inner)), None
    ):
        kept, others = _strip(state, prefix)
        return transformers_clip(kept), others
    kept, others = _strip_first(state, ("visual.", *model.prefixes), "class_embedding")
    # BITA norms the tokens outside of its image encoder.
    outside = {
        f"ln_post.{end}": state[f"ln_vision.{end}"]
        for end in ("weight", "bias")
        if f"ln_vision.{end}" in state
    }
    others = [key for key in others if not key.startswith("ln_vision.")] if outside else others
    return openai_clip(kept | outside, others), others


def openai_clip(state: State, others: list[str]) -> State:
    """Rename OpenAI's; what is no part of its ViT (projection, a detector's pyramid) goes to `others`."""
    named: State = {}
    for key, value in state.items():
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.*)", key)
        if match:
            part = match[2]
            for old, new in _OPENAI_BLOCK:
                part = part.replace(old, new)
            named[f"blocks.{match[1]}.{part}"] = value
        elif key == "class_embedding":
            named["cls_token"] = value.reshape(1, 1, -1)
        elif key == "positional_embedding":
            named["pos_embed"] = value[None]
        elif key.startswith(("conv1.", "ln_pre.", "ln_post.")):
            part, _, end = key.partition(".")
            named[
                {"conv1": "patch_embed.proj", "ln_pre": "norm_pre", "ln_post": "norm"}[part] + f".{end}"
            ] = value
        else:
            others.append(key)
    return named


def transformers_clip(state: State) -> State:
    """Rename transformers' CLIP vision model; its three attention matrices become one."""
    fixed = {
        "embeddings.patch_embedding.weight": PATCH,
        "pre_layrnorm.weight": "norm_pre.weight",
        "pre_layrnorm.bias": "norm_pre.bias",
        "post_layernorm.weight": "norm.weight",
        "post_layernorm.bias": "norm.bias",
    }
    named: State = {}
    for key, value in join_attention(state).items():
        if key == "embeddings.class_embedding":
            named["cls_token"] = value.reshape(1, 1, -1)
        elif key == "embeddings.position_embedding.weight":
            named["pos_embed"] = value[None]
        elif key != "embeddings.position_ids":
            for old, new in (
                ("encoder.layers.", "blocks."),
                ("self_attn.in_proj_", "attn.qkv."),
                ("self_attn.out_proj", "attn.proj"),
                ("layer_norm", "norm"),
            ):
                key = key.replace(old, new)
            named[fixed.get(key, key)] = value
    return named


def join_attention(state: Mapping[str, Tensor]) -> State:
    """Join q_proj, k_proj and v_proj into torch's in_proj_weight and in_proj_bias."""
    joined: State = {}
    for key, value in state.items():
        if match := _QKV.fullmatch(key):
            parts = [state[f"{match[1]}.{part}_proj.{match[2]}"] for part in "qkv"]
            joined[f"{match[1]}.in_proj_{match[2]}"] = torch.cat(parts)
        else:
            joined[key] = value
    return joined


def _mmseg(model: PretrainedSpec, state: Mapping[str, Tensor]) -> Read:
    """Mmsegmentation's ViT, filled from CLIP."""
    kept, others = _strip_first(state, model.prefixes, "cls_token")
    if "patch_embed.projection.weight" not in kept:
        return {}, others
    named: State = {}
    for key, value in kept.items():
        for old, new in (
            ("patch_embed.projection", "patch_embed.proj"),
            ("layers.", "blocks."),
            ("ffn.blocks.0.0", "mlp.fc1"),
            ("ffn.blocks.1", "mlp.fc2"),
            ("attn.attn.in_proj_", "attn.qkv."),
            ("attn.attn.out_proj", "attn.proj"),
            ("ln_pre", "norm_pre"),
            (".ln1", ".norm1"),
            (".ln2", ".norm2"),
        ):
            key = key.replace(old, new)
        named[key] = value
    return named, others


def _timm(model: PretrainedSpec, state: Mapping[str, Tensor]) -> Read:
    """Read timm's names, perhaps behind a prefix; timm keeps DINOv2's registers apart, without a position."""
    kept, others = _strip_first(state, model.prefixes, PATCH)
    if "register_tokens" in kept:
        kept["reg_token"] = kept.pop("register_tokens")
        kept["cls_token"] = kept["cls_token"] + kept["pos_embed"][:, :1]
        kept["pos_embed"] = kept["pos_embed"][:, 1:]
    return kept, others


def _prithvi(model: PretrainedSpec, state: Mapping[str, Tensor]) -> Read:
    """A ViT on frames: the patches are 3-D, the positions those of all frames; one frame is kept."""
    kept, others = _strip_first(state, model.prefixes, PATCH)
    if PATCH not in kept or kept[PATCH].ndim != 5:
        return {}, others
    kept[PATCH] = kept[PATCH].sum(2)
    assert model.size is not None
    frame = (model.size // kept[PATCH].shape[-1]) ** 2
    # The first frame's come first (get_3d_sincos_pos_embed), after the class token's.
    kept["pos_embed"] = kept["pos_embed"][:, : 1 + frame]
    return kept, others


def _dinov3(model: PretrainedSpec, state: Mapping[str, Tensor]) -> Read:
    """Meta's DINOv3; timm's Eva reads its layer scales, registers and attention bias under other names."""
    named: State = {}
    others: list[str] = []
    if "pos_embed" in state:
        return named, others
    for key, value in state.items():
        if key.startswith("rope_embed.") or key.endswith(".bias_mask"):
            others.append(key)
        elif key.endswith(".qkv.bias"):
            # The keys' bias is masked (bias_mask), so it is no weight.
            query, _, values = value.chunk(3)
            named[key.replace("qkv.bias", "q_bias")] = query
            named[key.replace("qkv.bias", "v_bias")] = values
        else:
            renamed = re.sub(r"ls([12])\.gamma", r"gamma_\1", key).replace("storage_tokens", "reg_token")
            named[renamed] = value
    return named, others


def _irpe(model: PretrainedSpec, state: Mapping[str, Tensor]) -> Read:
    """SAR-JEPA: timm's names; its fixed position embedding is not used by its own encoder."""
    if not any(".rpe_k." in key for key in state):
        return {}, []
    kept = dict(state)
    others = [key for key in ("pos_embed",) if kept.pop(key, None) is not None]
    return kept, others


def _hivit(model: PretrainedSpec, state: Mapping[str, Tensor]) -> Read:
    """HiViT's names are its module's own; the norm over all stages belongs to the decoder's input.

    The index of positions is a buffer, in HiViT's own files of the whole, in SARATR-X's of each attention.
    """
    beside = [
        key for key in state if key in ("norm.weight", "norm.bias") or key.endswith("relative_position_index")
    ]
    return {key: value for key, value in state.items() if key not in beside}, beside


READERS: Mapping[Layout, Callable[[PretrainedSpec, Mapping[str, Tensor]], Read]] = {
    "clip": _clip,
    "mmseg": _mmseg,
    "timm": _timm,
    "prithvi": _prithvi,
    "dinov3": _dinov3,
    "irpe": _irpe,
    "hivit": _hivit,
}


def any_image_tower(state: Mapping[str, Tensor]) -> Read:
    """Return the image tower of a file of unknown project in a layout that timm's filter renames.

    Files: timm, MAE, OpenAI's CLIP, ALBEF and BLIP (whole files too), a RUN's model.safetensors.
    """
    for prefix in ("visual_encoder.", "image_tower."):
        if any(key.startswith(prefix) for key in state):
            return _strip(state, prefix)
    if "visual.class_embedding" in state:
        # timm's filter knows OpenAI's names by their prefix.
        kept = {key: value for key, value in state.items() if key.startswith("visual.")}
        return kept, [key for key in state if key not in kept]
    # timm's filter takes a "mask_token" for DINOv2's.
    others = [key for key in state if key.startswith(("mask_token", "decoder_"))]
    return {key: value for key, value in state.items() if key not in others}, others


def bert_encoder(state: Mapping[str, Tensor]) -> Read:
    """Return the text encoder of BERT, ALBEF or BLIP under BERT's names.

    BERT adds `token_type_embeddings[0]` to every position; here it is added to the position embeddings.
    """
    others: list[str] = []
    if any(key.startswith("text_encoder.") for key in state):
        others = [key for key in state if not key.startswith(("text_encoder.", "text_decoder."))]
        state, _ = _strip(state, "text_encoder.")
    named: State = {}
    for key, value in state.items():
        # Older files name LayerNorm's weights by the paper's symbols.
        key = key.removeprefix("bert.")
        key = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        named[key] = value
    positions = "embeddings.position_embeddings.weight"
    types = named.pop("embeddings.token_type_embeddings.weight", None)
    if types is not None and positions in named:
        named[positions] = named[positions] + types[0]
    others += [key for key in named if key.startswith(_OTHER_TEXT_KEYS)]
    return {key: value for key, value in named.items() if not key.startswith(_OTHER_TEXT_KEYS)}, others


def clip_text_tower(state: Mapping[str, Tensor]) -> tuple[State, Tensor | None]:
    """Return CLIP's text tower under OpenAI's names, and the image side's projection (W, E).

    The layouts are OpenAI's (open_clip's) and transformers'. Without a text tower, the state is empty or the
    projection None.
    """
    if "visual.proj" in state:
        text = {
            key.replace("transformer.resblocks.", "blocks."): value
            for key, value in state.items()
            if key.startswith(_OPENAI_TEXT)
        }
        return text, state["visual.proj"]
    if "visual_projection.weight" not in state:
        return {}, None
    named: State = {}
    for key, value in join_attention(state).items():
        if key == "text_projection.weight":
            named["text_projection"] = value.T
        elif key.startswith("text_model.") and not key.endswith("position_ids"):
            for old, new in _TRANSFORMERS_TEXT:
                key = key.replace(old, new)
            named[key] = value
    return named, state["visual_projection.weight"].T


def blip_text_tower(state: Mapping[str, Tensor]) -> State:
    """Return the tensors of BLIP's text encoder, which has the names of transformers' BlipTextModel."""
    text, _ = _strip(state, "text_encoder.")
    text.pop("embeddings.position_ids", None)
    return text


def _strip(state: Mapping[str, Tensor], prefix: str) -> Read:
    kept = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return kept, [key for key in state if not key.startswith(prefix)]


def _strip_first(state: Mapping[str, Tensor], prefixes: tuple[str, ...], landmark: str) -> Read:
    """Strip the first prefix with which a file has `landmark`; without any, all is kept."""
    return _strip(state, next((p for p in prefixes if f"{p}{landmark}" in state), ""))
