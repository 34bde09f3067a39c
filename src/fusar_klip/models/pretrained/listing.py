"""The zoo as a table for people, as Markdown and as JSON. It loads no weights."""

import io
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from fusar_klip.models.pretrained.registry import ZOO, ZooModel

COLUMNS = (
    "Name",
    "Model",
    "Published",
    "Backbone",
    "Patch",
    "Input",
    "Channels",
    "Pooled",
    "Texts",
    "Licence",
)


@dataclass(frozen=True)
class ZooEntry:
    """What `fusar-klip models --json` tells of one model."""

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


@dataclass(frozen=True)
class ZooListing:
    """All models."""

    models: list[ZooEntry]


def listing() -> ZooListing:
    """Return the zoo."""
    return ZooListing([_entry(name, model) for name, model in ZOO.items()])


def text() -> str:
    """Return the zoo as the verb prints it: drawn on a terminal, Markdown elsewhere."""
    return drawn() if sys.stdout.isatty() else markdown()


def drawn(width: int | None = None) -> str:
    """Return the zoo with rich's frames and colours, for a terminal of `width` columns (None: this one's)."""
    console = Console(force_terminal=True, width=width)
    table = Table(*COLUMNS, title="Compared vision encoders: fusar-klip benchmark NAME:FILE")
    for entry in listing().models:
        table.add_row(*_cells(entry))
    with console.capture() as captured:
        console.print(table)
        _print_notes(console)
    return captured.get().rstrip("\n")


def _print_notes(console: Console) -> None:
    for entry in listing().models:
        console.print(f"[bold]{entry.name}[/bold]: {entry.weights}.", highlight=False)
        if entry.note:
            console.print(f"    {entry.note}", highlight=False, markup=False)


def markdown() -> str:
    """Return the table and, below it, where each model's weights are and what is not known."""
    out = io.StringIO()
    print(f"| {' | '.join(COLUMNS)} |", file=out)
    print(f"|{'---|' * len(COLUMNS)}", file=out)
    for entry in listing().models:
        print(f"| {' | '.join(_cells(entry))} |", file=out)
    print("\n| Name | Weights | Note | Read in |\n|---|---|---|---|", file=out)
    for entry in listing().models:
        print(f"| {entry.name} | {entry.weights} | {entry.note} | {'; '.join(entry.sources)} |", file=out)
    return out.getvalue().rstrip("\n")


def _cells(entry: ZooEntry) -> tuple[str, ...]:
    return (
        entry.name,
        entry.title,
        entry.publication,
        entry.backbone,
        entry.patch,
        entry.input,
        f"{entry.channels}, {entry.fed}",
        entry.pooled,
        entry.texts or "none",
        entry.licence,
    )


def _entry(name: str, model: ZooModel) -> ZooEntry:
    mean, std = model.normalisation
    return ZooEntry(
        name=name,
        title=model.title,
        publication=model.publication,
        backbone=model.backbone,
        patch=model.patch,
        input="of the file" if model.size is None else f"{model.size} px",
        channels=model.channels,
        fed=model.fed,
        mean=mean,
        std=std,
        pooled=model.pooled,
        texts=model.texts,
        licence=model.licence,
        weights=model.weights,
        sources=model.sources,
        note=model.note,
    )
