"""Limits on what a run sends: requests and tokens a minute, pauses that a server asks for, and money.

Times are those of the monotonic clock, so that a clock that is set meanwhile changes nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fusar_klip.errors import BudgetError
from fusar_klip.llm.answer_cache import AnswerCache
from fusar_klip.llm.prices import Price


class StoppedError(Exception):
    """The run ends: nothing new is sent, what is in flight is waited for."""


class StopFlag:
    """Whether the run is to end, and why; sleeps that end when it is."""

    def __init__(self) -> None:
        self.reason: BaseException | None = None
        self._raised = asyncio.Event()

    def __bool__(self) -> bool:
        return self._raised.is_set()

    def set(self, reason: BaseException) -> None:
        """End the run; the first reason stands."""
        self.reason = self.reason or reason
        self._raised.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep.

        Raises:
            StoppedError: The run ends, now or meanwhile.
        """
        if not self:
            try:
                await asyncio.wait_for(self._raised.wait(), seconds)
            except TimeoutError:
                return
        raise StoppedError


class RateLimit:
    """At most so many requests and tokens a minute, spread evenly; and none while the server is to rest."""

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._buckets = [
            _TokenBucket(limit) if limit else None for limit in (requests_per_minute, tokens_per_minute)
        ]
        self._paused_until = 0.0

    async def wait(self, tokens: int, stop: StopFlag) -> None:
        """Wait until a request of so many tokens may be sent.

        Raises:
            StoppedError: The run ends meanwhile.
        """
        now = _now()
        due = [b.take(amount, now) for b, amount in zip(self._buckets, (1, tokens), strict=True) if b]
        until = max(due, default=now)
        while (left := max(until, self._paused_until) - _now()) > 0:
            await stop.sleep(left)

    def pause(self, seconds: float) -> None:
        """Send nothing for so long."""
        self._paused_until = max(self._paused_until, _now() + seconds)


class _TokenBucket:
    """Fills evenly up to a second's worth; a request that takes more than there is waits for its turn."""

    def __init__(self, per_minute: int) -> None:
        self._a_second = per_minute / 60
        self._free_at = 0.0

    def take(self, amount: float, now: float) -> float:
        """Take `amount`, and return the time from which on it may be used."""
        start = max(self._free_at, now - 1.0)
        self._free_at = start + amount / self._a_second
        return max(start, now)


class Budget:
    """What the answers of one model for one data set have cost, and what they may cost in all.

    The cost of everything that was ever answered stands in the cache, other processes' answers included. Two
    processes at work at the same time do not see what the other has in flight.
    """

    def __init__(self, cache: AnswerCache, name: str, price: Price | None, budget_usd: float | None) -> None:
        self._cache, self._name, self._price, self._budget_usd = cache, name, price, budget_usd
        self._reserved_usd = 0.0
        self._changed = asyncio.Condition()

    def spent_usd(self) -> float | None:
        """Return what all answers have cost so far; None where the price is not known."""
        if self._price is None:
            return None
        return sum(
            self._price.usd(input_tokens, output_tokens, batch=batch)
            for batch, input_tokens, output_tokens in self._cache.used(self._name)
        )

    @asynccontextmanager
    async def reserve(self, input_tokens: int, output_tokens: int) -> AsyncIterator[None]:
        """Set aside the most that a request can cost while it is in flight; wait until there is room for it.

        Raises:
            BudgetError: Even with nothing else in flight it could go over the budget.
        """
        async with self._changed:
            while not self.hold(input_tokens, output_tokens):
                await self._changed.wait()
        try:
            yield
        finally:
            self.release(input_tokens, output_tokens)
            async with self._changed:
                self._changed.notify_all()

    def hold(self, input_tokens: int, output_tokens: int, *, batch: bool = False) -> bool:
        """Set aside the most that a request can cost; return False where there is no room for it now.

        Raises:
            BudgetError: Nothing else is set aside, so there will never be room.
        """
        most_usd = self._usd(input_tokens, output_tokens, batch)
        if self._budget_usd is not None:
            spent_usd = self.spent_usd() or 0.0
            if spent_usd + self._reserved_usd + most_usd > self._budget_usd:
                # Sums and differences of floats leave a rest.
                if self._reserved_usd < 1e-12:
                    spent = f"{spent_usd:.4f} USD spent, the next request may cost {most_usd:.4f}"
                    raise BudgetError(
                        f"the budget of {self._budget_usd:g} USD is used up ({spent}): with a higher "
                        "--budget the same command goes on from here"
                    )
                return False
        self._reserved_usd += most_usd
        return True

    def release(self, input_tokens: int, output_tokens: int, *, batch: bool = False) -> None:
        """Give back what `hold` has set aside."""
        self._reserved_usd -= self._usd(input_tokens, output_tokens, batch)

    def _usd(self, input_tokens: int, output_tokens: int, batch: bool) -> float:
        return 0.0 if self._price is None else self._price.usd(input_tokens, output_tokens, batch=batch)


def _now() -> float:
    return asyncio.get_running_loop().time()
