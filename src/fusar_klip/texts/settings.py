"""The settings of `fusar-klip describe`."""

import os
from typing import Literal

from pydantic import Field

from fusar_klip.config import Settings

Provider = Literal["measure", "template", "openai", "transformers"]


class DescribeSettings(Settings):
    """Who writes the texts, and with how many processes."""

    provider: Provider = "measure"
    """Who writes the texts. `measure` needs no language model; it is the only one in this version."""
    workers: int = Field(default=min(4, os.cpu_count() or 1), ge=1)
    """Processes that measure tiles; the texts do not depend on their number."""
