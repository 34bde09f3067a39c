"""The verbs that query a model: index, search, caption, ask."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusar_klip.cli.options import DatasetArgument, JsonOption
from fusar_klip.cli.output import report
from fusar_klip.errors import SettingsError

if TYPE_CHECKING:
    from fusar_klip.search import SearchHit


def index(
    dataset: DatasetArgument,
    checkpoint: Annotated[str, typer.Option(metavar="RUN", help="The run whose model embeds the tiles.")],
    out: Annotated[Path, typer.Option(metavar="INDEX", help="Folder of the index.")],
    as_json: JsonOption = False,
) -> None:
    """Embed the tiles of a data set for search."""
    from fusar_klip.search import build_index

    summary = build_index(dataset, checkpoint, out)
    report(summary, as_json, f"{summary.tiles} tiles in {out}")


def search(
    index: Annotated[Path, typer.Argument(help="Folder of an index.")],
    query: Annotated[str, typer.Argument(help="A text, or the path of an image.")],
    bbox: Annotated[
        str | None, typer.Option(metavar="W,S,E,N", help="Only tiles that intersect this box, in degrees.")
    ] = None,
    top: Annotated[int, typer.Option(help="Number of results.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Search tiles by a text or an image, within a box on the map."""
    from fusar_klip.search import search as run

    results = run(index, query, bbox=_parse_bbox(bbox) if bbox else None, top=top)
    report(results, as_json, "\n".join(map(_hit_lines, results.hits)))


def _hit_lines(hit: "SearchHit") -> str:
    place = "no coordinates" if hit.lon is None else f"{hit.lon:.4f}, {hit.lat:.4f}"
    head = f"{hit.rank:>3}  {hit.score:.3f}  {place}  {hit.scale}  {hit.path}"
    return head + textwrap.indent(f"\n{hit.text or ''}", " " * 5)


def _parse_bbox(text: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(
            f'--bbox takes W,S,E,N in degrees, such as -118.3,33.7,-118.2,33.8, not "{text}"'
        ) from None
    return west, south, east, north


@dataclass(frozen=True)
class Captions:
    """The result of `caption`."""

    checkpoint: str
    captions: dict[str, str]
    """By the image's path as it was given."""


@dataclass(frozen=True)
class ImageAnswer:
    """The result of `ask`."""

    checkpoint: str
    image: str
    question: str
    answer: str


def caption(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Tiles, PNG, JPEG or TIFF files of any depth.")
    ],
    checkpoint: Annotated[str, typer.Option(metavar="RUN", help="The run whose model writes the captions.")],
    as_json: JsonOption = False,
) -> None:
    """Write a caption for each image."""
    from fusar_klip.models import load
    from fusar_klip.progress import track

    model = load(checkpoint)
    captions = {str(image): model.caption(image) for image in track(images, "Writing")}
    text = "\n\n".join(f"{image}\n{caption}" for image, caption in captions.items())
    report(Captions(checkpoint, captions), as_json, text)


def ask(
    image: Annotated[Path, typer.Argument(help="A tile, PNG, JPEG or TIFF file of any depth.")],
    question: Annotated[str, typer.Argument(help="For example: How many ships are in this SAR image?")],
    checkpoint: Annotated[
        str, typer.Option(metavar="RUN", help="A run that was saved by a vqa row of benchmark (save = true).")
    ],
    as_json: JsonOption = False,
) -> None:
    """Answer a question about an image."""
    from fusar_klip.models import load

    answer = load(checkpoint).ask(image, question)
    report(ImageAnswer(checkpoint, str(image), question, answer), as_json, answer)
