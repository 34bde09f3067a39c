"""JSON schemas of the wanted answers, as servers with strict structured output take them.

Every property is required, in order, and nothing else is allowed. Lengths are not said here, for strict
output leaves such keywords out; `texts.answers` checks them.
"""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, get_args

from fusar_klip.catalog import FIELDS, Task

Layer: TypeAlias = Literal[
    "earth_cognition", "social_priors", "sar_theory", "instance_discrimination", "knowledge_calibration"
]
"""The five layers of the chain of thought, in the order of thinking (paper 3.2, figure 6a)."""
LAYERS: tuple[Layer, ...] = get_args(Layer)


def answer_schema(task: Task, layers: Iterable[Layer], *, fields: bool = True) -> dict[str, Any]:
    """Return the schema of {"rationale": {layer: text}, "fields": {field: text}}, thought before answer.

    Args:
        task: Which eight fields.
        layers: Whose rationale is wanted; none: the answer has no rationale.
        fields: The answer holds the eight fields.
    """
    parts = {}
    if names := tuple(layers):
        parts["rationale"] = _texts(names)
    if fields:
        parts["fields"] = _texts(FIELDS[task])
    return _closed(parts)


def _texts(names: Iterable[str]) -> dict[str, Any]:
    return _closed({name: {"type": "string"} for name in names})


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
