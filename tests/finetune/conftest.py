"""A tiny run, and a class-folder data set that a head can learn."""

from pathlib import Path

import pytest

from small_run import write_chips, write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A RUN folder."""
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="session")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 classes, 12 training and 6 test images each, in groups of two."""
    return write_chips(tmp_path_factory.mktemp("data")) / "chips"
