"""A tiny RUN with random weights."""

from collections.abc import Callable

import pytest
import torch

from fusar_klip.models import KlipNetwork, ModelSettings, Preprocess, Tokenizer
from fusar_klip.models.checkpoint import save_weights

SETTINGS = ModelSettings(
    image_size=32,
    patch_size=8,
    image_width=32,
    image_depth=2,
    image_heads=2,
    text_width=32,
    text_depth=1,
    text_heads=2,
    text_dropout=0.0,
    embed_dim=16,
    max_tokens=64,
)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return a function that makes a RUN folder with random weights of a seed."""

    def make(seed: int = 1, name: str = "run") -> str:
        run = tmp_path_factory.mktemp("runs") / name
        run.mkdir()
        tokenizer = Tokenizer.train(["Count: 3 ships. Location: in the top left."], 300)
        torch.manual_seed(seed)
        save_weights(KlipNetwork(SETTINGS, tokenizer), run / "model.safetensors")
        Preprocess(SETTINGS.image_size).save(run / "preprocess.json")
        tokenizer.save(run / "tokenizer.json")
        return str(run)

    return make


@pytest.fixture(scope="session")
def run(make_run: Callable[..., str]) -> str:
    """A RUN folder."""
    return make_run()
