"""Rate limits, the stop flag and the budget."""

import asyncio

import pytest

from fusar_klip.errors import BudgetError
from fusar_klip.llm import Completion
from fusar_klip.llm.answer_cache import AnswerCache
from fusar_klip.llm.limits import Budget, RateLimit, StopFlag, StoppedError, _TokenBucket
from fusar_klip.llm.prices import Price


def test_a_bucket_spreads_what_is_taken() -> None:
    bucket = _TokenBucket(per_minute=120)  # two a second
    assert [bucket.take(1, now=100.0) for _ in range(5)] == [100.0, 100.0, 100.0, 100.5, 101.0]
    assert bucket.take(10, now=200.0) == 200.0
    assert bucket.take(1, now=200.0) == 204.0


def test_a_stop_ends_every_wait() -> None:
    async def run() -> float:
        loop, stop = asyncio.get_running_loop(), StopFlag()
        rate = RateLimit(1, None)
        rate.pause(60.0)
        loop.call_later(0.05, stop.set, ValueError("first"))
        loop.call_later(0.06, stop.set, ValueError("second"))
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
