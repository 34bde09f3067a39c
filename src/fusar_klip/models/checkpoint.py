"""Checkpoints: the weights with their architecture in one safetensors file, and the files beside them.

    RUN/model.safetensors   weights; the header's metadata holds the architecture as JSON
    RUN/preprocess.json     see `Preprocess`
    RUN/tokenizer.json      see `Tokenizer`
    RUN/speaks.json         if it was fine-tuned to generate captions or answers, see `GenerationConfig`

Weights and architecture are in one file, so loading needs no configuration of the training.

A run that was trained on images alone (MAE, MoCo v3) has an image tower, under the names of a whole network,
and no tokenizer; `load_image_tower` reads both kinds.
"""

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fusar_klip.config import validate_settings
from fusar_klip.errors import CheckpointError, SettingsError
from fusar_klip.files import replaced, sha256
from fusar_klip.models.captioning import GenerationConfig
from fusar_klip.models.klip import Klip
from fusar_klip.models.network.klip_network import KlipNetwork
from fusar_klip.models.network.towers import ImageTower
from fusar_klip.models.preprocess import Preprocess
from fusar_klip.models.settings import ModelSettings
from fusar_klip.models.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"
PREPROCESS = "preprocess.json"
TOKENIZER = "tokenizer.json"
GENERATION = "speaks.json"

_ARCHITECTURE = "fusar_klip.architecture"
_IMAGE_RUN = "fusar_klip.image_run"
_IMAGE_PART = "image_tower."


def save_weights(network: KlipNetwork, path: Path) -> None:
    """Write the network's weights (each shared one once) and its architecture, atomically."""
    _save(dict(network.named_parameters()), _ARCHITECTURE, network.settings.model_dump(mode="json"), path)


def save_image_tower(tower: ImageTower, settings: ModelSettings, objective: str, path: Path) -> None:
    """Write an image tower that was trained without texts, by `objective`, atomically."""
    weights = {_IMAGE_PART + name: parameter for name, parameter in tower.named_parameters()}
    about = {"objective": objective, "architecture": settings.model_dump(mode="json")}
    _save(weights, _IMAGE_RUN, about, path)


def _save(weights: Mapping[str, Tensor], key: str, value: Mapping[str, Any], path: Path) -> None:
    state = {name: parameter.detach().contiguous() for name, parameter in weights.items()}
    # One entry: safetensors writes several in a random order, and the same run must give the same bytes.
    about = {key: json.dumps(value, sort_keys=True)}
    with replaced(path) as partial:
        # safetensors makes files readable by the owner only; this one gets the usual mode (umask).
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        save_file(state, partial, about)
        partial.chmod(mode)


def load_checkpoint(run: Path, device: str = "cpu", *, randomly_initialised: bool = False) -> Klip:
    """Return the model of a RUN folder or of one of its safetensors files.

    Args:
        run: The folder or file.
        device: Where it computes.
        randomly_initialised: Initialise the same architecture with seed 0 instead of reading the weights.

    Raises:
        CheckpointError: There is no checkpoint, its training has not ended, or its files do not fit.
    """
    path = _weights_file(run)
    folder = path.parent
    settings, objective = _about(path)
    if objective:
        raise CheckpointError(
            f"{path.parent} was trained on images alone ({objective}) and has no text tower: give a run "
            "whose objective is klip, or start one from it with --set init.image=" + str(path)
        )
    tokenizer = Tokenizer.from_file(folder / TOKENIZER)
    preprocess = Preprocess.from_file(folder / PREPROCESS)
    # The initialisation leaves the caller's random state unchanged.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = KlipNetwork(settings, tokenizer)
    if randomly_initialised:
        return Klip(network, preprocess, tokenizer, device)
    _fill(network, _read(path), path)
    return Klip(network, preprocess, tokenizer, device, GenerationConfig.from_file(folder / GENERATION))


def save_run(model: Klip, folder: Path) -> None:
    """Write the files that `load_checkpoint` reads, the weights last."""
    model.preprocess.save(folder / PREPROCESS)
    model.tokenizer.save(folder / TOKENIZER)
    if model.generation is not None:
        model.generation.save(folder / GENERATION)
    save_weights(model.network, folder / WEIGHTS)


def load_image_tower(
    run: Path, device: str = "cpu", *, randomly_initialised: bool = False
) -> tuple[ImageTower, Preprocess]:
    """Return the image tower of a run of any objective, in evaluation mode, and its preprocessing.

    The arguments are those of `load_checkpoint`.

    Raises:
        CheckpointError: There is no checkpoint, its training has not ended, or its files do not fit.
    """
    path = _weights_file(run)
    settings, _ = _about(path)
    preprocess = Preprocess.from_file(path.parent / PREPROCESS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = ImageTower(settings)
    if not randomly_initialised:
        state = _read(path).items()
        _fill(tower, {k.removeprefix(_IMAGE_PART): v for k, v in state if k.startswith(_IMAGE_PART)}, path)
    return tower.to(device).eval(), preprocess


def image_objective(run: Path) -> str | None:
    """Return the objective of a run that was trained on images alone; None for one with a text tower.

    Raises:
        CheckpointError: There is no checkpoint, its training has not ended, or the file is no checkpoint.
    """
    return _about(_weights_file(run))[1]


def checkpoint_digest(run: Path, *, randomly_initialised: bool = False) -> str:
    """Return 64 hexadecimal digits that change when the model that `load_checkpoint` gives may have changed.

    Raises:
        CheckpointError: There is no checkpoint, its training has not ended, or a file beside it is missing.
    """
    weights = _weights_file(run)
    # These bytes identify models in RESULTS and indexes: do not change them.
    digest = hashlib.sha256(b"untrained:" if randomly_initialised else b"")
    image_only = not (weights.parent / TOKENIZER).is_file() and image_objective(run)
    beside = [PREPROCESS] if image_only else [PREPROCESS, TOKENIZER]
    for file in (weights, *(weights.parent / name for name in beside)):
        if not file.is_file():
            raise CheckpointError(f"{weights.parent} has no {file.name}: give a whole RUN folder")
        digest.update(sha256(file).encode())
    return digest.hexdigest()


def _weights_file(path: Path) -> Path:
    if path.is_dir():
        if not (path / WEIGHTS).is_file():
            raise CheckpointError(
                f"{path} has no {WEIGHTS}: if its training has not ended, continue it with "
                "fusar-klip pretrain --resume"
            )
        return path / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: give a RUN folder made by fusar-klip pretrain")
    return path


def _about(path: Path) -> tuple[ModelSettings, str | None]:
    """Return the header's architecture, and the objective of a run on images alone."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is no safetensors file ({error}): give a RUN folder or file"
        ) from error
    if not about.keys() & {_ARCHITECTURE, _IMAGE_RUN}:
        raise CheckpointError(f"{path} is no FUSAR-KLIP checkpoint: give one made by fusar-klip pretrain")
    try:
        if _ARCHITECTURE in about:
            return validate_settings(ModelSettings, json.loads(about[_ARCHITECTURE])), None
        run = json.loads(about[_IMAGE_RUN])
        return validate_settings(ModelSettings, run["architecture"]), str(run["objective"])
    except (ValueError, KeyError, TypeError, SettingsError) as error:
        raise CheckpointError(f"{path} was made by another version ({error}): train it again") from error


def _read(path: Path) -> dict[str, Tensor]:
    """Return the weights of a file whose header `_about` has checked."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def _fill(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
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
