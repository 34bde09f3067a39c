"""Limits of a run: requests and tokens per minute, pauses that a server asks for, and the budget.

Times are those of the event loop's monotonic clock, which changes of the system time do not affect.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fusar_klip.errors import BudgetError
from fusar_klip.llm.answer_cache import AnswerCache
from fusar_klip.llm.prices import Price


class StoppedError(Exception):
    """The run is stopping: no new request is sent, and those in flight are waited for."""


class StopFlag:
    """Whether the run has to stop, and why; its sleeps end when it is set."""

    def __init__(self) -> None:
        self.reason: BaseException | None = None
        self._raised = asyncio.Event()

    def __bool__(self) -> bool:
        return self._raised.is_set()

    def set(self, reason: BaseException) -> None:
        """Stop the run; the first reason is kept."""
        self.reason = self.reason or reason
        self._raised.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep.

        Raises:
            StoppedError: The flag is set, before or during the sleep.
        """
        if not self:
            try:
                await asyncio.wait_for(self._raised.wait(), seconds)
            except TimeoutError:
                return
        raise StoppedError


class RateLimit:
    """Requests and tokens per minute, spread evenly, and pauses that the server asks for."""

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._buckets = [
            _TokenBucket(limit) if limit else None for limit in (requests_per_minute, tokens_per_minute)
        ]
        self._paused_until = 0.0

    async def wait(self, tokens: int, stop: StopFlag) -> None:
        """Wait until a request of `tokens` tokens may be sent.

        Raises:
            StoppedError: The run is stopping.
        """
        now = _now()
        due = [b.take(amount, now) for b, amount in zip(self._buckets, (1, tokens), strict=True) if b]
        until = max(due, default=now)
        while (left := max(until, self._paused_until) - _now()) > 0:
            await stop.sleep(left)

    def pause(self, seconds: float) -> None:
        """Send no request for `seconds`."""
        self._paused_until = max(self._paused_until, _now() + seconds)


class _TokenBucket:
    """A token bucket with a capacity of one second; a request that takes more than it holds waits."""

    def __init__(self, per_minute: int) -> None:
        self._a_second = per_minute / 60
        self._free_at = 0.0

    def take(self, amount: float, now: float) -> float:
        """Take `amount`, and return the time from which it may be used."""
        start = max(self._free_at, now - 1.0)
        self._free_at = start + amount / self._a_second
        return max(start, now)


class Budget:
    """The cost of all answers of one model for one data set, and its limit.

    The cost of all past answers is in the cache, those of other processes included. Requests in flight of
    another process are not counted.
    """

    def __init__(self, cache: AnswerCache, name: str, price: Price | None, budget_usd: float | None) -> None:
        self._cache, self._name, self._price, self._budget_usd = cache, name, price, budget_usd
        self._reserved_usd = 0.0
        self._changed = asyncio.Condition()

    def spent_usd(self) -> float | None:
        """Return the cost of all answers so far, in US dollars; None if the price is not known."""
        if self._price is None:
            return None
        return sum(
            self._price.usd(input_tokens, output_tokens, batch=batch)
            for batch, input_tokens, output_tokens in self._cache.used(self._name)
        )

    @asynccontextmanager
    async def reserve(self, input_tokens: int, output_tokens: int) -> AsyncIterator[None]:
        """Reserve the maximum cost of a request while it is in flight; wait until the budget has room for it.

        Raises:
            BudgetError: It could exceed the budget even with nothing else in flight.
        """
        async with self._changed:
            while not self.try_reserve(input_tokens, output_tokens):
                await self._changed.wait()
        try:
            yield
        finally:
            self.release(input_tokens, output_tokens)
            async with self._changed:
                self._changed.notify_all()

    def try_reserve(self, input_tokens: int, output_tokens: int, *, batch: bool = False) -> bool:
        """Reserve the maximum cost of a request; return False if the budget has no room for it now.

        Raises:
            BudgetError: Nothing else is reserved, so the budget will never have room.
        """
        most_usd = self._usd(input_tokens, output_tokens, batch)
        if self._budget_usd is not None:
            spent_usd = self.spent_usd() or 0.0
            if spent_usd + self._reserved_usd + most_usd > self._budget_usd:
                # Rounding errors of float sums and differences.
                if self._reserved_usd < 1e-12:
                    spent = f"{spent_usd:.4f} USD spent, the next request may cost {most_usd:.4f}"
                    raise BudgetError(
                        f"the budget of {self._budget_usd:g} USD is used up ({spent}): run the same command "
                        "with a higher --budget to resume"
                    )
                return False
        self._reserved_usd += most_usd
        return True

    def release(self, input_tokens: int, output_tokens: int, *, batch: bool = False) -> None:
        """Release what `try_reserve` has reserved."""
        self._reserved_usd -= self._usd(input_tokens, output_tokens, batch)

    def _usd(self, input_tokens: int, output_tokens: int, batch: bool) -> float:
        return 0.0 if self._price is None else self._price.usd(input_tokens, output_tokens, batch=batch)


def _now() -> float:
    return asyncio.get_running_loop().time()
