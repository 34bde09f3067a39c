"""JSON schemas of answers, in the form that servers with strict structured output accept.

Every property is required, in order, and no other is allowed. Strict output does not support length limits;
`hcot.answers` checks them.
"""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, get_args

from fusar_klip.catalog import FIELDS, Task

Layer: TypeAlias = Literal[
    "earth_cognition", "social_priors", "sar_theory", "instance_discrimination", "knowledge_calibration"
]
"""The five layers of the chain of thought, in order (paper 3.2, figure 6a)."""
LAYERS: tuple[Layer, ...] = get_args(Layer)


def answer_schema(task: Task, layers: Iterable[Layer], *, fields: bool = True) -> dict[str, Any]:
    """Return the schema of {"rationale": {layer: text}, "fields": {field: text}}, rationale first.

    Args:
        task: The task, which determines the fields.
        layers: Layers whose rationale the answer holds; none: it has no rationale.
        fields: Whether the answer holds the fields.
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
