"""Checkpoints: the weights with their architecture in one safetensors file, and what belongs to them.

    RUN/model.safetensors   weights; the header's metadata holds the architecture as JSON
    RUN/preprocess.json     see `Preprocess`
    RUN/tokenizer.json      see `Tokenizer`

Weights and architecture never come apart, so `load` needs no configuration of the training.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusar_klip.config import validate_settings
from fusar_klip.errors import CheckpointError, SettingsError
from fusar_klip.files import replaced, sha256
from fusar_klip.models.klip import Klip
from fusar_klip.models.network import KlipNetwork
from fusar_klip.models.preprocess import Preprocess
from fusar_klip.models.settings import ModelSettings
from fusar_klip.models.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"
PREPROCESS = "preprocess.json"
TOKENIZER = "tokenizer.json"

UNTRAINED = "untrained:"
_ARCHITECTURE = "fusar_klip.architecture"


def save_weights(network: KlipNetwork, path: Path) -> None:
    """Write the network's weights (each shared one once) and its architecture, atomically."""
    state = {name: parameter.detach().contiguous() for name, parameter in network.named_parameters()}
    about = {_ARCHITECTURE: json.dumps(network.settings.model_dump(mode="json"), sort_keys=True)}
    with replaced(path) as partial:
        save_file(state, partial, about)


def load(checkpoint: str | Path, device: str = "cpu") -> Klip:
    """Return the model of a RUN folder or of one of its safetensors files.

    `untrained:RUN` gives the same architecture, preprocessing and tokenizer with fresh weights (seed 0):
    what a trained model is compared with.

    Raises:
        CheckpointError: There is no checkpoint, its training has not ended, or it does not fit.
    """
    name = str(checkpoint)
    path = _weights_file(Path(name.removeprefix(UNTRAINED)))
    folder = path.parent
    settings, state = _read(path)
    tokenizer = Tokenizer.from_file(folder / TOKENIZER)
    preprocess = Preprocess.from_file(folder / PREPROCESS)
    # Fresh weights leave the caller's random state as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = KlipNetwork(settings, tokenizer)
    if not name.startswith(UNTRAINED):
        _fill(network, state, path)
    return Klip(network, preprocess, tokenizer, device)


def checkpoint_digest(checkpoint: str | Path) -> str:
    """Return 64 hexadecimal digits that change when the model that `load` gives may have changed.

    Raises:
        CheckpointError: There is no checkpoint, its training has not ended, or a file beside it is missing.
    """
    name = str(checkpoint)
    weights = _weights_file(Path(name.removeprefix(UNTRAINED)))
    digest = hashlib.sha256((UNTRAINED if name.startswith(UNTRAINED) else "").encode())
    for file in (weights, weights.parent / PREPROCESS, weights.parent / TOKENIZER):
        if not file.is_file():
            raise CheckpointError(f"{weights.parent} has no {file.name}: give a whole RUN folder")
        digest.update(sha256(file).encode())
    return digest.hexdigest()


def _weights_file(path: Path) -> Path:
    if path.is_dir():
        if not (path / WEIGHTS).is_file():
            raise CheckpointError(
                f"{path} has no {WEIGHTS}: if it is a run whose training has not ended, go on with "
                "fusar-klip pretrain --resume"
            )
        return path / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: give a RUN folder made by fusar-klip pretrain")
    return path


def _read(path: Path) -> tuple[ModelSettings, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is no safetensors file ({error}): give a RUN folder or file"
        ) from error
    if _ARCHITECTURE not in about:
        raise CheckpointError(f"{path} is no FUSAR-KLIP checkpoint: give one made by fusar-klip pretrain")
    try:
        return validate_settings(ModelSettings, json.loads(about[_ARCHITECTURE])), state
    except (ValueError, SettingsError) as error:
        raise CheckpointError(f"{path} was made by another version ({error}): train it again") from error


def _fill(network: KlipNetwork, state: dict[str, Tensor], path: Path) -> None:
    own = dict(network.named_parameters())
    wrong = sorted(own.keys() ^ state.keys()) or [n for n in own if own[n].shape != state[n].shape]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit its architecture and tokenizer ({len(wrong)} weights, such as {wrong[0]}): "
            "give the RUN folder as fusar-klip pretrain wrote it"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
