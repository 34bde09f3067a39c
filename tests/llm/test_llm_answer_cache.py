"""Answers on disk."""

import asyncio
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.llm import Completion, EncodedImage, Request
from fusar_klip.llm.answer_cache import AnswerCache, answer_key

REQUEST = Request("system", (("user", "a"), ("assistant", "b")), "question", {"type": "object"}, None, True)
IMAGE = EncodedImage(b"png", "digest")


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    st.integers(0, 1 << 30),
    st.integers(0, 1 << 30),
    st.booleans(),
)
def test_what_is_put_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, text: str, input_tokens: int, output_tokens: int, batch: bool
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    answer = Completion(text, input_tokens, output_tokens, batch)
    cache = AnswerCache(folder)
    assert cache.get(b"k" * 32) is None
    asyncio.run(cache.put("m", b"k" * 32, answer))
    cache.close()
    reopened = AnswerCache(folder)
    assert reopened.get(b"k" * 32) == answer
    assert list(reopened.used("m")) == [(batch, input_tokens, output_tokens)]
    assert list(reopened.used("other")) == []
    reopened.close()


def test_the_same_answer_twice_is_billed_once(cache: AnswerCache) -> None:
    async def run() -> None:
        await asyncio.gather(*(cache.put("m", bytes([i % 3]) * 32, Completion("t", 10, 1)) for i in range(9)))
        await cache.put("m", None, Completion("", 5, 5))

    asyncio.run(run())
    assert list(cache.used("m")) == [(False, 35, 8)]


CHANGES: dict[str, Callable[[], bytes]] = {
    "model": lambda: answer_key("other", {}, REQUEST, IMAGE),
    "parameters": lambda: answer_key("m", {"temperature": 1.0}, REQUEST, IMAGE),
    "system": lambda: answer_key("m", {}, replace(REQUEST, system="x"), IMAGE),
    "history": lambda: answer_key("m", {}, replace(REQUEST, history=()), IMAGE),
    "user": lambda: answer_key("m", {}, replace(REQUEST, user="x"), IMAGE),
    "schema": lambda: answer_key("m", {}, replace(REQUEST, schema=None), IMAGE),
    "picture": lambda: answer_key("m", {}, REQUEST, EncodedImage(b"png", "other")),
    "no picture": lambda: answer_key("m", {}, REQUEST, None),
    "attempt": lambda: answer_key("m", {}, REQUEST, IMAGE, 1),
    # What stands in one place is not the same as in another.
    "moved": lambda: answer_key("m", {}, replace(REQUEST, system="", user="systemquestion"), IMAGE),
}


def test_whatever_decides_the_answer_is_in_the_key() -> None:
    keys = [answer_key("m", {}, REQUEST, IMAGE), *(change() for change in CHANGES.values())]
    assert len(set(keys)) == len(keys)
    assert keys[0] == answer_key("m", {}, replace(REQUEST), EncodedImage(b"png", "digest"))


def _claim_for_a_while(folder: str, claimed: "multiprocessing.synchronize.Event") -> None:
    async def run() -> None:
        cache = AnswerCache(Path(folder))
        async with cache.claim(b"k" * 32):
            claimed.set()
            await asyncio.sleep(60)

    asyncio.run(run())


def test_a_claim_holds_between_processes_and_dies_with_its_process(
    cache: AnswerCache, tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    claimed = spawn.Event()
    process = spawn.Process(target=_claim_for_a_while, args=(str(tmp_path), claimed))
    process.start()
    assert claimed.wait(60)

    async def taken(key: bytes, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), cache.claim(key):
                return True
        except TimeoutError:
            return False

    assert not asyncio.run(taken(b"k" * 32, 0.3))
    assert asyncio.run(taken(b"j" * 32, 0.3))
    process.kill()
    process.join()
    assert asyncio.run(taken(b"k" * 32, 10.0))
    process.close()


def test_a_claim_holds_between_tasks(cache: AnswerCache) -> None:
    inside = most = 0

    async def work() -> None:
        nonlocal inside, most
        async with cache.claim(b"k" * 32):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    async def run() -> None:
        await asyncio.gather(work(), work(), work())

    asyncio.run(run())
    assert most == 1
