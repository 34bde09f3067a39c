"""Composes the rule-based text of a tile: one sentence a field (the schemata of paper figure 8).

Every statement comes from a measured value or from the gazetteer; anything else is stated as unknown. The
same evidence gives the same words. `RULES` has the rules of each task.
"""

from collections.abc import Callable

from fusar_klip.catalog import FIELDS, Task
from fusar_klip.texts.measure.evidence import Evidence
from fusar_klip.texts.measure.geography import Geography
from fusar_klip.texts.measure.target_fields import ground_target_fields, marine_target_fields
from fusar_klip.texts.measure.terrain_fields import terrain_fields

FieldRules = Callable[[Evidence, Geography, Evidence | None], dict[str, str]]
"""From the evidence of a tile, its place, and the evidence of the next larger tile: a clause a field."""

RULES: dict[Task, FieldRules] = {
    "marine_target": marine_target_fields,
    "ground_target": ground_target_fields,
    "terrain": terrain_fields,
}
"""The rules of each task; their fields are those of `catalog.FIELDS`."""

_MARINE_WATER = 0.35
_AIRFIELD_DARK = 0.03


def choose_task(evidence: Evidence, geography: Geography) -> Task:
    """Choose the schema: targets on water or on an airport's dark ground, else terrain."""
    on_ground = [t for t in evidence.targets if t.setting == "dark_ground"]
    if len(evidence.targets) > len(on_ground) and evidence.cover.fractions["water"] >= _MARINE_WATER:
        return "marine_target"
    dark = evidence.cover.fractions["smooth"]
    if on_ground and dark >= _AIRFIELD_DARK and geography.airport is not None:
        return "ground_target"
    return "terrain"


def compose(
    evidence: Evidence, geography: Geography, parent: Evidence | None = None
) -> tuple[Task, dict[str, str]]:
    """Return the task of a tile and its fields, in the order of `catalog.FIELDS`.

    Args:
        evidence: Measurements of the tile.
        geography: Nearby places of the tile.
        parent: Evidence of the next larger tile, with which Environment and Region agree (paper eqs. 2 and
            3).
    """
    task = choose_task(evidence, geography)
    fields = RULES[task](evidence, geography, parent)
    return task, {field: _sentence(fields[field]) for field in FIELDS[task]}


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."
