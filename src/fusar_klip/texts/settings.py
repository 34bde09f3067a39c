"""The settings of `fusar-klip describe`."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from fusar_klip.llm import LlmSettings
from fusar_klip.texts.hcot.prompts import Mode

ProviderName = Literal["measure", "template", "openai", "transformers"]


class DescribeSettings(LlmSettings):
    """Source of the texts and prompting mode, and the `LlmSettings` of the language model."""

    provider: ProviderName = "measure"
    """Source of the texts: `measure` (rule-based, no LLM), `template` (annotations), `openai` (any server
    with OpenAI's chat protocol) or `transformers` (a model on this machine)."""
    workers: int = Field(default=min(4, os.cpu_count() or 1), ge=1)
    """Number of processes that measure tiles; the texts do not depend on it."""
    annotations: Path | None = None
    """GeoJSON of annotated targets, for `template`."""
    mode: Mode = "single"
    """Prompting mode: all layers of the chain of thought in one request (`single`), one request per layer
    (`chain`), or no chain of thought (`plain`)."""
    known_places: Path | None = None
    """CSV file with your own facts about airports and ports, by code; see docs/hcot.md."""
    scale_bar: bool = False
    """Draw a scale bar below the image."""
    retry_rejected: bool = False
    """Request another answer for tiles whose answers were rejected in an earlier run."""
    leave_unanswered: bool = False
    """Write a version even if some tiles have no answer."""
