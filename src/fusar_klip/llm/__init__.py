"""Language models that answer requests about images: providers, cache, rate limits, prices and budget.

A `Request` goes to a `Provider`: `OpenAiChat` (any server with OpenAI's chat protocol) or `TransformersLocal`
(a
model on this machine). `LlmClient` asks it within rate limits and budget, and never twice for one answer,
which `AnswerCache` keeps on disk. `OpenAiBatch` sends the same requests through OpenAI's Batch API.

Import providers from their modules: openai, torch and transformers are imported only where they are used.
"""

from fusar_klip.llm.provider import (
    MAX_ANSWER_CHARS,
    Completion,
    DeferredError,
    EncodedImage,
    Provider,
    RefusedError,
    Request,
    TryAgainError,
)
from fusar_klip.llm.settings import LlmSettings

__all__ = [
    "MAX_ANSWER_CHARS",
    "Completion",
    "DeferredError",
    "EncodedImage",
    "LlmSettings",
    "Provider",
    "RefusedError",
    "Request",
    "TryAgainError",
]
