"""Fixtures of the tests of `pretrain`: a small data set, and a model that learns it in seconds."""

from collections.abc import Callable

import pytest

from blob_dataset import blobs, one_thread, write_blobs
from fusar_klip.config import validate_settings
from fusar_klip.pretrain import PretrainSettings

__all__ = ["blobs", "one_thread", "write_blobs"]

NANO = {
    "image_size": 32,
    "patch_size": 8,
    "image_width": 32,
    "image_depth": 1,
    "image_heads": 2,
    "text_width": 32,
    "text_depth": 1,
    "text_heads": 2,
    "embed_dim": 16,
    "max_tokens": 64,
}


@pytest.fixture(scope="session")
def nano_settings() -> Callable[..., PretrainSettings]:
    """Settings of a model that learns in seconds; keywords replace top-level keys."""

    def make(**changes: object) -> PretrainSettings:
        values: dict[str, object] = {
            "model": "tiny",
            "architecture": NANO,
            "texts": {"vocab_size": 256},
            "contrast": {"queue": 50, "momentum": 0.9},
            "optimizer": {"lr": 2e-3, "warmup_steps": 5},
            "batch_size": 8,
            "epochs": 2,
            "log_every": 1,
            "validate_every": 4,
            "save_every": 3,
            "device": "cpu",
        }
        return validate_settings(PretrainSettings, values | changes)

    return make
