"""A tiny RUN with random weights."""

from collections.abc import Callable

import pytest

from small_run import write_run


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return a function that makes a RUN folder with random weights of a seed."""

    def make(seed: int = 1, name: str = "run") -> str:
        return write_run(tmp_path_factory.mktemp("runs") / name, seed)

    return make


@pytest.fixture(scope="session")
def run(make_run: Callable[..., str]) -> str:
    """A RUN folder."""
    return make_run()
