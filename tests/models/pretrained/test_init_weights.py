"""Weights to start from: files that the test makes, under the names that each project gives its weights."""

import argparse
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers.create_act import get_act_layer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import BertConfig, BertModel

from fusar_klip.errors import CheckpointError
from fusar_klip.models import KlipNetwork, ModelSettings, Tokenizer
from fusar_klip.models.pretrained import init_weights
from fusar_klip.models.pretrained.init_weights import load_image_weights, load_text_weights


def vit(size: int = 32, width: int = 24, **others: Any) -> VisionTransformer:
    """A colour ViT with a head, as ImageNet's are."""
    return VisionTransformer(
        img_size=size, patch_size=8, embed_dim=width, depth=1, num_heads=2, num_classes=10, **others
    )


def bert(tokenizer: Tokenizer) -> BertModel:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    return BertModel(config).eval()


@pytest.mark.parametrize("size", [32, 48])
def test_a_colour_vit_s_weights_load(network: KlipNetwork, tmp_path: Path, size: int) -> None:
    state = vit(size).state_dict()
    save_file(state, tmp_path / "vit.safetensors")
    load_image_weights(network.image_tower, str(tmp_path / "vit.safetensors"))
    tower = network.image_tower
    assert torch.equal(tower.blocks[0].mlp.fc1.weight, state["blocks.0.mlp.fc1.weight"])
    summed = state["patch_embed.proj.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(tower.patch_embed.proj.weight.data, summed)
    assert tower.pos_embed.shape == (1, 17, 24)


def test_a_name_of_timm_s_loads(network: KlipNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, published = [], vit(48)

    def create(name: str, *, pretrained: bool) -> VisionTransformer:
        asked.append((name, pretrained))
        return published

    monkeypatch.setattr(init_weights, "create_model", create)
    load_image_weights(network.image_tower, "vit_base_patch16_224")
    assert asked == [("vit_base_patch16_224", True)]
    assert torch.equal(network.image_tower.blocks[0].attn.proj.weight, published.blocks[0].attn.proj.weight)
    assert network.image_tower.pos_embed.shape == (1, 17, 24)


def test_bert_s_weights_give_bert_s_states(
    network: KlipNetwork, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = bert(tokenizer)
    model.save_pretrained(tmp_path / "bert")
    ids, mask = tokenizer.pad([tokenizer.encode("3 ships", 64), tokenizer.encode("a", 64)])
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
    for source in (tmp_path / "bert", tmp_path / "bert" / "model.safetensors"):
        load_text_weights(network.text_tower, network.decoder, str(source))
        with torch.no_grad():
            states = network.text_states(ids, mask)
        # Only real tokens: what a padded place holds is never read.
        torch.testing.assert_close(states[mask == 1], expected[mask == 1], atol=1e-5, rtol=1e-5)
        own = network.decoder.bert.encoder.layer[0].attention.self.query.weight
        assert torch.equal(own, model.encoder.layer[0].attention.self.query.weight)


def test_weights_of_an_older_bert_file(network: KlipNetwork, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = bert(tokenizer)
    older: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        older[f"bert.{name}"] = tensor.contiguous()
    torch.save(older | {"cls.predictions.bias": torch.zeros(3)}, tmp_path / "bert.bin")
    load_text_weights(network.text_tower, network.decoder, str(tmp_path / "bert.bin"))
    gamma = network.text_tower.encoder.layer[1].output.LayerNorm.weight
    assert torch.equal(gamma, model.encoder.layer[1].output.LayerNorm.weight)


def test_leftovers_are_listed(network: KlipNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = vit().state_dict() | {"stray.weight": torch.zeros(2)}
    del state["norm.bias"]
    torch.save(state, tmp_path / "vit.pth")
    with caplog.at_level(logging.WARNING):
        load_image_weights(network.image_tower, str(tmp_path / "vit.pth"))
    assert "missing norm.bias" in caplog.text
    assert "unused stray.weight" in caplog.text


def test_weights_that_do_not_fit_are_refused(
    network: KlipNetwork, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    torch.save(vit(width=48).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match=r"does not fit: .* is \(.*\) instead of"):
        load_image_weights(network.image_tower, str(tmp_path / "wide.pth"))
    torch.save({"cls_token": torch.zeros(1, 1, 24)}, tmp_path / "few.pth")
    with pytest.raises(CheckpointError, match=r"lacks \d+% of the weights"):
        load_image_weights(network.image_tower, str(tmp_path / "few.pth"))
    other = bert(Tokenizer.train(["other words"] * 3, 400)).state_dict()
    other["embeddings.word_embeddings.weight"] = torch.zeros(7, 32)
    torch.save(other, tmp_path / "bert.bin")
    with pytest.raises(CheckpointError, match=r"word_embeddings.*tokenizer"):
        load_text_weights(network.text_tower, network.decoder, str(tmp_path / "bert.bin"))


def test_weights_that_cannot_be_had(network: KlipNetwork, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"init\.image: no weights from no_such_model"):
        load_image_weights(network.image_tower, "no_such_model")
    with pytest.raises(CheckpointError, match=r"init\.text: no weights from"):
        load_text_weights(network.text_tower, network.decoder, str(tmp_path / "nowhere"))
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("bad.safetensors", "empty.pth", "list.pth"):
        with pytest.raises(CheckpointError, match=r"init\.image: no weights from"):
            load_image_weights(network.image_tower, str(tmp_path / name))
        with pytest.raises(CheckpointError, match=r"init\.text: no weights from"):
            load_text_weights(network.text_tower, network.decoder, str(tmp_path / name))


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file:UserWarning")
def test_a_torchscript_archive_says_how_to_get_at_its_tensors(network: KlipNetwork, tmp_path: Path) -> None:
    """OpenAI publishes CLIP so. The file is made without torch.jit, which warns that it will go."""
    with zipfile.ZipFile(tmp_path / "clip.pt", "w") as archive:
        for name in ("constants.pkl", "data.pkl", "version"):
            archive.writestr(f"clip/{name}", "3\n")
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*torch\.jit\.load\(.*\)\.state_dict"):
        load_image_weights(network.image_tower, str(tmp_path / "clip.pt"))


def mae_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A pretraining file of facebookresearch/mae: no head, a mask token, and its decoder."""
    kept = {name: value for name, value in state.items() if not name.startswith("head.")}
    return kept | {
        "mask_token": torch.zeros(1, 1, 16),
        "decoder_pos_embed": torch.zeros(1, 17, 16),
        "decoder_embed.weight": torch.zeros(16, 24),
        "decoder_blocks.0.attn.qkv.weight": torch.zeros(48, 16),
        "decoder_norm.bias": torch.zeros(16),
        "decoder_pred.weight": torch.zeros(192, 16),
    }


def clip_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's CLIP: the image tower beside the text's, patches without bias, a norm before the blocks."""
    renamed = {
        "cls_token": ("visual.class_embedding", (24,)),
        "pos_embed": ("visual.positional_embedding", (17, 24)),
        "patch_embed.proj.weight": ("visual.conv1.weight", (24, 3, 8, 8)),
        "norm.weight": ("visual.ln_post.weight", (24,)),
        "norm.bias": ("visual.ln_post.bias", (24,)),
    }
    inner = {
        "norm1": "ln_1", "norm2": "ln_2", "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    named = {new: state[old].reshape(shape) for old, (new, shape) in renamed.items()}
    for name, value in state.items():
        if name.startswith("blocks."):
            new = name.replace("blocks.", "visual.transformer.resblocks.")
            for old, theirs in inner.items():
                new = new.replace(old, theirs)
            named[new] = value
    return named | {
        "visual.ln_pre.weight": torch.ones(24),
        "visual.ln_pre.bias": torch.zeros(24),
        "visual.proj": torch.zeros(24, 16),
        "positional_embedding": torch.zeros(77, 16),
        "token_embedding.weight": torch.zeros(9, 16),
        "transformer.resblocks.0.ln_1.weight": torch.zeros(16),
        "text_projection": torch.zeros(16, 16),
        "logit_scale": torch.zeros(()),
    }


def blip_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A BLIP file: image tower, heads, temperature, queues, and momentum copies."""
    tower = {name: value for name, value in state.items() if not name.startswith("head.")}
    named = {f"visual_encoder.{name}": value for name, value in tower.items()}
    named |= {f"visual_encoder_m.{name}": value for name, value in tower.items()}
    return named | {
        "vision_proj.weight": torch.zeros(8, 24),
        "temp": torch.ones(()),
        "image_queue": torch.zeros(8, 5),
    }


@pytest.mark.parametrize("container", ["plain", "model", "state_dict", "training", "safetensors"])
@pytest.mark.parametrize("layout", [mae_keys, clip_keys, blip_keys])
def test_other_projects_towers_load(
    network: KlipNetwork,
    tmp_path: Path,
    layout: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    container: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    colour = vit()
    with torch.no_grad():
        for parameter in colour.parameters():
            parameter.add_(torch.randn(parameter.shape))
        if layout is clip_keys:
            colour.patch_embed.proj.bias.zero_()
    state = layout(colour.state_dict())
    path = tmp_path / ("weights.safetensors" if container == "safetensors" else "weights.pth")
    if container == "safetensors":
        save_file({name: value.clone() for name, value in state.items()}, path)
    elif container == "training":
        prefixed = {f"module.{name}": value for name, value in state.items()}
        torch.save({"model": prefixed, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, path)
    else:
        torch.save(state if container == "plain" else {container: state, "epoch": 3}, path)
    with caplog.at_level(logging.INFO):
        load_image_weights(network.image_tower, str(path))
    grey = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = colour.eval().forward_features(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(network.image_tokens(grey), expected, rtol=1e-4, atol=1e-4)
    assert "missing" not in caplog.text or layout is clip_keys
    listed = {mae_keys: "decoder_blocks (1)", clip_keys: "token_embedding (1)", blip_keys: "visual_encoder_m"}
    assert listed[layout] in caplog.text
    if layout is clip_keys:
        # This tower has no norm before its blocks; a file's must not go unseen.
        assert "unused norm_pre.bias, norm_pre.weight" in caplog.text
        assert "--set architecture.image_pre_norm=true" in caplog.text


def test_clip_s_tower_gives_clip_s_features(
    nano: ModelSettings, tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    colour = vit(pre_norm=True, act_layer=get_act_layer("quick_gelu"))
    with torch.no_grad():
        for parameter in colour.parameters():
            parameter.add_(torch.randn(parameter.shape))
    own = colour.state_dict()
    state = clip_keys(own) | {f"visual.ln_pre.{part}": own[f"norm_pre.{part}"] for part in ("weight", "bias")}
    torch.save(state, tmp_path / "clip.pth")
    settings = nano.model_copy(update={"image_pre_norm": True, "image_activation": "quick_gelu"})
    tower = KlipNetwork(settings, tokenizer).eval().image_tower
    load_image_weights(tower, str(tmp_path / "clip.pth"))
    grey = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = colour.eval().forward_features(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(tower.tokens(grey), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tower.class_tokens(grey), expected[:, 0], rtol=1e-4, atol=1e-4)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_deeper_tower_s_weights_are_refused(network: KlipNetwork, tmp_path: Path) -> None:
    deep = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=2, num_classes=0)
    torch.save(deep.state_dict(), tmp_path / "deep.pth")
    with pytest.raises(CheckpointError, match=r"has \d+% weights too many \(blocks\.1\."):
        load_image_weights(network.image_tower, str(tmp_path / "deep.pth"))


def test_code_in_a_file_is_not_run(network: KlipNetwork, tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit",)

    torch.save({"model": Bad()}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="no weights from"):
        load_image_weights(network.image_tower, str(tmp_path / "bad.pth"))


@pytest.mark.parametrize("sizes", [(32, 48), (48, 32), (40, 32)])
def test_position_embeddings_are_resampled_and_keep_their_layout(
    nano: ModelSettings, tokenizer: Tokenizer, tmp_path: Path, sizes: tuple[int, int]
) -> None:
    theirs, ours = sizes
    state = vit(theirs).state_dict()
    cells = theirs // 8
    # Position embeddings that say where they are: row in one channel, column in another.
    row, column = torch.meshgrid(torch.arange(cells) + 0.5, torch.arange(cells) + 0.5, indexing="ij")
    places = torch.zeros(1, 1 + cells * cells, 24)
    places[0, 1:, 0], places[0, 1:, 1], places[0, 0, 2] = row.flatten() / cells, column.flatten() / cells, 9.0
    torch.save(state | {"pos_embed": places}, tmp_path / "vit.pth")
    network = KlipNetwork(nano.model_copy(update={"image_size": ours}), tokenizer)
    load_image_weights(network.image_tower, str(tmp_path / "vit.pth"))
    own, side = network.image_tower.pos_embed.detach(), ours // 8
    assert own.shape == (1, 1 + side * side, 24)
    assert torch.equal(own[0, 0], places[0, 0])
    grid = own[0, 1:].view(side, side, 24)
    expected = (torch.arange(side) + 0.5) / side
    # Bicubic bends at the border.
    torch.testing.assert_close(grid[..., 0], expected[:, None].expand(-1, side), atol=0.06, rtol=0)
    torch.testing.assert_close(grid[..., 1], expected.expand(side, -1), atol=0.06, rtol=0)
    assert network.image_tokens(torch.randn(1, 1, ours, ours)).shape == (1, 1 + side * side, 24)


def whole_blip(network: KlipNetwork, added_words: int) -> dict[str, Tensor]:
    """A BLIP file of another network of ours: its text side under BLIP's names."""
    state = {f"text_encoder.{name}": value.clone() for name, value in network.text_tower.state_dict().items()}
    state |= {f"text_decoder.{name}": value.clone() for name, value in network.decoder.state_dict().items()}
    for name in ("text_encoder.embeddings", "text_decoder.bert.embeddings"):
        words = state[f"{name}.word_embeddings.weight"]
        state[f"{name}.word_embeddings.weight"] = torch.cat([words, torch.ones(added_words, words.shape[1])])
        state[f"{name}.position_ids"] = torch.arange(512)[None]
    words = state["text_encoder.embeddings.word_embeddings.weight"]
    bias = state["text_decoder.cls.predictions.bias"]
    state["text_decoder.cls.predictions.bias"] = torch.cat([bias, torch.ones(added_words)])
    return state | {
        "text_decoder.cls.predictions.decoder.weight": words.clone(),
        "text_decoder.cls.predictions.decoder.bias": torch.zeros(len(words)),
        "visual_encoder.cls_token": torch.zeros(1, 1, 24),
        "itm_head.weight": torch.zeros(2, 32),
    }


def test_a_whole_blip_gives_its_text_side(
    nano: ModelSettings,
    network: KlipNetwork,
    tokenizer: Tokenizer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(9)
    other = KlipNetwork(nano, tokenizer).eval()
    torch.nn.init.normal_(other.decoder.cls.predictions.bias)
    torch.save({"model": whole_blip(other, added_words=2)}, tmp_path / "blip.pth")
    with caplog.at_level(logging.INFO):
        load_text_weights(network.text_tower, network.decoder, str(tmp_path / "blip.pth"))
    for part in ("text_decoder", "visual_encoder (1)", "itm_head (1)"):
        assert part in caplog.text
    assert "missing" not in caplog.text
    ids, mask = tokenizer.pad([tokenizer.encode("3 ships", 64), tokenizer.encode("a", 64)])
    with torch.no_grad():
        tokens = torch.randn(2, 17, 24)
        fused = other.fuse(ids, mask, other.image_kv(tokens))
        torch.testing.assert_close(network.fuse(ids, mask, network.image_kv(tokens)), fused)
    own = dict(network.decoder.named_parameters())
    for name, parameter in other.decoder.named_parameters():
        assert torch.equal(own[name], parameter), name


def test_a_deeper_text_side_is_refused(network: KlipNetwork, tokenizer: Tokenizer, tmp_path: Path) -> None:
    state = bert(tokenizer).state_dict()
    deeper = {name.replace("layer.1.", "layer.2."): value for name, value in state.items()}
    torch.save(deeper | state, tmp_path / "deep.bin")
    with pytest.raises(CheckpointError, match=r"has \d+% weights too many \(encoder\.layer\.2\."):
        load_text_weights(network.text_tower, network.decoder, str(tmp_path / "deep.bin"))


def test_albefs_text_side_loads_where_fusion_is_late(
    nano: ModelSettings, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    late = nano.model_copy(update={"fusion_layers": 1})
    torch.manual_seed(9)
    other, own = KlipNetwork(late, tokenizer), KlipNetwork(late, tokenizer)
    # ALBEF keeps its tower under "text_encoder.bert", with a head beside it.
    state = {f"text_encoder.bert.{name}": value for name, value in other.text_tower.state_dict().items()}
    torch.save(state | {"text_encoder.cls.predictions.bias": torch.zeros(3)}, tmp_path / "albef.pth")
    load_text_weights(own.text_tower, own.decoder, str(tmp_path / "albef.pth"))
    for name, value in other.text_tower.state_dict().items():
        assert torch.equal(own.text_tower.state_dict()[name], value), name
