"""Language models that look at a tile and answer: what they have in common.

A provider sends one turn and returns one answer. It does not cache, retry, limit its rate or count money:
`asking` does so for all of them, and tells from the exceptions below what can be mended by waiting.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fusar_klip.texts.hcot.prompts import Turn


@dataclass(frozen=True)
class Completion:
    """One answer of a language model.

    Attributes:
        text: What it said, at most `LONGEST_ANSWER` characters of it, in valid Unicode.
        input_tokens: Tokens of the prompt, image included, as its server counts them.
        output_tokens: Tokens of the answer, hidden reasoning included.
        batch: It came by a batch API, which costs less.
    """

    text: str
    input_tokens: int
    output_tokens: int
    batch: bool = False


@dataclass(frozen=True)
class Picture:
    """A tile's picture as it goes out.

    Attributes:
        png: The file.
        digest: SHA-256 of it.
    """

    png: bytes
    digest: str


LONGEST_ANSWER = 65_536
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

    async def complete(self, turn: "Turn", png: bytes | None) -> Completion:
        """Answer one turn, with the picture as PNG.

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
