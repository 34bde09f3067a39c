"""The settings of requests to a language model."""

import os
from typing import Literal

from pydantic import Field

from fusar_klip.config import Settings

ImageDetail = Literal["auto", "low", "high"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high"]


class LlmSettings(Settings):
    """The language model, the form of its requests, rate limits, retries and budget."""

    model: str | None = None
    """The model's name on the server; for `transformers` a folder, or a name in the local hub cache."""
    base_url: str | None = Field(default_factory=lambda: os.environ.get("OPENAI_BASE_URL") or None)
    """Address of the server, such as http://localhost:8000/v1. Default: the environment variable
    OPENAI_BASE_URL, else OpenAI's server."""
    image_px: int = Field(default=512, ge=32, le=4096)
    """Longer side of the image that is sent, in pixels; every tile is scaled to it."""
    image_detail: ImageDetail = "auto"
    """Resolution at which OpenAI's servers read the image; `low` costs fewer tokens."""
    structured: bool = True
    """Request JSON by its schema (`response_format`). Set it to false for servers that refuse this."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature; not sent by default, because reasoning models refuse it."""
    reasoning_effort: ReasoningEffort | None = None
    """Reasoning effort of a reasoning model; not sent by default."""
    max_output_tokens: int = Field(default=2000, ge=16)
    """Maximum tokens of an answer, hidden reasoning included."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Requests in flight at the same time."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Rate limit of the account in requests; None: no limit."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Rate limit of the account in tokens; None: no limit."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Timeout for each part of an answer, in seconds; the whole answer has four times as long."""
    patience_s: float = Field(default=900.0, ge=0)
    """How long a request is retried while the server is overloaded, broken or unreachable, in seconds."""
    retry_wait_s: float = Field(default=1.0, gt=0)
    """First wait before a retry, in seconds; it doubles up to 60 s, unless the server states a wait."""
    budget_usd: float | None = Field(default=None, ge=0)
    """Budget for all answers of this model for this data set, earlier runs included, in US dollars."""
    input_usd: float | None = Field(default=None, ge=0)
    """Price of a million input tokens, in US dollars; it replaces the one of the price table."""
    output_usd: float | None = Field(default=None, ge=0)
    """Price of a million output tokens, in US dollars; it replaces the one of the price table."""
    batch: bool = False
    """Send requests through the server's Batch API: half the price, answers within a day."""
    batch_poll_s: float = Field(default=30.0, gt=0)
    """Interval at which the state of a batch is requested, in seconds."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the API key."""
    device: str = "cpu"
    """Device of `transformers`: cpu, cuda, cuda:1, mps."""
