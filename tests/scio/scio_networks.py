"""Small randomly initialised networks for the tests of SCIO, whose matching scores vary."""

from pathlib import Path

import torch

from fusar_klip.models import KlipNetwork, ModelSettings, Preprocess, Tokenizer
from fusar_klip.models.checkpoint import save_weights

TEXTS = [
    *("Count: 3 ships", "Size: 40 m long", "Region: bright water", "Layout: a row of ships"),
    *("Location: north of the quay", "5 ships at a quay", "a runway in a field, south", "80.5 m of the tile"),
]
NANO = {
    "image_size": 32,
    "patch_size": 8,
    "image_width": 32,
    "image_depth": 1,
    "image_heads": 2,
    "text_width": 32,
    "text_depth": 1,
    "text_heads": 2,
    "text_dropout": 0.1,
    "embed_dim": 16,
    "max_tokens": 64,
}


def make_network(seed: int, **changes: object) -> tuple[KlipNetwork, Tokenizer]:
    """Return a network in evaluation mode, and its tokenizer."""
    tokenizer = Tokenizer.train(TEXTS * 3, 400)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = KlipNetwork(ModelSettings.model_validate(NANO | changes), tokenizer)
        with torch.no_grad():
            network.matching_head.weight.normal_(0, 1)
    return network.eval(), tokenizer


def write_run(run: Path, seed: int = 0) -> Path:
    """Write what `load` needs of a run."""
    network, tokenizer = make_network(seed)
    save_weights(network, run / "model.safetensors")
    Preprocess(32).save(run / "preprocess.json")
    tokenizer.save(run / "tokenizer.json")
    return run
