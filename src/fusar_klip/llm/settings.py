"""The settings of requests to a language model."""

import os
from typing import Literal

from pydantic import Field

from fusar_klip.config import Settings

ImageDetail = Literal["auto", "low", "high"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high"]


class LlmSettings(Settings):
    """Which model answers, how it is asked, and what that may cost."""

    model: str | None = None
    """The model's name on the server; for `transformers` a folder, or a name in the local hub cache."""
    base_url: str | None = Field(default_factory=lambda: os.environ.get("OPENAI_BASE_URL") or None)
    """Address of the server, such as http://localhost:8000/v1; without it the environment variable
    OPENAI_BASE_URL, as OpenAI's own programs have it, and without that, OpenAI's server."""
    image_px: int = Field(default=512, ge=32, le=4096)
    """Longer side of the picture that goes out; every tile is scaled to it."""
    image_detail: ImageDetail = "auto"
    """What OpenAI's servers do with the picture; `low` costs fewer tokens."""
    structured: bool = True
    """Ask for JSON by its schema. Switch it off for servers that refuse `response_format`."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Not sent by default: reasoning models refuse it."""
    reasoning_effort: ReasoningEffort | None = None
    """How much a reasoning model thinks before it answers; not sent by default."""
    max_output_tokens: int = Field(default=2000, ge=16)
    """The most tokens of an answer, hidden reasoning included."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Requests in flight at the same time."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """The account's limit, if it has one."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """The account's limit, if it has one."""
    timeout_s: float = Field(default=120.0, gt=0)
    """How long to wait for an answer to begin and each part of it; four times that for all of it."""
    patience_s: float = Field(default=900.0, ge=0)
    """How long one request is sent again while the server is overloaded, broken or out of reach."""
    retry_wait_s: float = Field(default=1.0, gt=0)
    """First wait before a request is sent again; it doubles up to 60 s, with jitter, unless the server says
    how long to wait."""
    budget_usd: float | None = Field(default=None, ge=0)
    """Most that all answers of this model for this data set may cost, earlier runs included."""
    input_usd: float | None = Field(default=None, ge=0)
    """Price of a million input tokens, over the price table's."""
    output_usd: float | None = Field(default=None, ge=0)
    """Price of a million output tokens, over the price table's."""
    batch: bool = False
    """Send requests by the server's Batch API: half the price, within a day."""
    batch_poll_s: float = Field(default=30.0, gt=0)
    """How often to ask whether a batch is done."""
    api_key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key."""
    device: str = "cpu"
    """Where `transformers` computes: cpu, cuda, cuda:1, mps."""
