"""Any server that speaks the OpenAI chat protocol: OpenAI, Gemini, xAI, Qwen, vLLM, Ollama, llama.cpp.

The official client sends the request, with its own retries off (`client.py` retries). This module reads the
body of the response, because an endless, truncated or non-JSON body must not count as a paid answer.
"""

import asyncio
import base64
import email.utils
import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from fusar_klip.errors import ProviderError, SettingsError
from fusar_klip.llm.prices import prompt_chars, text_tokens
from fusar_klip.llm.provider import MAX_ANSWER_CHARS, Completion, RefusedError, Request, TryAgainError
from fusar_klip.llm.settings import LlmSettings

# A usual answer has some 10 kB. A longer body is cut off here.
_MAX_BODY_BYTES = 4 << 20
# Times `timeout_s`: a server that sends single bytes never exceeds the timeout of one read.
_WHOLE_ANSWER_TIMEOUTS = 4.0
# Longer waits mean a daily quota; the user runs the command again after it.
MAX_RETRY_AFTER_S = 600.0
_LOCAL = ("localhost", "127.0.0.1", "::1")
_OPENAI = "api.openai.com"


class OpenAiChat:
    """`POST /chat/completions`, one `Request` per HTTP request.

    Attributes:
        client: The official client.
    """

    def __init__(self, settings: LlmSettings) -> None:
        """Check the address and read the API key; no connection is opened.

        Raises:
            SettingsError: No model is named, or the server's address is wrong.
            ProviderError: There is no key in the environment.
        """
        _check_address(settings.base_url)
        self.name = model_name(settings)
        self.parameters: Mapping[str, Any] = chat_parameters(settings)
        self.max_output_tokens = settings.max_output_tokens
        self._settings = settings
        self._key = api_key(settings)
        self.client = open_client(settings, self._key)

    async def complete(self, request: Request, png: bytes | None) -> Completion:
        """Send one request; see `Provider.complete`."""
        try:
            async with (
                asyncio.timeout(_WHOLE_ANSWER_TIMEOUTS * self._settings.timeout_s),
                self.client.chat.completions.with_streaming_response.create(
                    **self.body(request, png)
                ) as response,
            ):
                content = await _read(response)
        except TimeoutError:
            raise TryAgainError("the answer did not end", maybe_billed=True) from None
        except openai.OpenAIError as error:
            raise self.failure(error) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise TryAgainError(f"the connection broke ({type(error).__name__})", maybe_billed=True) from None
        return read_completion(content, prompt_chars(request), self._key)

    def body(self, request: Request, png: bytes | None) -> dict[str, Any]:
        """Return the body of the HTTP request."""
        return chat_body(request, png, self._settings)

    def read(self, body: Any, *, batch: bool = False) -> Completion:
        """Return the answer of a parsed chat completion; raises as `completion_of`."""
        return completion_of(body, 0, self._key, batch=batch)

    def failure(self, error: openai.OpenAIError) -> Exception:
        """Convert an exception of the client into one that `Provider.complete` raises."""
        return failure(error, self._settings, self._key)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()


def _check_address(address: str | None) -> None:
    if address is None:
        return
    if "@" in address or "?" in address:
        # The message does not repeat it, because messages end up in logs.
        raise SettingsError("--base-url holds a key or a password: put it into the environment instead")
    try:
        parts = urlsplit(address)
        # Reading the port checks that it is one.
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or " " in address or not address.isprintable():
        raise SettingsError(f"--base-url takes an address such as http://localhost:8000/v1, not {address!r}")


def open_client(settings: LlmSettings, key: str) -> openai.AsyncOpenAI:
    """Return the official client without its retries."""
    limits = httpx2.Limits(
        max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency
    )
    timeout = httpx2.Timeout(settings.timeout_s, connect=min(20.0, settings.timeout_s))
    return openai.AsyncOpenAI(
        api_key=key,
        base_url=settings.base_url,
        max_retries=0,
        timeout=timeout,
        http_client=openai.DefaultAsyncHttpxClient(limits=limits, timeout=timeout),
    )


def api_key(settings: LlmSettings) -> str:
    """Return the key from the environment; servers on this machine need none.

    Raises:
        ProviderError: The variable is not set, or holds characters that no HTTP header can.
    """
    key = os.environ.get(settings.api_key_variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        # The message does not repeat it, because messages end up in logs.
        raise ProviderError(
            f"{settings.api_key_variable} holds no API key: it has line breaks or letters that no key has"
        )
    if key:
        return key
    if settings.base_url and urlsplit(settings.base_url).hostname in _LOCAL:
        return "none"
    raise ProviderError(f"no API key: set the environment variable {settings.api_key_variable}")


def model_name(settings: LlmSettings) -> str:
    """Return provider and model, the `source` of texts: "openai/gpt-4.1".

    Raises:
        SettingsError: No model is named.
    """
    if not settings.model:
        raise SettingsError("the provider openai needs a model: give --model NAME, such as gpt-4.1")
    return f"openai/{settings.model}"


def chat_parameters(settings: LlmSettings) -> dict[str, Any]:
    """Return the settings that determine an answer besides the model, the prompt and the image."""
    names = ("temperature", "max_output_tokens", "structured", "image_detail", "reasoning_effort")
    return {name: getattr(settings, name) for name in names}


def chat_body(request: Request, png: bytes | None, settings: LlmSettings) -> dict[str, Any]:
    """Return the body of the HTTP request; the image belongs to the first user message.

    It stays there in all requests of a tile, so that the server's prefix cache can hold it.
    """
    turns = [*request.history, ("user", request.user)]
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
    if png is not None:
        first = next(message for message in messages if message["role"] == "user")
        url = "data:image/png;base64," + base64.b64encode(png).decode()
        image = {"type": "image_url", "image_url": {"url": url, "detail": settings.image_detail}}
        first["content"] = [{"type": "text", "text": first["content"]}, image]
    # Ollama, llama.cpp and older vLLM know only `max_tokens`, OpenAI's reasoning models only the other.
    host = urlsplit(settings.base_url).hostname if settings.base_url else _OPENAI
    limit = "max_completion_tokens" if host == _OPENAI else "max_tokens"
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [{"role": "system", "content": request.system}, *messages],
        limit: settings.max_output_tokens,
    }
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if settings.reasoning_effort is not None:
        body["reasoning_effort"] = settings.reasoning_effort
    if request.schema is not None and settings.structured:
        schema = {"name": "answer", "strict": True, "schema": request.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


async def _read(response: Any) -> bytes:
    """Read a body, at most `_MAX_BODY_BYTES` bytes of it."""
    content = bytearray()
    async for part in response.iter_bytes():
        content += part
        if len(content) > _MAX_BODY_BYTES:
            break
    return bytes(content)


def read_completion(content: bytes, asked_chars: int, key: str) -> Completion:
    """Read the body of a chat completion.

    A body that is cut off for its length, or holds no usable message, is an answer too, because it was paid
    for; the check of answers rejects it.

    Raises:
        TryAgainError: The body is no chat completion: a proxy's page, or an answer cut short.
    """
    if len(content) > _MAX_BODY_BYTES:
        text = content[:MAX_ANSWER_CHARS].decode("utf-8", "replace")
        return Completion(without_key(text, key), text_tokens(asked_chars), text_tokens(len(content)))
    try:
        return completion_of(json.loads(content), asked_chars, key)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise TryAgainError("the server answered with no chat completion", maybe_billed=True) from None


def completion_of(body: Any, asked_chars: int, key: str, *, batch: bool = False) -> Completion:
    """Return the answer of a parsed chat completion.

    Raises:
        LookupError, TypeError, AttributeError: The body is no chat completion.
    """
    message = body["choices"][0]["message"]
    content = message.get("content") or message.get("refusal") or ""
    # JSON can hold half a surrogate pair, which UTF-8 cannot.
    text = without_key(str(content).encode("utf-8", "replace").decode()[:MAX_ANSWER_CHARS], key)
    usage = body.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return Completion(
        text=text,
        input_tokens=_count(counts.get("prompt_tokens"), text_tokens(asked_chars)),
        output_tokens=_count(counts.get("completion_tokens"), text_tokens(len(text))),
        batch=batch,
    )


def _count(reported: object, estimate: int) -> int:
    if isinstance(reported, int) and not isinstance(reported, bool) and 0 <= reported < 1 << 31:
        return reported
    return estimate


def failure(error: openai.OpenAIError, settings: LlmSettings, key: str) -> Exception:
    """Convert an exception of the client into one that `Provider.complete` raises."""
    where = settings.base_url or "the OpenAI server"
    if isinstance(error, openai.APITimeoutError):
        return TryAgainError(f"no answer within {settings.timeout_s:g} s", maybe_billed=True)
    if not isinstance(error, openai.APIStatusError):
        unsent = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
        return TryAgainError(
            f"{where} cannot be reached" if unsent else "the connection broke", maybe_billed=not unsent
        )
    status, message = error.status_code, without_key(_one_line(error.message), key)
    if status == 401 or status == 403:
        return ProviderError(
            f"{where} refuses the key ({status}): set {settings.api_key_variable} to a valid one"
        )
    if status == 404:
        return ProviderError(
            f"{where} knows no model {settings.model}, or the address is wrong (404): check --model and "
            "--base-url"
        )
    if status == 429 and getattr(error, "code", None) == "insufficient_quota":
        return ProviderError(
            f"the account at {where} has no credit left: add some and run the same command again"
        )
    if status in (408, 409, 425, 429) or status >= 500:
        wait = retry_after(error.response.headers)
        return TryAgainError(f"the server answered {status}", retry_after_s=wait, overloaded=status == 429)
    if status in (400, 413, 422):
        return RefusedError(f"the server refused the request ({status}): {message}")
    return ProviderError(f"{where} answered {status} ({message}): check --base-url")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks us to wait, or None.

    A date is compared with the server's own clock (its `Date` header), because the local clock may be wrong.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wait_s = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        # NaN fails both comparisons.
        return min(wait_s, MAX_RETRY_AFTER_S) if wait_s >= 0 else None
    try:
        then, now = (email.utils.parsedate_to_datetime(headers[name]) for name in ("retry-after", "date"))
        return min(max(0.0, (then - now).total_seconds()), MAX_RETRY_AFTER_S)
    except (KeyError, ValueError, TypeError):
        return None


def without_key(text: str, key: str) -> str:
    """Return `text` without the key or anything that looks like one; servers quote keys in their errors."""
    if len(key) >= 8:
        text = text.replace(key, "[key]")
    return re.sub(r"\b(sk-|xai-|AIza)[-_\w*]{12,}", "[key]", text)


def _one_line(message: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in message).split())[:300]
