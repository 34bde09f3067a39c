"""Answers on disk, limits and prices."""

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.errors import BudgetError
from fusar_klip.llm import Completion, EncodedImage, Request
from fusar_klip.llm.answer_cache import AnswerCache, answer_key
from fusar_klip.llm.limits import Budget, RateLimit, StopFlag, StoppedError, _Bucket
from fusar_klip.llm.prices import Price, image_tokens, price_of
from fusar_klip.texts import DescribeSettings

REQUEST = Request("system", (("user", "a"), ("assistant", "b")), "question", {"type": "object"}, None, True)
PICTURE = EncodedImage(b"png", "digest")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    cache = AnswerCache(tmp_path)
    yield cache
    cache.close()


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
    "model": lambda: answer_key("other", {}, REQUEST, PICTURE),
    "parameters": lambda: answer_key("m", {"temperature": 1.0}, REQUEST, PICTURE),
    "system": lambda: answer_key("m", {}, replace(REQUEST, system="x"), PICTURE),
    "history": lambda: answer_key("m", {}, replace(REQUEST, history=()), PICTURE),
    "user": lambda: answer_key("m", {}, replace(REQUEST, user="x"), PICTURE),
    "schema": lambda: answer_key("m", {}, replace(REQUEST, schema=None), PICTURE),
    "picture": lambda: answer_key("m", {}, REQUEST, EncodedImage(b"png", "other")),
    "no picture": lambda: answer_key("m", {}, REQUEST, None),
    "attempt": lambda: answer_key("m", {}, REQUEST, PICTURE, 1),
    # What stands in one place is not the same as in another.
    "moved": lambda: answer_key("m", {}, replace(REQUEST, system="", user="systemquestion"), PICTURE),
}


def test_whatever_decides_the_answer_is_in_the_key() -> None:
    keys = [answer_key("m", {}, REQUEST, PICTURE), *(change() for change in CHANGES.values())]
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


def test_a_bucket_spreads_what_is_taken() -> None:
    bucket = _Bucket(per_minute=120)  # two a second
    assert [bucket.take(1, now=100.0) for _ in range(5)] == [100.0, 100.0, 100.0, 100.5, 101.0]
    assert bucket.take(10, now=200.0) == 200.0
    assert bucket.take(1, now=200.0) == 204.0


def test_a_stop_ends_every_wait() -> None:
    async def run() -> float:
        loop, stop = asyncio.get_running_loop(), StopFlag()
        rate = RateLimit(1, None)
        rate.rest(60.0)
        loop.call_later(0.05, stop.raise_, ValueError("first"))
        loop.call_later(0.06, stop.raise_, ValueError("second"))
        began = loop.time()
        with pytest.raises(StoppedError):
            await rate.wait(1, stop)
        await asyncio.sleep(0.05)
        assert str(stop.reason) == "first"
        return loop.time() - began

    assert asyncio.run(run()) < 5.0


def test_a_reservation_waits_for_another_and_then_fits(cache: AnswerCache) -> None:
    budget = Budget(cache, "m", Price(1e6, 0.0, 0.5), budget_usd=10.0)  # a dollar a token
    order = []

    async def request(name: str, most: int, real: int) -> None:
        async with budget.reserve(most, 0):
            order.append(name)
            await asyncio.sleep(0.02)
            await cache.put("m", name.encode() * 32, Completion("", real, 0))

    async def run() -> None:
        await asyncio.gather(request("a", 6, 3), request("b", 6, 3))
        assert budget.spent_usd() == 6.0
        with pytest.raises(BudgetError, match=r"10 USD"):
            await request("c", 5, 1)
        await request("d", 4, 4)

    asyncio.run(run())
    assert order == ["a", "b", "d"]
    assert budget.spent_usd() == 10.0


def settings(**changes: object) -> DescribeSettings:
    return DescribeSettings.model_validate({"provider": "openai"} | changes)


@pytest.mark.parametrize(
    ("model", "input_usd"),
    [
        ("gpt-4.1", 2.0),
        ("gpt-4.1-2025-04-14", 2.0),
        ("gpt-4.1-mini-2025-04-14", 0.4),
        ("openai/gpt-4o-mini", 0.15),
        ("GPT-4.1", 2.0),
        ("gpt-4.12", None),
        ("my-gpt-4.1", None),
        (None, None),
    ],
)
def test_price_by_name(model: str | None, input_usd: float | None) -> None:
    price = price_of(settings(model=model))
    assert (price.input_usd if price else None) == input_usd


def test_prices_of_ones_own() -> None:
    assert price_of(settings(model="mine", input_usd=1.0)) is None
    price = price_of(settings(model="mine", input_usd=1.0, output_usd=2.0))
    assert price is not None
    assert price.usd(1_000_000, 500_000) == 2.0
    assert price.usd(1_000_000, 500_000, batch=True) == 1.0


@pytest.mark.parametrize(
    ("model", "image_px", "tokens"),
    [("gpt-4.1", 512, 255), ("gpt-4.1", 768, 765), ("gpt-4.1-mini", 512, 415), ("gemini-2.5-pro", 512, 258)],
)
def test_tokens_of_a_picture(model: str, image_px: int, tokens: int) -> None:
    assert image_tokens(settings(model=model, image_px=image_px)) == tokens
