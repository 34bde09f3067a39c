"""Finds the files of foreign weights and reads their tensors, and nothing but tensors (`weights_only`).

A source is a file, a folder, or OWNER/NAME or OWNER/NAME/FILE on the Hugging Face hub. `key_layouts` knows
the names of the tensors.
"""

import argparse
import json
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor

from fusar_klip.errors import CheckpointError

_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar"})
_WHOLE = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_BESIDE = ("*.json", "*.txt", "*.txt.gz")
# A language model is many times larger than the image tower in one of its shards.
_IMAGE_PART = "vision_model."

_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)


def find_files(source: str) -> list[Path]:
    """Return the weight files of a source, all in one folder, which may also hold a vocabulary.

    Raises:
        CheckpointError: There is no such file, folder or hub name, or the folder holds several weight files.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _of_folder(path)
    return _of_hub(source)


def read_tensors(files: list[Path]) -> dict[str, Tensor]:
    """Return all tensors as stored, by their names without "module."; of shards, only the image tower's.

    Training states are read too: the tensors are those of "model" or "state_dict" in them.

    Raises:
        CheckpointError: A file is damaged, holds other objects than tensors, or is a TorchScript archive.
    """
    state: dict[str, Tensor] = {}
    for file in files:
        if _is_torchscript(file):
            raise CheckpointError(
                f"{file} is a TorchScript archive, which holds code: convert it once with "
                f'torch.save(torch.jit.load("{file.name}", map_location="cpu").state_dict(), "weights.pt"), '
                "and give weights.pt"
            )
        try:
            # Training states of MAE, ALBEF and BLIP hold the command line beside the weights; it is not run.
            with torch.serialization.safe_globals([argparse.Namespace]):
                found = load_state_dict(str(file), weights_only=True)
        except _UNREADABLE as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(
                f"{file} cannot be read as weights alone ({reason}): give the project's .pt, .pth or "
                ".safetensors file, whole"
            ) from error
        state |= {
            key: value
            for key, value in found.items()
            if isinstance(value, Tensor) and (len(files) == 1 or _IMAGE_PART in key)
        }
    return state


def _of_folder(folder: Path) -> list[Path]:
    for name in _WHOLE:
        if (folder / name).is_file():
            return [folder / name]
    for name in _INDEXES:
        if (folder / name).is_file():
            return _parts(folder / name)
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    if len(files) != 1:
        there = ", ".join(file.name for file in files[:5]) or "none"
        raise CheckpointError(f"{folder} has {len(files)} weight files ({there}): give the path of one file")
    return files


def _parts(index: Path) -> list[Path]:
    """Return the shards that hold the image tower."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        parts = sorted({index.parent / file for key, file in names.items() if _IMAGE_PART in key})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards: download the folder again") from error
    if not parts:
        raise CheckpointError(
            f"{index.parent} holds no image tower (no name with {_IMAGE_PART}): give the folder of the image "
            "tower that its project started from"
        )
    if gone := [part.name for part in parts if not part.is_file()]:
        raise CheckpointError(f"{index.parent} lacks {gone[0]}: download the whole folder")
    return parts


def _of_hub(source: str) -> list[Path]:
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    if not name or source.startswith((".", "/", "~")):
        raise CheckpointError(
            f"no weights at {source}: give a file, a folder, or a hub's OWNER/NAME or OWNER/NAME/FILE"
        )
    try:
        if not file:
            return _of_folder(Path(snapshot_download(f"{owner}/{name}")))
        # Vocabulary and configuration come along.
        snapshot_download(f"{owner}/{name}", allow_patterns=[*_BESIDE])
        return [Path(hf_hub_download(f"{owner}/{name}", file))]
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"no weights at {source}, neither here nor on the hub ({reason}): download them and give the file"
        ) from error


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
