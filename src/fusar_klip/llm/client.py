"""Sends requests to a language model through the cache, within rate limits and budget, with retries.

Steps of a request: look it up in the cache; claim it, so that no other process sends the same; wait for the
rate
limit; reserve its cost in the budget; send it, with growing waits between retries; write the answer to the
cache before returning it.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay

from fusar_klip.llm.answer_cache import AnswerCache, answer_key
from fusar_klip.llm.limits import Budget, RateLimit, StopFlag
from fusar_klip.llm.prices import prompt_tokens, text_tokens
from fusar_klip.llm.provider import Completion, EncodedImage, Provider, Request, TryAgainError
from fusar_klip.llm.settings import LlmSettings

_MAX_WAIT_S = 60.0


class AnswerSource(Protocol):
    """A source of answers: `LlmClient` at once, `OpenAiBatch` by batches, `DryRunClient` with stand-ins."""

    def known(self, request: Request, image: EncodedImage | None, attempt: int) -> bool:
        """Return whether the answer is in the cache."""
        ...

    async def ask(self, request: Request, image: EncodedImage | None, attempt: int) -> Completion:
        """Return the answer to a request; `attempt` numbers different answers to the same request.

        Raises:
            TryAgainError: No answer came within `patience_s`.
            RefusedError: The server refuses this request.
            DeferredError: The answer comes with a later batch.
            StoppedError: The run is stopping, and the request has not been sent.
            FusarKlipError: No request can succeed until the user fixes the configuration or the server.
        """
        ...


@dataclass
class Usage:
    """Requests and tokens of a run.

    Attributes:
        requests: Requests that were sent and answered.
        cached: Answers that came from the cache.
        input_tokens: Tokens of the prompts of `requests`.
        output_tokens: Tokens of the answers to `requests`.
    """

    requests: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, answer: Completion) -> None:
        """Count an answer to a request that was sent."""
        self.requests += 1
        self.input_tokens += answer.input_tokens
        self.output_tokens += answer.output_tokens


class CachedAnswers:
    """The cached answers of one model; base of all kinds of `AnswerSource`.

    Attributes:
        usage: Requests and tokens of the run so far.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any], cache: AnswerCache) -> None:
        self._name, self._parameters, self._cache = name, parameters, cache
        self.usage = Usage()

    def known(self, request: Request, image: EncodedImage | None, attempt: int) -> bool:
        """Return whether the answer is in the cache."""
        return self._cache.get(self._key(request, image, attempt)) is not None

    def _key(self, request: Request, image: EncodedImage | None, attempt: int) -> bytes:
        return answer_key(self._name, self._parameters, request, image, attempt)

    def _look_up(self, key: bytes) -> Completion | None:
        answer = self._cache.get(key)
        self.usage.cached += answer is not None
        return answer


class LlmClient(CachedAnswers):
    """Sends the requests of one data set to one provider; see the module's docstring."""

    def __init__(
        self,
        provider: Provider,
        cache: AnswerCache,
        budget: Budget,
        stop: StopFlag,
        settings: LlmSettings,
    ) -> None:
        super().__init__(provider.name, provider.parameters, cache)
        self._provider, self._budget, self._stop, self._settings = provider, budget, stop, settings
        self._rate = RateLimit(settings.requests_per_minute, settings.tokens_per_minute)

    async def ask(self, request: Request, image: EncodedImage | None, attempt: int) -> Completion:
        """Return the answer to a request; see `AnswerSource.ask`."""
        key = self._key(request, image, attempt)
        if (answer := self._look_up(key)) is not None:
            return answer
        async with self._cache.claim(key):
            if (answer := self._look_up(key)) is not None:
                return answer
            answer = await self._ask_with_retries(request, image, key)
        self.usage.add(answer)
        return answer

    async def _ask_with_retries(self, request: Request, image: EncodedImage | None, key: bytes) -> Completion:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(TryAgainError),
            stop=stop_after_delay(self._settings.patience_s),
            wait=self._wait,
            sleep=self._stop.sleep,
            reraise=True,
        )
        return await retrying(self._ask_once, request, image, key)

    async def _ask_once(self, request: Request, image: EncodedImage | None, key: bytes) -> Completion:
        tokens, most = prompt_tokens(request, self._settings), self._provider.max_output_tokens
        await self._rate.wait(tokens + most, self._stop)
        async with self._budget.reserve(tokens, most):
            try:
                answer = await self._provider.complete(request, image.png if image is not None else None)
            except TryAgainError as failure:
                if failure.maybe_billed:
                    await self._cache.put(self._provider.name, None, Completion("", tokens, most))
                raise
            await self._cache.put(self._provider.name, key, answer)
        return answer

    def _wait(self, state: RetryCallState) -> float:
        """Return the seconds until the next try: the server's Retry-After, else 1, 2, 4, ... with jitter."""
        failure = state.outcome.exception() if state.outcome else None
        doubled = self._settings.retry_wait_s * 2.0 ** min(state.attempt_number - 1, 10)
        wait_s = min(doubled, _MAX_WAIT_S) * random.uniform(0.5, 1.5)
        if isinstance(failure, TryAgainError) and failure.retry_after_s is not None:
            # Jitter, so that requests with the same Retry-After do not all return at the same moment.
            wait_s = failure.retry_after_s + random.uniform(0, min(wait_s, 1.0))
        if isinstance(failure, TryAgainError) and failure.overloaded:
            self._rate.pause(failure.retry_after_s if failure.retry_after_s is not None else wait_s)
        return wait_s


class DryRunClient(CachedAnswers):
    """Counts the requests and tokens of a run and sends none; answers from the cache or with a stand-in."""

    def __init__(
        self, name: str, parameters: Mapping[str, Any], cache: AnswerCache, settings: LlmSettings
    ) -> None:
        super().__init__(name, parameters, cache)
        self._settings = settings

    async def ask(self, request: Request, image: EncodedImage | None, attempt: int) -> Completion:
        """Return the cached answer, else a valid answer of usual length."""
        if (answer := self._look_up(self._key(request, image, attempt))) is not None:
            return answer
        text = json.dumps(_stand_in(request.schema))
        answer = Completion(text, prompt_tokens(request, self._settings), text_tokens(len(text)))
        self.usage.add(answer)
        return answer


def _stand_in(schema: Mapping[str, Any] | None) -> Any:
    """Return a value that fits a schema of objects and strings, with sentences of usual length."""
    if schema is None or schema["type"] != "object":
        return "A sentence of the usual length stands here for what a model would say of this tile."
    return {name: _stand_in(inner) for name, inner in schema["properties"].items()}
