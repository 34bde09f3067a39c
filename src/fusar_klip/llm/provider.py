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
        text: What it said, at most `MAX_ANSWER_CHARS` characters of it, in valid Unicode.
        input_tokens: Tokens of the prompt, image included, as its server counts them.
        output_tokens: Tokens of the answer, hidden reasoning included.
        batch: It came by a batch API, which costs less.
    """

    text: str
    input_tokens: int
    output_tokens: int
    batch: bool = False


@dataclass(frozen=True)
class EncodedImage:
    """A tile's picture as it goes out.

    Attributes:
        png: The file.
        digest: SHA-256 of it.
    """

    png: bytes
    digest: str


MAX_ANSWER_CHARS = 65_536
"""Characters of an answer that are kept: eight fields with rationales take some 4,000."""


class Provider(Protocol):
    """Whoever answers.

    Attributes:
        name: Stands as the source of every text: "openai/gpt-4.1".
        parameters: What else decides the answer: temperature, schema use, weights. Part of the cache's key.
        max_output_tokens: The most tokens that an answer can have.
    """

    name: str
    parameters: Mapping[str, Any]
    max_output_tokens: int

    async def complete(self, request: "Request", png: bytes | None) -> Completion:
        """Answer one request, with the picture as PNG.

        Raises:
            TryAgainError: There is no answer now.
            RefusedError: This request gets no answer, others may.
            DeferredError: The request is collected for a batch.
            ProviderError: No request gets an answer until the user mends something.
        """
        ...

    async def close(self) -> None:
        """Give back connections and memory."""
        ...


class TryAgainError(Exception):
    """The server is overloaded, broken for the moment, or out of reach.

    Attributes:
        retry_after_s: The wait that the server asks for, in seconds.
        overloaded: The server asks all of us to slow down (429), not only this request.
        maybe_billed: The request had reached the server, so it may cost although its answer is lost.
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
    """The server takes this request for wrong (400, 413, 422: a content filter, too long a prompt)."""


class DeferredError(Exception):
    """The answer comes with a later batch."""
