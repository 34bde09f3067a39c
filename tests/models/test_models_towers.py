"""Weights to start from: files that the test makes, in the layouts of timm and of BERT."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import BertConfig, BertModel

from fusar_klip.errors import CheckpointError
from fusar_klip.models import KlipNetwork, Tokenizer
from fusar_klip.models.towers import load_image_weights, load_text_weights


def vit(size: int = 32, width: int = 24) -> VisionTransformer:
    """A colour ViT with a head, as ImageNet's are."""
    return VisionTransformer(
        img_size=size, patch_size=8, embed_dim=width, depth=1, num_heads=2, num_classes=10
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
            states = network.text_tower(input_ids=ids, attention_mask=mask).last_hidden_state
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
    assert "missing ['norm.bias']" in caplog.text
    assert "unused ['stray.weight']" in caplog.text


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
    with pytest.raises(CheckpointError, match=r"init\.image: no weights from"):
        load_image_weights(network.image_tower, str(tmp_path / "bad.safetensors"))
