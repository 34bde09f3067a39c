"""A network small enough to run in milliseconds, and words for it."""

import pytest
import torch

from fusar_klip.models import KlipNetwork, ModelSettings, Tokenizer

TEXTS = [
    "Count: 3 ships at 0.5 m",
    "Location: near Los Angeles, -12.5 dB (urban).",
    "Size: the ships are long",
]


@pytest.fixture(scope="session")
def nano() -> ModelSettings:
    return ModelSettings(
        image_size=32,
        patch_size=8,
        image_width=24,
        image_depth=1,
        image_heads=2,
        text_width=32,
        text_depth=2,
        text_heads=2,
        text_dropout=0.0,
        embed_dim=16,
        max_tokens=64,
    )


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, 300)


@pytest.fixture
def network(nano: ModelSettings, tokenizer: Tokenizer) -> KlipNetwork:
    torch.manual_seed(1)
    return KlipNetwork(nano, tokenizer).eval()
