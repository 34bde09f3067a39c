import pytest
import torch
from torch import Tensor

from fusar_klip.config import validate_settings
from fusar_klip.errors import SettingsError
from fusar_klip.models import MODELS, KlipNetwork, ModelSettings, Tokenizer
from fusar_klip.models.network.momentum import MomentumTowers


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
    assert network.match_logits(ids, mask, network.image_kv(tokens)).shape == (2, 2)
    context = network.fuse(ids, mask, network.image_kv(tokens))
    assert context.shape == (*ids.shape, 32)
    assert network.decode(ids, context, mask, network.image_kv(tokens)).shape == (
        *ids.shape,
        network.decoder.cls.predictions.bias.numel(),
    )


@torch.no_grad()
def test_fresh_towers_tell_texts_apart(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    texts = ["3 ships at sea", "a", "no open water, many buildings", "runways and aprons"]
    batch = tokenizer.pad([tokenizer.encode(text, 64) for text in texts])
    features = KlipNetwork(MODELS["tiny"], tokenizer).eval().text_features(*batch)
    # 0.998 with BERT's fresh weights, which the image tower then takes as its example.
    assert (features @ features.T).tril(-1).sum() / 6 < 0.97


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
        network.match_logits(ids, mask, network.image_kv(tokens))[1:],
        network.match_logits(alone_ids, alone_mask, network.image_kv(tokens[1:])),
    )
    image_kv = network.image_kv(tokens[1:])
    padded, alone = (
        network.decode(ids[1:, :2], network.fuse(i, m, image_kv), m, image_kv)
        for i, m in ((ids[1:], mask[1:]), (alone_ids, alone_mask))
    )
    torch.testing.assert_close(padded, alone)


@torch.no_grad()
def test_the_decoder_sees_the_past_the_image_and_the_context_but_not_the_future(
    network: KlipNetwork, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = batch
    context = network.fuse(ids, mask, network.image_kv(tokens))
    before = network.decode(ids, context, mask, network.image_kv(tokens))
    future = ids.clone()
    future[:, -1] = 7
    after = network.decode(future, context, mask, network.image_kv(tokens))
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])
    assert not torch.allclose(
        before, network.decode(ids, context.flip(0), mask, network.image_kv(tokens)), atol=1e-4
    )
    assert not torch.allclose(
        before, network.decode(ids, context, mask, network.image_kv(tokens.flip(0))), atol=1e-4
    )


@torch.no_grad()
def test_fusion_looks_at_the_image_and_text_alone_does_not(
    network: KlipNetwork, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = batch
    assert not torch.allclose(
        network.fuse(ids, mask, network.image_kv(tokens)),
        network.fuse(ids, mask, network.image_kv(tokens.flip(0))),
    )
    names = {name for name, _ in MomentumTowers(network).named_parameters()}
    assert names
    assert not [name for name in names if "crossattention" in name]


def test_encoder_and_decoder_share_all_but_self_attention_and_head(network: KlipNetwork) -> None:
    own = {name for name, _ in network.named_parameters() if name.startswith("decoder.")}
    assert own
    assert all(".attention." in name or name.startswith("decoder.cls.") for name in own)
    assert network.decoder.bert.embeddings is network.text_tower.embeddings
    for layer, other in zip(network.decoder.bert.layers, network.text_tower.layers, strict=True):
        assert layer.crossattention is other.crossattention
        assert layer.output is other.output
        assert layer.attention is not other.attention


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


@torch.no_grad()
def test_the_class_tokens_are_those_of_the_whole_tower(network: KlipNetwork) -> None:
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(network.image_tower.class_tokens(images), network.image_tokens(images)[:, 0])


def test_the_ground_spacing_is_heard_only_where_it_is_asked_for(
    nano: ModelSettings, tokenizer: Tokenizer, network: KlipNetwork
) -> None:
    images, spacing = torch.randn(4, 1, 32, 32), torch.tensor([0.5, 8.0, torch.nan, 0.5])
    assert torch.equal(network.image_tokens(images, spacing), network.image_tokens(images))
    assert not [name for name, _ in network.named_parameters() if "gsd" in name]
    torch.manual_seed(1)
    told = KlipNetwork(nano.model_copy(update={"gsd_embedding": True}), tokenizer).eval()
    # A fresh embedding is 0, so that loaded weights start as they were.
    assert torch.equal(told.image_tokens(images, spacing), told.image_tokens(images))
    told.image_tokens(images, spacing).square().sum().backward()
    embedding = told.image_tower.gsd_embedding
    assert embedding is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in embedding.parameters())
    with torch.no_grad():
        for parameter in embedding.parameters():
            parameter.add_(torch.randn(parameter.shape))
        heard = told.image_tokens(images, spacing)
        torch.testing.assert_close(heard, told.image_tokens(images, torch.tensor([0.5, 8.0, torch.nan, 0.5])))
        assert not torch.allclose(heard[1], told.image_tokens(images, spacing.flip(0))[1])
        torch.testing.assert_close(heard[2], told.image_tokens(images)[2])
        torch.testing.assert_close(told.image_tower.class_tokens(images, spacing), heard[:, 0])
        momentum = MomentumTowers(told)
        ids, mask = tokenizer.pad([tokenizer.encode("a", 64)] * 4)
        image, _ = momentum.features(images, ids, mask, spacing)
        torch.testing.assert_close(image, told.image_features(heard))
        # Halving the spacing is the same step everywhere, and nothing of it overflows.
        extremes = embedding(torch.tensor([1e-3, 1e4, 0.0, -1.0, torch.inf]))
        assert bool(extremes.isfinite().all())
        torch.testing.assert_close(extremes[2], embedding.unknown)


def test_fusion_layers_must_leave_a_text_layer() -> None:
    with pytest.raises(SettingsError, match="fusion_layers must be smaller than text_depth"):
        validate_settings(ModelSettings, {"fusion_layers": 12})
    assert validate_settings(ModelSettings, {"fusion_layers": 6}).text_only_layers == 6
    assert MODELS["vit_b"].cross_attention_layers == MODELS["vit_b"].text_only_layers == 12


@pytest.mark.parametrize("fusion_layers", [None, 1])
def test_momentum_gives_the_network_s_features_whatever_the_fusion(
    nano: ModelSettings, tokenizer: Tokenizer, fusion_layers: int | None
) -> None:
    network = KlipNetwork(nano.model_copy(update={"fusion_layers": fusion_layers}), tokenizer).eval()
    momentum = MomentumTowers(network)
    assert len(momentum.text_tower.layers) == (1 if fusion_layers else 2)
    ids, mask = tokenizer.pad([tokenizer.encode("3 ships", 64), tokenizer.encode("a", 64)])
    with torch.no_grad():
        _, text = momentum.features(torch.randn(2, 1, 32, 32), ids, mask)
        torch.testing.assert_close(text, network.text_features(ids, mask))
