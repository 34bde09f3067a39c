"""The published models as a table, as one model's details, as Markdown and as JSON. No weights are loaded."""

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fusar_klip.errors import CheckpointError
from fusar_klip.models.capability import Capability
from fusar_klip.models.pretrained.registry import PRETRAINED, PretrainedSpec

_TASKS: Mapping[Capability, tuple[str, ...]] = {
    "image_features": ("classification",),
    "patch_grid": ("detection", "segmentation"),
    "text_features": ("retrieval",),
    "matching": ("re-ranking",),
}
"""The tasks that each capability makes possible, in the order of the table."""
_VERBS = {
    "classification": "classify",
    "detection": "detect",
    "segmentation": "segment",
    "retrieval": "retrieve",
    "re-ranking": "re-rank",
}


@dataclass(frozen=True)
class ModelEntry:
    """One model, as `fusar-klip models --json` prints it."""

    name: str
    title: str
    publication: str
    backbone: str
    patch: str
    input: str
    channels: int
    fed: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pooled: str
    texts: str | None
    licence: str
    weights: str
    sources: tuple[str, ...]
    note: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class ModelTable:
    """The models of the table."""

    models: list[ModelEntry]


def model_table(name: str | None = None) -> ModelTable:
    """Return all published models, or the one of that name.

    Raises:
        CheckpointError: There is no published model of that name.
    """
    if name is None:
        return ModelTable([_entry(key, spec) for key, spec in PRETRAINED.items()])
    if name not in PRETRAINED:
        near = difflib.get_close_matches(name, PRETRAINED, n=1)
        hint = f"did you mean {near[0]}?" if near else "fusar-klip models lists the names"
        raise CheckpointError(f"there is no published model {name}; {hint}")
    return ModelTable([_entry(name, PRETRAINED[name])])


def drawn(width: int | None = None) -> str:
    """Return the table for a terminal of `width` columns (None: this one's)."""
    width = width or Console().width
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Name", no_wrap=True, style="bold")
    table.add_column("Tasks", width=17 if width < 100 else 25)
    table.add_column("Licence", width=16 if width < 100 else 24)
    # Folded, not cut: names of files and repositories stay whole.
    table.add_column("Download", overflow="fold", max_width=70)
    for entry in model_table().models:
        cells = (entry.name, ", ".join(_VERBS[task] for task in entry.tasks), entry.licence, entry.weights)
        table.add_row(*map(escape, cells))
    return _rendered(
        width,
        table,
        "fusar-klip models NAME prints the details. Give a model as NAME:FILE, for example"
        " to fusar-klip benchmark.",
    )


def details(name: str, width: int | None = None) -> str:
    """Return everything that is known of one model, for a terminal of `width` columns (None: this one's).

    Raises:
        CheckpointError: There is no published model of that name.
    """
    (entry,) = model_table(name).models
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(ratio=1)
    for label, value in (
        ("Model", f"{entry.title} ({entry.publication})"),
        ("Tasks", ", ".join(entry.tasks)),
        ("Backbone", f"{entry.backbone}; patch of {entry.patch} px"),
        ("Input", f"{entry.input}; {entry.channels} channels, the chip {entry.fed}"),
        ("Mean", ", ".join(f"{value:.4g}" for value in entry.mean)),
        ("Std", ", ".join(f"{value:.4g}" for value in entry.std)),
        ("Feature", entry.pooled),
        ("Text tower", entry.texts or "none"),
        ("Licence", entry.licence),
        ("Download", entry.weights),
        ("Layout source", "; ".join(entry.sources)),
        ("Note", entry.note or "none"),
        ("Use", f"fusar-klip benchmark {entry.name}:FILE --task knn --out RESULTS"),
    ):
        table.add_row(label, escape(value))
    return _rendered(width, table)


def markdown() -> str:
    """Return the tables of docs/pretrained_models.md."""
    head = (
        "Name",
        "Model",
        "Published",
        "Tasks",
        "Licence",
        "Backbone",
        "Patch",
        "Input",
        "Channels",
        "Feature",
    )
    more = ("Name", "Download", "Note", "Layout source")
    entries = model_table().models
    rows = [
        (
            entry.name,
            entry.title,
            entry.publication,
            ", ".join(entry.tasks),
            entry.licence,
            entry.backbone,
            entry.patch,
            entry.input,
            f"{entry.channels}, {entry.fed}",
            entry.pooled,
        )
        for entry in entries
    ]
    downloads = [(entry.name, entry.weights, entry.note, "; ".join(entry.sources)) for entry in entries]
    return f"{_markdown_table(head, rows)}\n\n{_markdown_table(more, downloads)}"


def _markdown_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def _rendered(width: int | None, *parts: Table | str) -> str:
    console = Console(force_terminal=sys.stdout.isatty(), width=width, highlight=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))


def _entry(name: str, spec: PretrainedSpec) -> ModelEntry:
    mean, std = spec.normalisation
    return ModelEntry(
        name=name,
        title=spec.title,
        publication=spec.publication,
        backbone=spec.backbone,
        patch=spec.patch,
        input="size of the file" if spec.size is None else f"{spec.size} px",
        channels=spec.channels,
        fed=spec.fed,
        mean=mean,
        std=std,
        pooled=spec.pooled,
        texts=spec.texts,
        licence=spec.licence,
        weights=spec.weights,
        sources=spec.sources,
        note=spec.note,
        tasks=tuple(task for name, tasks in _TASKS.items() if name in spec.capabilities for task in tasks),
    )
