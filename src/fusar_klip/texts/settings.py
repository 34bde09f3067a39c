"""The settings of `fusar-klip describe`."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from fusar_klip.llm import LlmSettings
from fusar_klip.texts.hcot.prompts import Mode

ProviderName = Literal["measure", "template", "openai", "transformers"]


class DescribeSettings(LlmSettings):
    """Who writes the texts, and with which prompting mode; for a language model also its `LlmSettings`."""

    provider: ProviderName = "measure"
    """Who writes the texts: `measure` and `template` need no language model; `openai` is any server that
    speaks its chat protocol, `transformers` a model on this machine."""
    workers: int = Field(default=min(4, os.cpu_count() or 1), ge=1)
    """Processes that measure tiles; the texts do not depend on their number."""
    annotations: Path | None = None
    """GeoJSON of annotated targets, for `template`."""
    mode: Mode = "single"
    """All layers of the thinking chain in one request (`single`), one request a layer (`chain`), or no chain
    (`plain`)."""
    known_places: Path | None = None
    """CSV of what you know of airports and ports, by code: see docs/hcot.md."""
    scale_bar: bool = False
    """Draw a scale bar into the picture."""
    retry_rejected: bool = False
    """Ask once more for tiles whose answers were rejected in an earlier run."""
    leave_unanswered: bool = False
    """Write a version although some tiles got no answer."""
