"""Prompts of the hierarchical chain of thought (HCoT, paper 3.2).

The words are data: `system.md` and the frames beside it, one folder a task with a file for each of the five
layers and one that defines the fields, and `sensors.toml` with facts about platforms, bands and
polarizations. This package fills their slots and composes requests; it sends none and parses no answer.
"""

from fusar_klip.texts.hcot.prompts.requests import Mode, first_request, next_request, repair_request
from fusar_klip.texts.hcot.prompts.schemas import LAYERS, Layer
from fusar_klip.texts.hcot.prompts.templates import PROMPT_VERSION

__all__ = [
    "LAYERS",
    "PROMPT_VERSION",
    "Layer",
    "Mode",
    "first_request",
    "next_request",
    "repair_request",
]
