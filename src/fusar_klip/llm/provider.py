"""What all providers of language models have in common: requests, answers, and errors.

A provider sends one request and returns one answer. It does not cache, retry, limit its rate or count costs:
`client.py` does so for all of them. The exceptions below tell it which requests may be sent again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Request:
    """One request to a language model.

    Attributes:
        system: The system message.
        history: Earlier messages of the conversation, oldest first: ("user" or "assistant", text).
        user: The user message to answer.
        schema: JSON schema of the expected answer, strict; None for free text.
        layer: The layer of the chain of thought that is asked for, in prompting mode `chain`; else None.
        with_image: Whether the tile's image belongs to the conversation: to its first user message, which is
            `history[0]`, or `user` if there is no history.
    """

    system: str
    history: tuple[tuple[Literal["user", "assistant"], str], ...]
    user: str
    schema: dict[str, Any] | None
    layer: str | None
    with_image: bool


@dataclass(frozen=True)
class Completion:
    """One answer of a language model.

    Attributes:
        text: The answer, in valid Unicode, cut to `MAX_ANSWER_CHARS` characters.
        input_tokens: Tokens of the prompt, image included, as the server counts them.
        output_tokens: Tokens of the answer, hidden reasoning included.
        batch: Whether it came through a batch API, which costs less.
    """

    text: str
    input_tokens: int
    output_tokens: int
    batch: bool = False


@dataclass(frozen=True)
class EncodedImage:
    """An image as it is sent.

    Attributes:
        png: Content of the PNG file.
        digest: SHA-256 of `png`, in hexadecimal.
    """

    png: bytes
    digest: str


MAX_ANSWER_CHARS = 65_536
"""Longest answer that is kept, in characters; the fields of a text with rationales take some 4,000."""


class Provider(Protocol):
    """A language model that answers one request at a time.

    Attributes:
        name: Provider and model, such as "openai/gpt-4.1"; the `source` of every text.
        parameters: Other inputs that determine the answer: temperature, schema, weights. Part of the cache
            key.
        max_output_tokens: Maximum tokens of an answer.
    """

    name: str
    parameters: Mapping[str, Any]
    max_output_tokens: int

    async def complete(self, request: Request, png: bytes | None) -> Completion:
        """Answer one request, with the image as PNG.

        Raises:
            TryAgainError: The request failed and may be sent again.
            RefusedError: The server refuses this request; others may succeed.
            DeferredError: The request waits for a batch.
            ProviderError: No request can succeed until the user fixes the configuration or the server.
        """
        ...

    async def close(self) -> None:
        """Release connections and memory."""
        ...


class TryAgainError(Exception):
    """The server is overloaded, temporarily broken, or unreachable; the request may be sent again.

    Attributes:
        retry_after_s: Wait that the server asks for, in seconds; None if it names none.
        overloaded: Whether the server limits the rate (429), which concerns all requests.
        maybe_billed: Whether the request reached the server, so that it may cost although its answer is lost.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after_s: float | None = None,
        overloaded: bool = False,
        maybe_billed: bool = False,
    ) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.overloaded = overloaded
        self.maybe_billed = maybe_billed


class RefusedError(Exception):
    """The server refuses this request (400, 413, 422), such as for a content filter or too long a prompt."""


class DeferredError(Exception):
    """The answer comes with a later batch."""
