"""OpenAI's Batch API: requests are uploaded in files and answered within a day, at half the price.

A pass over all tiles collects the requests whose answers are not in the cache. `submit_and_wait` uploads
them, waits, and puts the answers into the cache; the next pass gets one scale further (or one layer, or one
repair). Files and the ids of their batches stay in `DATASET/cache/batches/` until the answers are in the
cache, so that the process after an interrupted one waits for the same batches.
"""

import asyncio
import fcntl
import json
import os
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import httpx2
import openai
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from fusar_klip.errors import DatasetError, ProviderError
from fusar_klip.files import read_json, sha256, write_json
from fusar_klip.llm.answer_cache import AnswerCache
from fusar_klip.llm.client import CachedAnswers
from fusar_klip.llm.limits import Budget, StopFlag
from fusar_klip.llm.openai_chat import OpenAiChat
from fusar_klip.llm.prices import prompt_tokens
from fusar_klip.llm.provider import Completion, DeferredError, EncodedImage, RefusedError, Request
from fusar_klip.llm.settings import LlmSettings

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
# The API takes 50,000 requests and 200 MB a file; a smaller file is uploaded again sooner after a cut.
MAX_REQUESTS_PER_FILE = 50_000
MAX_FILE_BYTES = 90_000_000
_TAG = "fusar_klip"
_ENDED = ("completed", "failed", "expired", "cancelled")
_RETRIES = 8
_DOWNLOADS = 5
_PUTS_PER_COMMIT = 500


class OpenAiBatch(CachedAnswers):
    """Collects requests for batches, and returns answers from the cache only.

    Args:
        provider: Provider whose requests and whose client are used.
        dataset: The data set's folder.
        cache: Cache that the answers are written to.
        budget: Budget in which the cost of collected requests is reserved.
        stop: Ends waiting.
        settings: `batch_poll_s`, and what the cost of a request depends on.

    Raises:
        DatasetError: Another process works on batches of this data set.
    """

    def __init__(
        self,
        provider: OpenAiChat,
        dataset: Path,
        cache: AnswerCache,
        budget: Budget,
        stop: StopFlag,
        settings: LlmSettings,
    ) -> None:
        super().__init__(provider.name, provider.parameters, cache)
        self._provider, self._budget, self._stop, self._settings = provider, budget, stop, settings
        self._folder = dataset / "cache" / "batches"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise DatasetError(
                f"another process works on batches of {dataset}: wait until it ends, then run this again"
            ) from None
        self._file: IO[bytes] | None = None
        self._lines = 0
        self._collected: set[bytes] = set()
        self._held: list[tuple[int, int]] = []
        self._refused: dict[bytes, str] = {}
        self._failure = "its results hold no line for the requests that were sent"

    async def ask(self, request: Request, image: EncodedImage | None, attempt: int) -> Completion:
        """Return the answer if it is in the cache, else collect the request; see `AnswerSource.ask`."""
        key = self._key(request, image, attempt)
        if (answer := self._look_up(key)) is not None:
            return answer
        if key in self._refused:
            raise RefusedError(self._refused[key])
        if key not in self._collected:
            most = (prompt_tokens(request, self._settings), self._provider.max_output_tokens)
            # A request that exceeds the budget now may fit after the others are billed at their real cost.
            if self._budget.try_reserve(*most, batch=True):
                self._held.append(most)
                self._collected.add(key)
                self._collect(key, self._provider.body(request, image.png if image is not None else None))
        raise DeferredError

    async def resume(self) -> None:
        """Wait for the batches of an interrupted process, and drop requests that it had not sent.

        Raises:
            StoppedError: The run ends.
            ProviderError: The server does not answer.
        """
        for partial in self._folder.glob("*.partial"):
            partial.unlink()
        if files := sorted(self._folder.glob("*.jsonl")):
            left = await self._interrupted_batches(files)
            await self._wait_for(left)
            for path in files:
                path.unlink(missing_ok=True)

    async def submit_and_wait(self) -> bool:
        """Submit the collected requests, wait for answers; return whether another pass can get further.

        Raises:
            StoppedError: The run is stopping; the batches stay as they are.
            ProviderError: The server does not answer, or no request got an answer.
        """
        if self._stop or not self._collected:
            return False
        self._close_file()
        before = self.usage.requests + len(self._refused)
        await self._wait_for({path: await self._send(path) for path in sorted(self._folder.glob("*.jsonl"))})
        for most in self._held:
            self._budget.release(*most, batch=True)
        self._held, self._collected = [], set()
        if self.usage.requests + len(self._refused) == before:
            raise ProviderError(
                f"a batch returned no answer ({self._failure}): check the account and the settings"
            )
        return True

    def close(self) -> None:
        """Release the lock on the batches of this data set."""
        if self._file is not None:
            self._file.close()
        self._lock.close()

    def _collect(self, key: bytes, body: dict[str, Any]) -> None:
        request = {"custom_id": key.hex(), "method": "POST", "url": ENDPOINT, "body": body}
        line = json.dumps(request).encode() + b"\n"
        if self._file is not None and (
            self._lines >= MAX_REQUESTS_PER_FILE or self._file.tell() + len(line) > MAX_FILE_BYTES
        ):
            self._close_file()
        if self._file is None:
            self._file, self._lines = (self._folder / "collecting.partial").open("wb"), 0
        self._file.write(line)
        self._lines += 1

    def _close_file(self) -> None:
        """Close the file and name it by a hash of its content, which is also the tag of its batch."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        partial = self._folder / "collecting.partial"
        partial.rename(self._folder / f"{sha256(partial)[:32]}.jsonl")

    async def _send(self, path: Path) -> str:
        with self._client_errors() as client:
            uploaded = await client.files.create(file=path, purpose="batch")
            batch = await client.batches.create(
                input_file_id=uploaded.id,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata={_TAG: path.stem},
            )
        write_json(path.with_suffix(".json"), {"batch": batch.id})
        return batch.id

    async def _interrupted_batches(self, files: list[Path]) -> dict[Path, str]:
        """Return the batches of files; a process may have ended between submitting one and saving its id."""
        known = {p: str(read_json(r)["batch"]) for p in files if (r := p.with_suffix(".json")).exists()}
        unknown = {p.stem: p for p in files if p not in known}
        if unknown:
            with self._client_errors() as client:
                async for batch in client.batches.list(limit=100):
                    tag = (batch.metadata or {}).get(_TAG, "")
                    if tag in unknown and batch.status not in ("failed", "cancelled", "cancelling"):
                        known[unknown.pop(tag)] = batch.id
                    if not unknown:
                        break
        return known

    async def _wait_for(self, batches: dict[Path, str]) -> None:
        while batches:
            for path, batch_id in list(batches.items()):
                with self._client_errors() as client:
                    batch = await client.batches.retrieve(batch_id)
                if batch.status not in _ENDED:
                    continue
                if batch.status != "completed":
                    messages = [error.message for error in (batch.errors.data or [])] if batch.errors else []
                    reasons = "; ".join(filter(None, messages)) or "no reason given"
                    self._failure = f"{batch.status}: {reasons}"
                for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                    await self._import_answers(file_id)
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)
                del batches[path]
            if batches:
                await self._stop.sleep(self._settings.batch_poll_s)

    async def _import_answers(self, file_id: str) -> None:
        """Put the answers of a file into the cache; doing so twice changes nothing."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(httpx2.TransportError),
            stop=stop_after_attempt(_DOWNLOADS),
            wait=wait_exponential_jitter(max=30),
            reraise=True,
        )
        with self._client_errors() as client:
            await retrying(self._download, client, file_id)

    async def _download(self, client: openai.AsyncOpenAI, file_id: str) -> None:
        puts: list[Awaitable[None]] = []
        async with client.files.with_streaming_response.content(file_id) as response:
            async for line in response.iter_lines():
                if (found := self._read_line(line)) is not None:
                    puts.append(self._cache.put(self._name, *found))
                if len(puts) >= _PUTS_PER_COMMIT:
                    await asyncio.gather(*puts)
                    puts.clear()
        await asyncio.gather(*puts)

    def _read_line(self, line: str) -> tuple[bytes, Completion] | None:
        """Return key and answer of a line; None if it holds no answer, which is then requested again."""
        try:
            result = json.loads(line)
            key = bytes.fromhex(result["custom_id"])
            response = result.get("response") or {}
            if (status := response.get("status_code")) == 200:
                answer = self._provider.read(response["body"], batch=True)
                self.usage.add(answer)
                return key, answer
            error = result.get("error") or response.get("body", {}).get("error") or {}
            message = str(error.get("message", "no reason"))[:200]
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
        self._failure = f"a request failed with {status}: {message}"
        if status in (400, 413, 422):
            self._refused[key] = f"the server refused the request ({status}): {message}"
        return None

    @contextmanager
    def _client_errors(self) -> Iterator[openai.AsyncOpenAI]:
        """Yield the client with its own retries on; turn its errors into a ProviderError of one sentence."""
        try:
            yield self._provider.client.with_options(max_retries=_RETRIES)
        except openai.OpenAIError as error:
            failure = self._provider.failure(error)
            if isinstance(failure, ProviderError):
                raise failure from None
            raise ProviderError(
                f"the Batch API fails ({failure}): run the same command again to resume"
            ) from None
        except httpx2.TransportError as error:
            what = type(error).__name__
            raise ProviderError(
                f"the Batch API fails ({what}): run the same command again to resume"
            ) from None
