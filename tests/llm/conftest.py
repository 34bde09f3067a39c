"""A tiny local model, and a cache of answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fusar_klip.llm.answer_cache import AnswerCache
from tiny_llava import save_tiny_llava


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    cache = AnswerCache(tmp_path)
    yield cache
    cache.close()


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return save_tiny_llava(tmp_path_factory.mktemp("tiny-llava"))
