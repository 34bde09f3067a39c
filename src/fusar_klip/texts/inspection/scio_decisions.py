"""Decisions of SCIO about a text version: counts and examples (see docs/scio.md)."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from fusar_klip.catalog import open_texts
from fusar_klip.texts.inspection.statistics import random_order

DECIDED = ("kept", "noise", "reconstructed")
"""Verdicts of SCIO; a version without any has not been screened."""
_EXAMPLES = 8
_COLUMNS = [
    *("tile_id", "task", "field", "text", "verdict"),
    *("delta_itc", "delta_itm", "itm_score", "previous"),
]


@dataclass(frozen=True)
class ScioDecisions:
    """Verdicts of one text version.

    Attributes:
        total: Segments by verdict.
        by_field: Of each task's field: (task, field, segments by verdict), in file order.
        examples: (tile_id, task, rows in order) of tiles with reconstructed sentences, then of tiles with
            noise.
    """

    total: dict[str, int]
    by_field: list[tuple[str, str, dict[str, int]]]
    examples: list[tuple[str, str, list[dict[str, Any]]]]


def read_scio_decisions(dataset: Path, version: str) -> ScioDecisions | None:
    """Return the verdicts of a text version; None if SCIO has not screened it.

    The rows are read in batches; the same version gives the same examples.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    best: list[tuple[int, bytes, str, list[dict[str, Any]]]] = []
    batches = open_texts(dataset, version).to_batches(columns=_COLUMNS)
    rows = (row for batch in batches for row in batch.to_pylist())
    for tile_id, of_tile in groupby(rows, key=lambda row: row["tile_id"]):
        rows_of_tile = list(of_tile)
        verdicts = {row["verdict"] for row in rows_of_tile}
        counts.update((row["task"], row["field"], row["verdict"]) for row in rows_of_tile)
        if verdicts & {"noise", "reconstructed"} and verdicts & {"kept", "reconstructed"}:
            best.append((-("reconstructed" in verdicts), random_order(tile_id), tile_id, rows_of_tile))
            if len(best) > 4 * _EXAMPLES:
                best = sorted(best, key=lambda one: one[:3])[:_EXAMPLES]
    total = {verdict: sum(n for key, n in counts.items() if key[2] == verdict) for verdict in DECIDED}
    if not total["kept"] and not total["reconstructed"]:
        return None
    fields = dict.fromkeys((task, field) for task, field, _ in counts)
    by_field = [
        (task, field, {verdict: counts[task, field, verdict] for verdict in DECIDED})
        for task, field in fields
    ]
    best = sorted(best, key=lambda one: one[:3])[:_EXAMPLES]
    return ScioDecisions(
        total,
        by_field,
        [(tile_id, rows_of_tile[0]["task"], rows_of_tile) for _, _, tile_id, rows_of_tile in best],
    )
