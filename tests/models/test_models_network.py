import pytest
import torch
from torch import Tensor

from fusar_klip.config import validate_settings
from fusar_klip.errors import SettingsError
from fusar_klip.models import MODELS, KlipNetwork, ModelSettings, Tokenizer
from fusar_klip.models.momentum import MomentumTowers


@pytest.fixture
def batch(network: KlipNetwork, tokenizer: Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """Image tokens (2, 17, 24), and ids and mask of two texts of unequal length."""
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    ids, mask = tokenizer.pad([tokenizer.encode("3 ships at sea", 64), tokenizer.encode("a", 64)])
    return network.image_tokens(images), ids, mask


def test_shapes_and_norms(network: KlipNetwork, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    tokens, ids, mask = batch
    assert tokens.shape == (2, 17, 24)
    for features in (network.image_features(tokens), network.text_features(ids, mask)):
        assert features.shape == (2, 16)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    assert network.match_logits(ids, mask, tokens).shape == (2, 2)
    context = network.fuse(ids, mask, tokens)
    assert context.shape == (*ids.shape, 32)
    assert network.decode(ids, context, mask, tokens).shape == (
        *ids.shape,
        network.text_tower.config.vocab_size,
    )


@torch.no_grad()
def test_padding_changes_nothing(
    network: KlipNetwork, tokenizer: Tokenizer, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = batch
    alone_ids, alone_mask = tokenizer.pad([tokenizer.encode("a", 64)])
    torch.testing.assert_close(
        network.text_features(ids, mask)[1:], network.text_features(alone_ids, alone_mask)
    )
    torch.testing.assert_close(
        network.match_logits(ids, mask, tokens)[1:], network.match_logits(alone_ids, alone_mask, tokens[1:])
    )
    padded, alone = (
        network.decode(ids[1:, :2], network.fuse(i, m, tokens[1:]), m, tokens[1:])
        for i, m in ((ids[1:], mask[1:]), (alone_ids, alone_mask))
    )
    torch.testing.assert_close(padded, alone)


@torch.no_grad()
def test_the_decoder_sees_the_past_the_image_and_the_context_but_not_the_future(
    network: KlipNetwork, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = batch
    context = network.fuse(ids, mask, tokens)
    before = network.decode(ids, context, mask, tokens)
    future = ids.clone()
    future[:, -1] = 7
    after = network.decode(future, context, mask, tokens)
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])
    assert not torch.allclose(before, network.decode(ids, context.flip(0), mask, tokens), atol=1e-4)
    assert not torch.allclose(before, network.decode(ids, context, mask, tokens.flip(0)), atol=1e-4)


@torch.no_grad()
def test_fusion_looks_at_the_image_and_text_alone_does_not(
    network: KlipNetwork, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = batch
    assert not torch.allclose(network.fuse(ids, mask, tokens), network.fuse(ids, mask, tokens.flip(0)))
    names = {name for name, _ in MomentumTowers(network).named_parameters()}
    assert names
    assert not [name for name in names if "crossattention" in name]


def test_encoder_and_decoder_share_all_but_self_attention_and_head(network: KlipNetwork) -> None:
    own = {name for name, _ in network.named_parameters() if name.startswith("decoder.")}
    assert own
    assert all(".attention." in name or name.startswith("decoder.cls.") for name in own)
    head = network.decoder.cls.predictions.decoder
    assert head.weight is network.text_tower.embeddings.word_embeddings.weight


def test_momentum_is_the_average_of_the_equation(network: KlipNetwork) -> None:
    momentum = MomentumTowers(network)
    before = {name: p.clone() for name, p in momentum.named_parameters()}
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    momentum.update(network, 0.995)
    now = dict(network.named_parameters())
    for name, p in momentum.named_parameters():
        torch.testing.assert_close(p, 0.995 * before[name] + 0.005 * now[name])
        assert not p.requires_grad


@torch.no_grad()
def test_momentum_starts_with_the_network_s_own_features(
    network: KlipNetwork, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    _, ids, mask = batch
    images = torch.randn(2, 1, 32, 32)
    image, text = MomentumTowers(network).features(images, ids, mask)
    torch.testing.assert_close(image, network.image_features(network.image_tokens(images)))
    torch.testing.assert_close(text, network.text_features(ids, mask))


def test_temperature_stays_in_its_bounds(network: KlipNetwork) -> None:
    assert float(network.temperature.detach()) == pytest.approx(0.07)
    for value, clamped in ((-9.0, 0.001), (2.0, 0.5)):
        network.log_temperature.data.fill_(value)
        network.clamp_temperature()
        assert float(network.temperature.detach()) == pytest.approx(clamped)


def test_presets_are_the_papers_sizes(tokenizer: Tokenizer) -> None:
    with torch.device("meta"):
        network = KlipNetwork(MODELS["vit_b"], tokenizer)
    count = sum(p.numel() for p in network.image_tower.parameters())
    # timm's vit_base_patch16_224 without head has 85.8 million weights, 0.4 million of them for two of the
    # three input channels.
    assert count == 85_798_656 - 2 * 16 * 16 * 768
    assert MODELS["vit_b"].max_tokens == 160


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(SettingsError, match="image_size must be a multiple of patch_size"):
        validate_settings(ModelSettings, {"image_size": 100})
