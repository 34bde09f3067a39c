"""The text side against transformers' BLIP layers, which are BLIP's own code, on the same weights."""

import pytest
import torch
from torch import Tensor
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel, BlipTextModel

from fusar_klip.models import KlipNetwork, ModelSettings, Tokenizer
from fusar_klip.models.network.bert import Packing
from fusar_klip.models.network.cross_attention import CrossAttentionCache

TEXTS = ["3 ships at sea", "a", "long ships near the urban area"]


def blip_config(settings: ModelSettings, words: int) -> BlipTextConfig:
    return BlipTextConfig(
        vocab_size=words,
        hidden_size=settings.text_width,
        encoder_hidden_size=settings.image_width,
        intermediate_size=4 * settings.text_width,
        num_hidden_layers=settings.text_depth,
        num_attention_heads=settings.text_heads,
        pad_token_id=0,
        is_decoder=True,
        use_cache=False,
    )


@pytest.fixture
def batch(network: KlipNetwork, tokenizer: Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """Image tokens (3, 17, 24), and ids and mask of three texts."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # Fresh biases and norms are 0 and 1, and would hide a mistake.
            if parameter.ndim == 1:
                parameter.add_(
                    0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                )
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    ids, mask = tokenizer.pad([tokenizer.encode(text, 64) for text in TEXTS])
    return network.image_tokens(images), ids, mask


@torch.no_grad()
def test_the_encoder_is_blips(network: KlipNetwork, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    tokens, ids, mask = batch
    blip = BlipTextModel(
        blip_config(network.settings, len(network.decoder.cls.predictions.bias)), False
    ).eval()
    assert not blip.load_state_dict(network.text_tower.state_dict(), strict=False).missing_keys
    real = mask == 1
    alone = blip(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(network.text_states(ids, mask)[real], alone[real], atol=1e-5, rtol=1e-4)
    fused = blip(input_ids=ids, attention_mask=mask, encoder_hidden_states=tokens).last_hidden_state
    states = network.fuse(ids, mask, network.image_kv(tokens))
    torch.testing.assert_close(states[real], fused[real], atol=1e-5, rtol=1e-4)
    assert not states[~real].any()
    logits = network.match_logits(ids, mask, network.image_kv(tokens))
    torch.testing.assert_close(logits, network.matching_head(fused[:, 0]), atol=1e-5, rtol=1e-4)
    expected = torch.nn.functional.normalize(network.text_projection(alone[:, 0]), dim=1)
    torch.testing.assert_close(network.text_features(ids, mask), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_decoder_is_blips(network: KlipNetwork, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    tokens, ids, mask = batch
    # One text at a time: transformers' cross-attention does not heed its mask.
    context = network.fuse(ids, mask, network.image_kv(tokens))
    blip = BlipTextLMHeadModel(
        blip_config(network.settings, len(network.decoder.cls.predictions.bias))
    ).eval()
    blip.load_state_dict(network.decoder.state_dict(), strict=False)
    blip.cls.predictions.decoder.bias = blip.cls.predictions.bias
    logits = network.decode(ids, context, mask, network.image_kv(tokens))
    for row in range(3):
        length = int(mask[row].sum())
        seen = torch.cat([tokens[row], network.context_projection(context[row, :length])])
        expected = blip(
            input_ids=ids[row : row + 1], encoder_hidden_states=seen[None], is_decoder=True
        ).logits
        torch.testing.assert_close(logits[row], expected[0], atol=1e-5, rtol=1e-4)
    packed = network.decode_packed(ids, mask, context, mask, network.image_kv(tokens))
    torch.testing.assert_close(packed, logits[mask == 1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_cache_is_arranged_for_pairs_without_computing_keys_again(
    network: KlipNetwork, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = batch
    image_kv = network.image_kv(tokens)
    rows = torch.tensor([2, 0, 0])
    pairs = image_kv.tiled(2) + image_kv.rows(rows)
    assert len(pairs) == 9
    logits = network.match_logits(
        torch.cat([ids, ids.flip(0), ids]), torch.cat([mask, mask.flip(0), mask]), pairs
    )
    expected = [
        network.match_logits(ids, mask, network.image_kv(tokens)),
        network.match_logits(ids.flip(0), mask.flip(0), network.image_kv(tokens)),
        network.match_logits(ids, mask, network.image_kv(tokens[rows])),
    ]
    torch.testing.assert_close(logits, torch.cat(expected), atol=1e-5, rtol=1e-4)
    again = image_kv.tiled(2).rows(torch.tensor([1, 4]))
    torch.testing.assert_close(
        network.match_logits(ids[:2], mask[:2], again),
        network.match_logits(ids[:2], mask[:2], network.image_kv(tokens[[1, 1]])),
    )
    with pytest.raises(AssertionError, match="a cache for 3 texts, not 2"):
        network.match_logits(ids[:2], mask[:2], image_kv)


def test_a_packing_gives_back_what_it_packed() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    padded = torch.arange(18.0).view(3, 3, 2)
    packing = Packing(mask)
    packed = packing.pack(padded)
    assert packed.tolist() == [[0, 1], [2, 3], [12, 13], [14, 15], [16, 17]]
    assert torch.equal(packing.unpack(packed), padded * mask[..., None])
    assert packing.first_b.tolist() == [0, 2, 2]
    whole = Packing(torch.ones(2, 4))
    assert not whole.is_padded
    assert torch.equal(whole.pack(padded[:2]), padded[:2].flatten(0, 1))


def test_gradients_do_not_depend_on_the_batch(
    network: KlipNetwork, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = batch
    network.match_logits(ids, mask, network.image_kv(tokens.detach()))[1, 1].backward()
    together = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    length = int(mask[1].sum())
    network.match_logits(ids[1:2, :length], mask[1:2, :length], network.image_kv(tokens[1:2].detach()))[
        0, 1
    ].backward()
    assert len(together) > 20
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(together[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_dropout_is_for_training_alone(
    nano: ModelSettings, tokenizer: Tokenizer, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = batch
    network = KlipNetwork(nano.model_copy(update={"text_dropout": 0.5}), tokenizer)
    image_kv = network.image_kv(tokens)
    assert not torch.allclose(network.fuse(ids, mask, image_kv), network.fuse(ids, mask, image_kv))
    network.eval()
    assert torch.equal(network.fuse(ids, mask, image_kv), network.fuse(ids, mask, image_kv))


@pytest.mark.parametrize("fusion_layers", [None, 1])
def test_checkpointed_activations_give_the_same_gradients(
    nano: ModelSettings, tokenizer: Tokenizer, batch: tuple[Tensor, Tensor, Tensor], fusion_layers: int | None
) -> None:
    _, ids, mask = batch
    torch.manual_seed(0)
    network = KlipNetwork(
        nano.model_copy(update={"fusion_layers": fusion_layers, "text_dropout": 0.2}), tokenizer
    )
    images = torch.randn(3, 1, 32, 32)

    def gradients() -> dict[str, Tensor]:
        torch.manual_seed(1)
        network.zero_grad()
        tokens = network.image_tokens(images)
        image_kv = network.image_kv(tokens)
        context = network.fuse(ids, mask, image_kv)
        loss = network.decode(ids, context, mask, image_kv).square().mean()
        (loss + network.match_logits(ids, mask, image_kv).square().mean()).backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    plain = gradients()
    network.checkpoint_activations()
    saved = gradients()
    assert plain.keys() == saved.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient)


@torch.no_grad()
def test_late_fusion_starts_from_the_text_alone(
    nano: ModelSettings, tokenizer: Tokenizer, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = batch
    torch.manual_seed(0)
    network = KlipNetwork(nano.model_copy(update={"fusion_layers": 1}), tokenizer).eval()
    names = [name for name, _ in network.named_parameters()]
    assert not [name for name in names if "layer.0.crossattention" in name]
    assert [name for name in names if "layer.1.crossattention" in name]
    image_kv = network.image_kv(tokens)
    states = network.text_states(ids, mask)
    close = {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(network.text_features_of(states), network.text_features(ids, mask), **close)
    torch.testing.assert_close(
        network.match_logits_of(states, mask, image_kv), network.match_logits(ids, mask, image_kv), **close
    )
    # The text alone passes the first layer only.
    packing = Packing(mask)
    first = network.text_tower.layers[0](network.text_tower.embeddings(ids, packing), packing)
    torch.testing.assert_close(packing.pack(states), first)


def test_states_do_not_enter_an_early_fusion(
    network: KlipNetwork, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = batch
    with pytest.raises(AssertionError, match="late fusion only"):
        network.match_logits_of(network.text_states(ids, mask), mask, network.image_kv(tokens))


def test_an_empty_cache_serves_no_text(network: KlipNetwork) -> None:
    assert len(CrossAttentionCache.of([torch.zeros(0, 2, 5, 4)], [torch.zeros(0, 2, 5, 4)])) == 0


@pytest.mark.slow
# torch's compiler looks at the gradient of whatever comes in.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_layers_give_the_same_and_are_compiled_once_for_all_lengths(
    nano: ModelSettings, tokenizer: Tokenizer
) -> None:
    from torch._dynamo.testing import CompileCounter
    from torch._dynamo.utils import counters

    counters.clear()
    torch.manual_seed(0)
    network = KlipNetwork(nano, tokenizer).eval()
    images = torch.randn(3, 1, 32, 32)

    def results(texts: list[str]) -> list[Tensor]:
        ids, mask = tokenizer.pad([tokenizer.encode(text, 64) for text in texts])
        tokens = network.image_tokens(images[: len(texts)])
        image_kv = network.image_kv(tokens)
        context = network.fuse(ids, mask, image_kv)
        return [
            context,
            network.match_logits(ids, mask, image_kv),
            network.decode(ids, context, mask, image_kv),
        ]

    batches = [TEXTS, ["a", "3 ships"], ["sea", "urban sea", "long"], [*TEXTS[1:], "3 ships at sea, long"]]
    plain = [results(texts) for texts in batches]
    compiler = CompileCounter()
    # No break of the graph within a layer: `fullgraph` would say so.
    network.compile_layers(backend=compiler, fullgraph=True)
    for texts, expected in zip(batches, plain, strict=True):
        for ours, theirs in zip(results(texts), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    seen = compiler.frame_count
    results(["3", "a long ship at sea"])
    assert compiler.frame_count == seen
    torch._dynamo.reset()
