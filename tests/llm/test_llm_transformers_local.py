"""A vision-language model on this machine answers requests."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fusar_klip.llm import LlmSettings, Request

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
REQUEST = Request("be an expert", (("user", "first"), ("assistant", "so")), "and then?", SCHEMA, None, True)


def png_of(pixels: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def test_a_local_model_answers(tiny_model: Path) -> None:
    from fusar_klip.llm.transformers_local import TransformersLocal

    local = TransformersLocal(LlmSettings(model=str(tiny_model), max_output_tokens=16))
    assert local.name == f"transformers/{tiny_model.name}"
    assert len(local.parameters["weights"]) == 64
    images = [png_of(np.full((40, 40), level, np.uint8)) for level in (10, 250)]
    answers = [asyncio.run(local.complete(REQUEST, image)) for image in (*images, images[0])]
    assert answers[0] == answers[2]
    assert 0 < answers[0].output_tokens <= 16
    without = asyncio.run(local.complete(REQUEST, None))
    assert answers[0].input_tokens == without.input_tokens + 4  # the patches of a image
    asyncio.run(local.close())
