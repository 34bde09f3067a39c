"""Language models that answer requests about images: providers, cache, rate limits, prices and budget.

OpenAiChat, OpenAiBatch   any server that speaks the OpenAI chat protocol, and OpenAI's Batch API
TransformersLocal         a model on this machine (`transformers_local`, imported only when chosen)
LlmClient                 answers from the cache, else from a provider, within rate limits and budget
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
