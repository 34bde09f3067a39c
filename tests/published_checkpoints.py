"""Small random checkpoints with each project's names and shapes, and what its own forward gives on a chip.

The references are built from timm's and transformers' classes, or written out plainly here; they see the chip
in all channels, standardised with the published mean and std, as the projects feed it.
"""

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import BlipTextConfig, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
from transformers.models.blip.modeling_blip_text import BlipTextModel

from fusar_klip.models.pretrained import PRETRAINED

Reference = Callable[[NDArray[np.uint8]], Tensor]
Made = tuple[Path, Reference]

WIDTH = 64


def channels(chip: NDArray[np.uint8], name: str, count: int | None = None) -> Tensor:
    """Return the chip as the project feeds it, (1, C, S, S)."""
    mean, std = PRETRAINED[name].normalisation
    count = count or PRETRAINED[name].channels
    grey = torch.from_numpy(chip.astype(np.float32) / 255)
    mean_c, std_c = (torch.tensor(v).expand(count) if len(v) == 1 else torch.tensor(v) for v in (mean, std))
    return ((grey[None] - mean_c[:, None, None]) / std_c[:, None, None])[None]


def shaken(module: nn.Module) -> nn.Module:
    """Draw every parameter at random: what is loaded in the wrong place then shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.2 if parameter.ndim < 2 else 0.1
            parameter.copy_(torch.randn_like(parameter) * spread + (parameter.ndim < 2) * 0.3)
    return module.eval()


def vit(size: int = 64, patch: int = 16, **options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return shaken(
        VisionTransformer(
            img_size=size, patch_size=patch, embed_dim=WIDTH, depth=2, num_heads=1, num_classes=0, **options
        )
    )


def clip(quick: bool, *, size: int = 32, patch: int = 16) -> CLIPModel:
    torch.manual_seed(1)
    act = "quick_gelu" if quick else "gelu"
    config = CLIPConfig(
        text_config=CLIPTextConfig(
            vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2,
            num_attention_heads=1, max_position_embeddings=12, hidden_act=act, eos_token_id=WORDS - 1,
            bos_token_id=WORDS - 2, pad_token_id=0,
        ).to_dict(),
        vision_config=CLIPVisionConfig(
            hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=3, num_attention_heads=1,
            image_size=size, patch_size=patch, hidden_act=act,
        ).to_dict(),
        projection_dim=24,
    )  # fmt: skip
    model: CLIPModel = shaken(CLIPModel(config))
    return model


MERGES = [("s", "h"), ("i", "p</w>"), ("sh", "ip</w>"), ("s", "e"), ("t", "h"), ("se", "a</w>")]
WORDS = 2 * 256 + len(MERGES) + 2


def write_vocabulary(folder: Path) -> None:
    """Write OpenAI's bpe_simple_vocab file with a few merges."""
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "bpe_simple_vocab_16e6.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def to_openai(model: CLIPModel) -> dict[str, Tensor]:
    """Name transformers' weights as OpenAI and open_clip do."""
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    made: dict[str, Tensor] = {"logit_scale": state["logit_scale"]}
    for side, to, layers in (("vision_model", "visual.", 3), ("text_model", "", 2)):
        for layer in range(layers):
            old, new = f"{side}.encoder.layers.{layer}", f"{to}transformer.resblocks.{layer}"
            for end in ("weight", "bias"):
                parts = [state[f"{old}.self_attn.{part}_proj.{end}"] for part in ("q", "k", "v")]
                made[f"{new}.attn.in_proj_{end}"] = torch.cat(parts)
                made[f"{new}.attn.out_proj.{end}"] = state[f"{old}.self_attn.out_proj.{end}"]
                made[f"{new}.ln_1.{end}"] = state[f"{old}.layer_norm1.{end}"]
                made[f"{new}.ln_2.{end}"] = state[f"{old}.layer_norm2.{end}"]
                made[f"{new}.mlp.c_fc.{end}"] = state[f"{old}.mlp.fc1.{end}"]
                made[f"{new}.mlp.c_proj.{end}"] = state[f"{old}.mlp.fc2.{end}"]
    vision, text = "vision_model.", "text_model."
    made["visual.class_embedding"] = state[f"{vision}embeddings.class_embedding"]
    made["visual.positional_embedding"] = state[f"{vision}embeddings.position_embedding.weight"]
    made["visual.conv1.weight"] = state[f"{vision}embeddings.patch_embedding.weight"]
    made["visual.proj"] = state["visual_projection.weight"].T.contiguous()
    made["token_embedding.weight"] = state[f"{text}embeddings.token_embedding.weight"]
    made["positional_embedding"] = state[f"{text}embeddings.position_embedding.weight"]
    made["text_projection"] = state["text_projection.weight"].T.contiguous()
    for end in ("weight", "bias"):
        made[f"visual.ln_pre.{end}"] = state[f"{vision}pre_layrnorm.{end}"]
        made[f"visual.ln_post.{end}"] = state[f"{vision}post_layernorm.{end}"]
        made[f"ln_final.{end}"] = state[f"{text}final_layer_norm.{end}"]
    return made


def clip_reference(model: CLIPModel, name: str) -> Reference:
    return lambda chip: model.vision_model(pixel_values=channels(chip, name)).pooler_output


def _open_clip(name: str, folder: Path) -> Made:
    quick = PRETRAINED[name].quick_gelu
    model = clip(quick)
    write_vocabulary(folder)
    if name == "sarclip":
        save_file(to_openai(model), folder / "weights.safetensors")
        return folder / "weights.safetensors", clip_reference(model, name)
    state = {f"module.{key}": value.half().float() for key, value in to_openai(model).items()}
    model.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()})
    torch.save({"state_dict": {k: v.half() for k, v in state.items()}, "epoch": 3}, folder / "weights.pt")
    return folder / "weights.pt", clip_reference(model, name)


def _clip(name: str, folder: Path) -> Made:
    model = clip(quick=True)
    model.save_pretrained(folder)
    write_vocabulary(folder)
    return folder, clip_reference(model, name)


def _vhm(name: str, folder: Path) -> Made:
    model = clip(quick=True)
    state = {f"vision_model.{k}": v.contiguous() for k, v in model.vision_model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder, clip_reference(model, name)


def _geochat(name: str, folder: Path) -> Made:
    """Two parts, the first without the image tower; the positions are resampled to 504 px."""
    size = PRETRAINED[name].size
    assert size is not None
    model = clip(quick=True, size=28, patch=14)
    inner = "model.vision_tower.vision_tower.vision_model."
    parts = {
        "pytorch_model-00001-of-00002.bin": {"model.embed_tokens.weight": torch.zeros(3, 3)},
        "pytorch_model-00002-of-00002.bin": {
            **{inner + key: value for key, value in model.vision_model.state_dict().items()},
            "lm_head.weight": torch.zeros(3, 3),
        },
    }
    for file, state in parts.items():
        torch.save(state, folder / file)
    (folder / "config.json").write_text(json.dumps({"model_type": "geochat", "hidden_act": "silu"}))
    names = {key: file for file, state in parts.items() for key in state}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    wide = clip(quick=True, size=size, patch=14)
    state = model.vision_model.state_dict()
    key = "embeddings.position_embedding.weight"
    side = size // 14
    state[key] = resample_abs_pos_embed(state[key][None], (side, side), old_size=(2, 2), verbose=False)[0]
    state.pop("embeddings.position_ids", None)
    wide.vision_model.load_state_dict(state, strict=False)
    return folder, clip_reference(wide, name)


def _bita(name: str, folder: Path) -> Made:
    """LAVIS's image encoder has no last norm; ln_vision stands outside of it."""
    model = clip(quick=True)
    openai = {k: v for k, v in to_openai(model).items() if k.startswith("visual.")}
    state = {
        key.replace("visual.", "visual_encoder."): value.half().float()
        for key, value in openai.items()
        if ".proj" not in key[6:12] and "ln_post" not in key
    }
    state = {key: value for key, value in state.items() if key != "visual_encoder.proj"}
    state |= {f"ln_vision.{end}": openai[f"visual.ln_post.{end}"] for end in ("weight", "bias")}
    state |= {
        "IFformer.bert.embeddings.word_embeddings.weight": torch.zeros(5, 4),
        "query_tokens": torch.zeros(1),
    }
    rounded = {key: value.half().float() for key, value in model.vision_model.state_dict().items()}
    keep = {key: value for key, value in model.vision_model.state_dict().items() if "post_layernorm" in key}
    model.vision_model.load_state_dict(rounded | keep)
    torch.save({"model": state}, folder / "bita.pth")
    return folder / "bita.pth", clip_reference(model, name)


def _ban(name: str, folder: Path) -> Made:
    """The first blocks of CLIP under mmsegmentation's names, after BAN's clip2opencd.py."""
    model = clip(quick=True)
    state: dict[str, Tensor] = {}
    for key, value in to_openai(model).items():
        parts = key.split(".")
        if parts[0] != "visual":
            state[f"text_encoder.{key}"] = value
        elif parts[1] == "class_embedding":
            state["image_encoder.cls_token"] = value[None, None]
        elif parts[1] == "positional_embedding":
            state["image_encoder.pos_embed"] = value[None]
        elif parts[1] == "conv1":
            state["image_encoder.patch_embed.projection.weight"] = value
        elif parts[1] == "ln_pre":
            state[f"image_encoder.ln_pre.{parts[2]}"] = value
        elif parts[1] == "transformer" and int(parts[3]) < 2:
            rest = ".".join(parts[4:])
            for old, new in (
                ("ln_1", "ln1"), ("ln_2", "ln2"), ("attn.", "attn.attn."),
                ("mlp.c_fc", "ffn.layers.0.0"), ("mlp.c_proj", "ffn.layers.1"),
            ):  # fmt: skip
                rest = rest.replace(old, new)
            state[f"image_encoder.layers.{parts[3]}.{rest}"] = value
        else:
            state[f"decode_head.rec_with_attnbias.{'.'.join(parts[1:])}"] = value
    torch.save({"state_dict": state, "meta": {"epoch": 1}}, folder / "ban.pth")

    def reference(chip: NDArray[np.uint8]) -> Tensor:
        outputs = model.vision_model(pixel_values=channels(chip, name), output_hidden_states=True)
        return outputs.hidden_states[2][:, 0]

    return folder / "ban.pth", reference


def _changeclip(name: str, folder: Path) -> Made:
    """CLIP's names behind backbone., a pyramid beside them, and the class embedding added twice."""
    model = clip(quick=True)
    state = {
        key.replace("visual.", "backbone."): value
        for key, value in to_openai(model).items()
        if key.startswith("visual.")
    }
    state |= {
        "backbone.fpn1.0.weight": torch.zeros(WIDTH),
        "decode_head.conv_seg.weight": torch.zeros(2, 4, 1, 1),
    }
    torch.save({"state_dict": state}, folder / "changeclip.pth")
    with torch.no_grad():
        model.vision_model.embeddings.class_embedding.mul_(2)
    return folder / "changeclip.pth", clip_reference(model, name)


def vit_reference(model: VisionTransformer, name: str) -> Reference:
    def reference(chip: NDArray[np.uint8]) -> Tensor:
        tokens = model.forward_features(channels(chip, name))
        return tokens[:, 0] if PRETRAINED[name].pooled == "class token" else tokens[:, 1:].mean(1)

    return reference


def decoder() -> dict[str, Tensor]:
    """What MAE's pretraining files hold beside the encoder."""
    return {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_pos_embed": torch.zeros(1, 17, 8),
        "decoder_embed.weight": torch.zeros(8, WIDTH),
        "decoder_blocks.0.norm1.weight": torch.ones(8),
        "decoder_pred.weight": torch.zeros(768, 8),
    }


def _mae(name: str, folder: Path) -> Made:
    model = vit()
    state = model.state_dict() | decoder()
    if name == "sarmae":
        state = {f"sar_encoder.{key}": value for key, value in state.items()}
        state |= {"optical_encoder.norm.weight": torch.ones(WIDTH), "sar_alignment_ffn.0.bias": torch.ones(4)}
    args = argparse.Namespace(model="mae_vit_base_patch16", lr=1e-3)
    torch.save({"model": state, "args": args, "epoch": 7}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth", vit_reference(model, name)


def _moco(name: str, folder: Path) -> Made:
    model, momentum = (
        vit(),
        shaken(VisionTransformer(img_size=64, embed_dim=WIDTH, depth=2, num_heads=1, num_classes=0)),
    )
    state = {f"module.base_encoder.{key}": value for key, value in model.state_dict().items()}
    state |= {f"module.momentum_encoder.{key}": value for key, value in momentum.state_dict().items()}
    state |= {
        "module.base_encoder.head.0.weight": torch.zeros(9, WIDTH),
        "module.predictor.0.weight": torch.zeros(9, 9),
    }
    torch.save({"state_dict": state, "arch": "vit_base", "epoch": 3}, folder / "vit-b.pth.tar")
    return folder / "vit-b.pth.tar", vit_reference(model, name)


def _dinov2(name: str, folder: Path) -> Made:
    """With registers, as Meta's files hold them: positions for the class token and the patches."""
    size = PRETRAINED[name].size
    assert size is not None
    model = vit(size, 14, init_values=1e-5, reg_tokens=4, no_embed_class=True)
    state = dict(model.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    own = torch.randn(1, 1, WIDTH)
    state["cls_token"] = state["cls_token"] - own
    state["pos_embed"] = torch.cat([own, state["pos_embed"]], dim=1)
    torch.save(state | {"mask_token": torch.zeros(1, WIDTH)}, folder / "dinov2.pth")
    return folder / "dinov2.pth", vit_reference(model, name)


def _dinov3(name: str, folder: Path) -> Made:
    """Meta's names, after timm's reader of them (eva.py)."""
    torch.manual_seed(0)
    model = shaken(
        Eva(
            img_size=256, patch_size=16, embed_dim=WIDTH, depth=2, num_heads=1, num_classes=0, qkv_bias=True,
            init_values=1e-5, rope_type="dinov3", rope_temperature=100, rope_rotate_half=True,
            use_rot_pos_emb=True, use_abs_pos_emb=False, use_fc_norm=False, dynamic_img_size=True,
            num_reg_tokens=4, norm_layer=partial(nn.LayerNorm, eps=1e-5),
        )
    )  # fmt: skip
    state: dict[str, Tensor] = {"mask_token": torch.zeros(1, WIDTH), "rope_embed.periods": torch.ones(16)}
    for key, value in model.state_dict().items():
        if key.endswith("attn.q_bias"):
            stem = key.removesuffix("q_bias")
            others = (torch.full_like(value, 9.0), model.state_dict()[f"{stem}v_bias"])
            state[f"{stem}qkv.bias"] = torch.cat([value, *others])
            state[f"{stem}qkv.bias_mask"] = torch.ones(3 * WIDTH)
        elif not key.endswith(("v_bias", "k_bias")):
            key = key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            state[key.replace("reg_token", "storage_tokens")] = value
    torch.save(state, folder / "dinov3.pth")
    return folder / "dinov3.pth", lambda chip: model.forward_features(channels(chip, name))[:, 0]


def _prithvi(name: str, folder: Path) -> Made:
    """Three frames of six bands; the reference computes the 3-D convolution of the first."""
    size = PRETRAINED[name].size
    assert size is not None
    model = vit(size, 16, in_chans=6)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, None]
    state["pos_embed"] = torch.cat([state["pos_embed"], torch.randn(1, 2 * (size // 16) ** 2, WIDTH)], dim=1)
    named = {f"encoder.{key}": value for key, value in state.items()}
    named |= {f"decoder.{key}": value for key, value in decoder().items()}
    torch.save(named, folder / "Prithvi.pt")

    def reference(chip: NDArray[np.uint8]) -> Tensor:
        frame = channels(chip, name)[:, :, None]
        conv = F.conv3d(
            frame, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=(1, 16, 16)
        )
        tokens = conv.flatten(2).transpose(1, 2) + model.pos_embed[:, 1:]
        tokens = torch.cat([model.cls_token + model.pos_embed[:, :1], tokens], dim=1)
        return model.norm(model.blocks(tokens))[:, 0]

    return folder / "Prithvi.pt", reference


def _blip(name: str, folder: Path) -> Made:
    model = vit()
    state = {f"visual_encoder.{key}": value for key, value in model.state_dict().items()}
    state |= {f"visual_encoder_m.{key}": value * 0 for key, value in model.state_dict().items()}
    torch.save({"model": state, "epoch": 1}, folder / "blip.pth")
    return folder / "blip.pth", vit_reference(model, name)


def _sar_jepa(name: str, folder: Path) -> Made:
    size = PRETRAINED[name].size
    assert size is not None
    model = vit(size, 16, in_chans=1, pos_embed="none")
    grid, tables = size // 16, [torch.randn(1, WIDTH, 50) * 0.3 for _ in model.blocks]
    state = dict(model.state_dict()) | {"pos_embed": torch.randn(1, grid**2 + 1, WIDTH)} | decoder()
    state |= {f"blocks.{n}.attn.rpe_k.lookup_table_weight": table for n, table in enumerate(tables)}
    state |= {
        "sarfeature1.weight_x1": torch.zeros(1, 1, 11, 11),
        "encoder_pred.weight": torch.zeros(8, WIDTH),
    }
    torch.save(
        {"model": {f"module.{key}": value for key, value in state.items()}}, folder / "checkpoint-200.pth"
    )

    def step(distance: int) -> int:
        alpha, beta, gamma = 1.9, 3.8, 15.2
        if abs(distance) <= alpha:
            return distance
        far = min(
            round(alpha + math.log(abs(distance) / alpha) / math.log(gamma / alpha) * (beta - alpha)), beta
        )
        return int(math.copysign(far, distance))

    places = [(row, column) for row in range(grid) for column in range(grid)]
    steps = {distance: step(distance) + 3 for distance in range(-grid, grid + 1)}
    buckets = torch.full((grid**2 + 1, grid**2 + 1), 49)
    for i, (row, column) in enumerate(places):
        for j, (other_row, other_column) in enumerate(places):
            buckets[i + 1, j + 1] = steps[row - other_row] * 7 + steps[column - other_column]

    def reference(chip: NDArray[np.uint8]) -> Tensor:
        tokens = model.patch_embed(channels(chip, name))
        tokens = torch.cat([model.cls_token, tokens], dim=1)
        for block, table in zip(model.blocks, tables, strict=True):
            query, key, value = block.attn.qkv(block.norm1(tokens)).chunk(3, dim=2)
            scores = query @ key.transpose(1, 2) / math.sqrt(WIDTH)
            looked = torch.einsum("bnd,dk->bnk", query, table[0])
            scores = scores + torch.stack([looked[:, i, buckets[i]] for i in range(len(buckets))], dim=1)
            tokens = tokens + block.attn.proj(scores.softmax(2) @ value)
            tokens = tokens + block.mlp(block.norm2(tokens))
        return model.norm(tokens)[:, 0]

    return folder / "checkpoint-200.pth", reference


def _saratr_x(name: str, folder: Path) -> Made:
    """A MAE pretraining file of HiViT, hifeat on: its norm is seven widths long."""
    torch.manual_seed(0)
    grid, half, quarter = 4, WIDTH // 2, WIDTH // 4
    state: dict[str, Tensor] = {}

    def linear(key: str, inputs: int, outputs: int, bias: bool = True) -> None:
        state[f"{key}.weight"] = torch.randn(outputs, inputs) * 0.2
        if bias:
            state[f"{key}.bias"] = torch.randn(outputs) * 0.2

    def norm(key: str, width: int) -> None:
        state[f"{key}.weight"], state[f"{key}.bias"] = torch.rand(width) + 0.5, torch.randn(width) * 0.2

    def mlp(key: str, width: int, ratio: int) -> None:
        norm(f"{key}.norm2", width)
        linear(f"{key}.mlp.fc1", width, ratio * width)
        linear(f"{key}.mlp.fc2", ratio * width, width)

    state["patch_embed.proj.weight"] = torch.randn(quarter, 3, 4, 4) * 0.2
    state["patch_embed.proj.bias"] = torch.randn(quarter) * 0.2
    norm("patch_embed.norm", quarter)
    state["absolute_pos_embed"] = torch.randn(1, grid**2, WIDTH)
    stages = ((quarter, 0, 4), (half, 5, 9))
    for width, first, merge in stages:
        for number in range(first, merge):
            mlp(f"blocks.{number}", width, 3)
        norm(f"blocks.{merge}.norm", 4 * width)
        linear(f"blocks.{merge}.reduction", 4 * width, 2 * width, bias=False)
    for number in (10, 11, 12):
        norm(f"blocks.{number}.norm1", WIDTH)
        linear(f"blocks.{number}.attn.qkv", WIDTH, 3 * WIDTH)
        linear(f"blocks.{number}.attn.proj", WIDTH, WIDTH)
        mlp(f"blocks.{number}", WIDTH, 4)
    beside = {"norm.weight": torch.ones(7 * WIDTH), "norm.bias": torch.zeros(7 * WIDTH), **decoder()}
    beside |= {f"sarfeature{n}.weight_x1": torch.zeros(1, 1, 19, 19) for n in (1, 2, 3)}
    # A buffer of fine-tuned files: classification/model/hivit.py.
    beside |= {f"blocks.{n}.attn.relative_position_index": torch.zeros(16, 16).long() for n in (10, 11, 12)}
    torch.save({"model": state | beside}, folder / "checkpoint-800.pth")

    def of(key: str, value: Tensor) -> Tensor:
        return F.linear(value, state[f"{key}.weight"], state.get(f"{key}.bias"))

    def normed(key: str, value: Tensor) -> Tensor:
        return F.layer_norm(value, value.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"], 1e-6)

    def fed(key: str, value: Tensor) -> Tensor:
        return value + of(f"{key}.mlp.fc2", F.gelu(of(f"{key}.mlp.fc1", normed(f"{key}.norm2", value))))

    def reference(chip: NDArray[np.uint8]) -> Tensor:
        cells = F.conv2d(
            channels(chip, name), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4
        )
        tokens = []
        for row in range(grid):
            for column in range(grid):
                inner = cells[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].permute(1, 2, 0)
                inner = normed("patch_embed.norm", inner)
                for _, first, merge in stages:
                    for number in range(first, merge):
                        inner = fed(f"blocks.{number}", inner)
                    four = [inner[0::2, 0::2], inner[1::2, 0::2], inner[0::2, 1::2], inner[1::2, 1::2]]
                    inner = of(
                        f"blocks.{merge}.reduction", normed(f"blocks.{merge}.norm", torch.cat(four, -1))
                    )
                tokens.append(inner[0, 0])
        states = torch.stack(tokens) + state["absolute_pos_embed"][0]
        for number in (10, 11, 12):
            key = f"blocks.{number}"
            query, keys, value = of(f"{key}.attn.qkv", normed(f"{key}.norm1", states)).chunk(3, dim=1)
            weights = (query @ keys.T / math.sqrt(WIDTH)).softmax(1)
            states = fed(key, states + of(f"{key}.attn.proj", weights @ value))
        return F.layer_norm(states.mean(0), (WIDTH,), eps=1e-6)[None]

    return folder / "checkpoint-800.pth", reference


MAKERS: dict[str, Callable[[str, Path], Made]] = {
    "clip": _clip,
    "blip": _blip,
    "remoteclip": _open_clip,
    "georsclip": _open_clip,
    "skyscript": _open_clip,
    "ban": _ban,
    "changeclip": _changeclip,
    "prithvi": _prithvi,
    "geochat": _geochat,
    "vhm": _vhm,
    "bita": _bita,
    "sar-jepa": _sar_jepa,
    "mae": _mae,
    "moco-v3": _moco,
    "sarclip": _open_clip,
    "saratr-x": _saratr_x,
    "sarmae": _mae,
    "dinov2": _dinov2,
    "dinov3": _dinov3,
}


BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "ship", "##s", "of", "0", "road", "water", "."]


def write_blip(folder: Path) -> tuple[nn.Module, BlipTextModel, dict[str, nn.Linear]]:
    """Write BLIP's retrieval file, and return its parts."""
    image = vit()
    config = BlipTextConfig(
        vocab_size=len(BERT_WORDS) + 2, hidden_size=WIDTH, encoder_hidden_size=WIDTH,
        intermediate_size=4 * WIDTH, num_hidden_layers=2, num_attention_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    text = BlipTextModel(config, add_pooling_layer=False)
    shaken(text)
    linears = {
        "vision_proj": nn.Linear(WIDTH, 16),
        "text_proj": nn.Linear(WIDTH, 16),
        "itm_head": nn.Linear(WIDTH, 2),
    }
    state = {f"visual_encoder.{key}": value for key, value in image.state_dict().items()}
    state |= {f"text_encoder.{key}": value for key, value in text.state_dict().items()}
    state |= {f"text_encoder_m.{key}": value * 0 for key, value in text.state_dict().items()}
    state["text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    for name, linear in linears.items():
        state |= {f"{name}.{key}": value for key, value in shaken(linear).state_dict().items()}
    torch.save(
        {"model": state | {"image_queue": torch.zeros(16, 9), "temp": torch.tensor(0.07)}},
        folder / "blip.pth",
    )
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n")
    return image, text, linears
