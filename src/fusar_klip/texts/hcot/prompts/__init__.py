"""Prompts of the hierarchical chain of thought (HCoT, paper 3.2): what a model is asked about a tile.

The words are data: `system.md` and the frames beside it, one folder a task with a file for each of the five
layers and one that defines the eight fields, and `sensors.toml` with what is known of platforms, bands and
polarizations. This package fills their slots and puts them in order; it asks nobody, and reads no answer.
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
