"""Prices of language models, and estimates of the tokens of a request.

The price table (`prices.toml`) ages; the settings `input_usd` and `output_usd` replace its prices. Costs of
answers are computed from the tokens that the server reports, never from estimates.
"""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fusar_klip.llm.provider import Request
from fusar_klip.llm.settings import LlmSettings

# English prose has some four characters per token, numbers and names fewer: three overestimates.
_CHARACTERS_PER_TOKEN = 3
_UNKNOWN_IMAGE = ("tiles", 85, 170)


@dataclass(frozen=True)
class Price:
    """Price of a model's tokens.

    Attributes:
        input_usd: US dollars for a million tokens of prompts.
        output_usd: US dollars for a million tokens of answers.
        batch_factor: Price of a batch's tokens relative to those.
    """

    input_usd: float
    output_usd: float
    batch_factor: float

    def usd(self, input_tokens: int, output_tokens: int, *, batch: bool = False) -> float:
        """Return the cost in US dollars."""
        cost = (input_tokens * self.input_usd + output_tokens * self.output_usd) / 1e6
        return cost * self.batch_factor if batch else cost


def price_of(settings: LlmSettings, *, local: bool = False) -> Price | None:
    """Return the price of the model, or None if it is not known.

    A model at a `base_url` has the price that the table lists for its name.

    Args:
        settings: The model, and prices that replace those of the table.
        local: The model runs on this machine and costs nothing.
    """
    factor = float(_table()["batch_factor"])
    if local:
        return Price(0.0, 0.0, factor)
    known = _price_row(settings.model)
    input_usd = settings.input_usd if settings.input_usd is not None else known.get("input_usd")
    output_usd = settings.output_usd if settings.output_usd is not None else known.get("output_usd")
    if input_usd is None or output_usd is None:
        return None
    return Price(input_usd, output_usd, factor)


def prompt_tokens(request: Request, settings: LlmSettings) -> int:
    """Return an upper estimate of the tokens of a request, its image included."""
    return text_tokens(prompt_chars(request)) + (image_tokens(settings) if request.with_image else 0)


def text_tokens(characters: int) -> int:
    """Return an upper estimate of the tokens of a text."""
    return math.ceil(characters / _CHARACTERS_PER_TOKEN)


def prompt_chars(request: Request) -> int:
    """Return the number of characters of a request's texts, its schema included."""
    schema = len(str(request.schema)) if request.schema is not None else 0
    return len(request.system) + len(request.user) + schema + sum(len(text) for _, text in request.history)


def image_tokens(settings: LlmSettings) -> int:
    """Return the tokens of a square image of `image_px` pixels a side."""
    kind, *numbers = _price_row(settings.model).get("image", _UNKNOWN_IMAGE)
    side = settings.image_px
    if kind == "fixed":
        return int(numbers[0])
    if kind == "patches":
        return math.ceil(min(math.ceil(side / 32) ** 2, 1536) * float(numbers[0]))
    if settings.image_detail == "low":
        return int(numbers[0])
    return int(numbers[0] + numbers[1] * math.ceil(min(side, 768) / 512) ** 2)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files("fusar_klip.llm") / "prices.toml").read_text(encoding="utf-8"))


def _price_row(model: str | None) -> dict[str, Any]:
    """Return the table's row: "gpt-4.1-2025-04-14" is priced as "gpt-4.1", "openai/gpt-4o" as "gpt-4o"."""
    models: dict[str, dict[str, Any]] = _table()["models"]
    name = (model or "").rsplit("/", 1)[-1].lower()
    fitting = [known for known in models if name == known or name.startswith(f"{known}-")]
    return models[max(fitting, key=len)] if fitting else {}
