"""One question to a language model, asked well: from the cache if it was paid for, else within all limits.

Order of things: cache, claim (nobody else asks the same), rate limit, budget, request, and, where that fails
for the moment, again with growing waits; the answer is on disk before anybody sees it.
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
    """Whoever finds answers: `LlmClient` now, `OpenAiBatch` by batches, `DryRunClient` not at all."""

    def known(self, request: Request, image: EncodedImage | None, attempt: int) -> bool:
        """Whether the answer is on disk already."""
        ...

    async def ask(self, request: Request, image: EncodedImage | None, attempt: int) -> Completion:
        """Return the answer to a request; `attempt` tells answers to the same question apart.

        Raises:
            TryAgainError: No answer came for as long as our patience lasts.
            RefusedError: The server refuses this request.
            DeferredError: The answer comes with a batch.
            StoppedError: The run ends, and the request has not been sent.
            FusarKlipError: No request will be answered until the user mends something.
        """
        ...


@dataclass
class Usage:
    """What a run has asked for.

    Attributes:
        requests: Answers that were asked for and came.
        cached: Answers that were there already.
        input_tokens: Tokens of the prompts of `requests`.
        output_tokens: Tokens of their answers.
    """

    requests: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, answer: Completion) -> None:
        """Count an answer that was asked for."""
        self.requests += 1
        self.input_tokens += answer.input_tokens
        self.output_tokens += answer.output_tokens


class Answers:
    """Answers on disk to the questions of one model; what all kinds of `AnswerSource` start from.

    Attributes:
        usage: What the run has asked for so far.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any], cache: AnswerCache) -> None:
        self._name, self._parameters, self._cache = name, parameters, cache
        self.usage = Usage()

    def known(self, request: Request, image: EncodedImage | None, attempt: int) -> bool:
        """Whether the answer is on disk already."""
        return self._cache.get(self._key(request, image, attempt)) is not None

    def _key(self, request: Request, image: EncodedImage | None, attempt: int) -> bytes:
        return answer_key(self._name, self._parameters, request, image, attempt)

    def _look_up(self, key: bytes) -> Completion | None:
        answer = self._cache.get(key)
        self.usage.cached += answer is not None
        return answer


class LlmClient(Answers):
    """Asks one provider on behalf of one data set."""

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
        """Return the seconds until the next try: what the server asks for, else 1, 2, 4, ... with jitter."""
        failure = state.outcome.exception() if state.outcome else None
        doubled = self._settings.retry_wait_s * 2.0 ** min(state.attempt_number - 1, 10)
        wait_s = min(doubled, _MAX_WAIT_S) * random.uniform(0.5, 1.5)
        if isinstance(failure, TryAgainError) and failure.retry_after_s is not None:
            # All who were told the same do not come back at the same moment.
            wait_s = failure.retry_after_s + random.uniform(0, min(wait_s, 1.0))
        if isinstance(failure, TryAgainError) and failure.overloaded:
            self._rate.pause(failure.retry_after_s if failure.retry_after_s is not None else wait_s)
        return wait_s


class DryRunClient(Answers):
    """Answers from the disk, and else with a stand-in: counts what a run would ask for, and asks nobody."""

    def __init__(
        self, name: str, parameters: Mapping[str, Any], cache: AnswerCache, settings: LlmSettings
    ) -> None:
        super().__init__(name, parameters, cache)
        self._settings = settings

    async def ask(self, request: Request, image: EncodedImage | None, attempt: int) -> Completion:
        """Return a usable answer of usual length."""
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
