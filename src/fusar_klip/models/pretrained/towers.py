"""Builds the image tower of a published model, with one input channel and the sizes of its weights."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.layers.create_act import get_act_layer
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from fusar_klip.errors import CheckpointError
from fusar_klip.models.pretrained.hivit import HiViT
from fusar_klip.models.pretrained.irpe import IrpeTower
from fusar_klip.models.pretrained.key_layouts import PATCH, read_vision
from fusar_klip.models.pretrained.registry import PretrainedSpec
from fusar_klip.models.pretrained.single_channel import fold_channels
from fusar_klip.models.pretrained.state_dict import load_tensors

ADVICE = "use the name of the project that the weights belong to, or download the whole file"
"""What to do about weights that do not fit a tower."""

_BIAS = "patch_embed.proj.bias"
# Head widths are 64; ViT-H's and ViT-g's heads are wider.
_HEADS = {1280: 16, 1408: 16, 1664: 16}
_POOLING = {"class token": "token", "mean of patch tokens": "avg"}


def build_tower(
    model: PretrainedSpec, state: Mapping[str, Tensor], source: str, *, quick_gelu: bool | None = None
) -> tuple[nn.Module, int]:
    """Return the image tower with its weights, and the side of its input in pixels.

    Args:
        model: The project.
        state: All tensors of its file.
        source: How messages call the file.
        quick_gelu: Whether the weights state QuickGELU; None uses the registry's value.

    Raises:
        CheckpointError: The weights are of another project, or too many are missing or left over.
    """
    vision, skipped = read_vision(model, state, source)
    vision[PATCH], vision[_BIAS] = fold_channels(vision[PATCH], vision.get(_BIAS), *model.normalisation)
    try:
        tower, size = _empty(model, vision, quick_gelu)
        if isinstance(tower, VisionTransformer):
            vision = dict(checkpoint_filter_fn(vision, tower))
    except (KeyError, RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise CheckpointError(
            f"{source} does not have the sizes of a {model.title} ({error}): give weights as {model.title}'s "
            "project publishes them"
        ) from error
    # HiViT's own classifier normalises the mean; weights from pretraining have no such norm.
    normless = model.layout == "hivit"
    load_tensors(
        tower,
        vision,
        source,
        advice=ADVICE,
        skipped=skipped,
        optional=lambda name: normless and name.startswith("fc_norm."),
    )
    return tower.eval(), size


def image_width(state: Mapping[str, Tensor]) -> int:
    """Return the width of an image tower's tokens."""
    token = state.get("absolute_pos_embed", state.get("cls_token"))
    if token is None:
        raise KeyError("cls_token")
    return int(token.shape[-1])


def _empty(
    model: PretrainedSpec, state: Mapping[str, Tensor], quick_gelu: bool | None
) -> tuple[nn.Module, int]:
    width, patch = image_width(state), state[PATCH].shape[-1]
    heads = model.heads.get(width, _HEADS.get(width, max(1, width // 64)))
    if model.layout == "hivit":
        hivit = HiViT.of(state, heads)
        return hivit, round(state["absolute_pos_embed"].shape[1] ** 0.5) * 4 * patch
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    size = model.size or _side(state, patch, own=0 if "reg_token" in state else 1)
    if model.layout == "irpe":
        return IrpeTower(size=size, patch=patch, width=width, depth=depth, heads=heads), size
    shared: dict[str, Any] = {
        "img_size": size,
        "patch_size": patch,
        "in_chans": 1,
        "num_classes": 0,
        "global_pool": _POOLING[model.pooled],
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        "init_values": 1e-5 if {"blocks.0.ls1.gamma", "blocks.0.gamma_1"} & state.keys() else None,
        "norm_layer": partial(nn.LayerNorm, eps=model.eps),
    }
    if model.layout == "dinov3":
        return _rotary(shared, registers), size
    if quick_gelu is None:
        quick_gelu = model.quick_gelu and width not in model.gelu_widths
    tower = VisionTransformer(
        **shared,
        # The norm stands before the mean, as in pretraining.
        fc_norm=False,
        final_norm="norm.weight" in state,
        pre_norm="norm_pre.weight" in state,
        reg_tokens=registers,
        no_embed_class=bool(registers),
        act_layer=get_act_layer("quick_gelu" if quick_gelu else "gelu"),
    )
    # timm's patches have no bias before a norm; the standardisation needs one.
    tower.patch_embed.proj = nn.Conv2d(1, width, patch, patch)
    return tower, size


def _rotary(shared: Mapping[str, Any], registers: int) -> Eva:
    """Return DINOv3's ViT with the values of timm's vit_base_patch16_dinov3_qkvb."""
    return Eva(
        **shared,
        qkv_bias=True,
        rope_type="dinov3",
        rope_temperature=100,
        rope_rotate_half=True,
        use_rot_pos_emb=True,
        use_abs_pos_emb=False,
        use_fc_norm=False,
        dynamic_img_size=True,
        num_reg_tokens=registers,
    )


def _side(state: Mapping[str, Tensor], patch: int, own: int) -> int:
    """Return the side in pixels that the position embedding fits; `own` positions are the class token's."""
    grid = round((state["pos_embed"].shape[1] - own) ** 0.5)
    if grid**2 != state["pos_embed"].shape[1] - own:
        raise ValueError(f"{state['pos_embed'].shape[1]} positions are no square grid with a class token")
    return int(grid * patch)
