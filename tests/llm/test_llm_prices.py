"""Prices by the name of the model, and the tokens of an image."""

import pytest

from fusar_klip.llm import LlmSettings
from fusar_klip.llm.prices import image_tokens, price_of


def settings(**changes: object) -> LlmSettings:
    return LlmSettings.model_validate(changes)


@pytest.mark.parametrize(
    ("model", "input_usd"),
    [
        ("gpt-4.1", 2.0),
        ("gpt-4.1-2025-04-14", 2.0),
        ("gpt-4.1-mini-2025-04-14", 0.4),
        ("openai/gpt-4o-mini", 0.15),
        ("GPT-4.1", 2.0),
        ("gpt-4.12", None),
        ("my-gpt-4.1", None),
        (None, None),
    ],
)
def test_price_by_name(model: str | None, input_usd: float | None) -> None:
    price = price_of(settings(model=model))
    assert (price.input_usd if price else None) == input_usd


def test_prices_of_ones_own() -> None:
    assert price_of(settings(model="mine", input_usd=1.0)) is None
    price = price_of(settings(model="mine", input_usd=1.0, output_usd=2.0))
    assert price is not None
    assert price.usd(1_000_000, 500_000) == 2.0
    assert price.usd(1_000_000, 500_000, batch=True) == 1.0


@pytest.mark.parametrize(
    ("model", "image_px", "tokens"),
    [("gpt-4.1", 512, 255), ("gpt-4.1", 768, 765), ("gpt-4.1-mini", 512, 415), ("gemini-2.5-pro", 512, 258)],
)
def test_tokens_of_an_image(model: str, image_px: int, tokens: int) -> None:
    assert image_tokens(settings(model=model, image_px=image_px)) == tokens
