"""Figure 9 as a self-contained page: accuracy of each field with its interval."""

from collections.abc import Mapping
from pathlib import Path

from fusar_klip import __version__
from fusar_klip.texts.html_pages import render
from fusar_klip.texts.review.accuracy import ALL, FieldAccuracy, ReviewResult

_TEMPLATE = Path(__file__).parent / "templates" / "accuracy.html.j2"
_TITLES: Mapping[str, str] = {
    "ground_target": "Ground targets",
    "marine_target": "Marine targets",
    "terrain": "Terrain",
}


def accuracy_html(result: ReviewResult) -> str:
    """Return the page."""
    by_task: dict[str, list[FieldAccuracy]] = {}
    for line in result.accuracy:
        if line.field != ALL:
            by_task.setdefault(line.task, []).append(line)
    wholes = {line.task: line for line in result.accuracy if line.field == ALL}
    return render(
        _TEMPLATE,
        result=result,
        name=Path(result.dataset).resolve().name,
        whole=wholes[ALL],
        tasks=[(_TITLES[task], wholes[task], lines) for task, lines in by_task.items()],
        version=__version__,
    )
