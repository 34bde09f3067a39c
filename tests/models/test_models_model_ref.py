"""A model reference is refused where it names no model."""

import pytest

from fusar_klip.errors import CheckpointError
from fusar_klip.models import ModelRef


@pytest.mark.parametrize("text", ["untrained:", "llm:", "clip:"])
def test_a_prefix_alone_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{text} names no .*: (give|write) {text}"):
        ModelRef.parse(text)
