"""The command line: one verb per stage, results on standard output, everything else on standard error.

A stage is imported only when its verb runs, so that `--help` needs neither torch nor rasterio. Exit status:
0 done, 2 the user can mend it (one sentence, no traceback), 1 our fault, 130 interrupted.
"""

import errno
import json
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusar_klip import __version__
from fusar_klip.errors import FusarKlipError, NotInThisVersionError, SettingsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from fusar_klip.search import Hit
    from fusar_klip.texts import DescribeEstimate
    from fusar_klip.texts.inspection import InspectSummary
    from fusar_klip.texts.review import ReviewResult
    from fusar_klip.tiles import BuildEstimate

app = typer.Typer(
    help="Synthetic aperture radar imagery, worked with in words.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object when done, and nothing else.")
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")
]
DatasetArgument = Annotated[Path, typer.Argument(help="A data set's folder.")]

LATER_VERBS = {
    "serve": "Search over HTTP, with a map.",
}
"""Verbs whose interface is fixed, and whose stage is not built yet."""


_NO_PLACE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG),
)
"""What a folder that was badly chosen, or a full disk, answers."""


def main() -> None:
    """Run the command line and exit with its status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except FusarKlipError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in _NO_PLACE:
            _crash()
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"cannot write{where}: {error.strerror}; make room or choose another place, and run it again")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fusar_klip"):
            _crash()
        _fail(f'{error.name} is not installed: pip install "fusar-klip[all]" brings everything')
    except Exception:
        _crash()


def _fail(message: str) -> None:
    print(f"fusar-klip: {message}", file=sys.stderr)
    sys.exit(2)


def _crash() -> None:
    traceback.print_exc()
    print("fusar-klip: this is our fault, not yours; please report it with the lines above", file=sys.stderr)
    sys.exit(1)


def _report(summary: "DataclassInstance", as_json: bool, text: str) -> None:
    """Print a verb's result: its summary as JSON, or a text for people."""
    print(json.dumps(asdict(summary), indent=2, ensure_ascii=False) if as_json else text)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"fusar-klip {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Run every stage once, on simulated scenes: a few minutes on two cores."""
    from fusar_klip.demo import run_demo

    summary = run_demo(out)
    _report(summary, as_json, "\n".join(f"{what:<12} {path}" for what, path in asdict(summary).items()))


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder for the scenes and their truth.")],
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 3,
    size: Annotated[int, typer.Option(min=64, help="Side of a scene in pixels.")] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    platform: Annotated[
        list[str] | None, typer.Option(help="Platform's name; may be repeated. Default: all in turn.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate SAR scenes with ground truth."""
    from fusar_klip.simulate import simulate as run

    summary = run(out, scenes=scenes, size=size, seed=seed, platforms=platform or ())
    _report(summary, as_json, f"{scenes} scenes in {out}")


@app.command()
def build(
    scenes: Annotated[
        list[Path], typer.Argument(metavar="SCENE...", help="Raster files, product folders or archives.")
    ],
    out: Annotated[Path, typer.Option(help="The data set's folder; scenes are added to one that is there.")],
    config: ConfigOption = None,
    settings: SetOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Tiles worked on at the same time.")] = 2,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler; its workers share the file system.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Facts of the scenes: CSV, or a STAC item collection.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell tiles, bytes and time ahead; write nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Cut scenes into geo-referenced tiles of fixed ground extent."""
    from fusar_klip import tiles
    from fusar_klip.config import load_settings

    given = load_settings(tiles.BuildSettings, config, settings or ())
    if dry_run:
        ahead = tiles.estimate(scenes, out, given, workers=workers, manifest=manifest)
        _report(ahead, as_json, _estimate_lines(ahead))
        _fail_for(ahead.failed, len(scenes), "cannot be built")
        return
    summary = tiles.build(scenes, out, given, workers=workers, scheduler=scheduler, manifest=manifest)
    scales = ", ".join(f"{count} {scale}" for scale, count in summary.by_scale.items())
    text = f"{summary.tiles} tiles ({scales}; {summary.kept} kept) of {summary.scenes} scenes in {out}"
    _report(summary, as_json, text)
    _fail_for(summary.failed, len(scenes), "failed, the others are kept")


def _estimate_lines(ahead: "BuildEstimate") -> str:
    lines = [
        f"{scene.scene_id}: {sum(scene.tiles.values())} of at most {sum(scene.tiles_at_most.values())} "
        f"tiles, {scene.tile_bytes / 1e6:.0f} MB, {scene.seconds:.0f} s"
        for scene in ahead.scenes
    ]
    total = (
        f"about {ahead.tiles} tiles, {ahead.tile_bytes / 1e6:.0f} MB and {ahead.scratch_bytes / 1e6:.0f} MB "
        f"of scratch ({ahead.free_bytes / 1e6:.0f} MB are free), {ahead.seconds:.0f} s "
        f"on {ahead.workers} workers"
    )
    return "\n".join([*lines, total])


def _fail_for(failed: list[dict[str, str]], given: int, what: str) -> None:
    """Exit with 2 if scenes failed, naming them all. A folder that was given can hold several scenes."""
    if failed:
        reasons = "; ".join(failure["reason"] for failure in failed)
        _fail(f"{len(failed)} of {max(given, len(failed))} scenes {what}: {reasons}")


@app.command()
def export(
    dataset: DatasetArgument,
    to: Annotated[str, typer.Option(help="stac, webdataset or hf (Hugging Face Parquet).")],
    out: Annotated[Path, typer.Option(help="The export's folder; an earlier export there is replaced.")],
    every_tile: Annotated[
        bool, typer.Option("--every-tile", help="Also the tiles that are not kept. STAC always has them.")
    ] = False,
    texts: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The texts that go along. Default: the newest.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a data set as STAC, WebDataset or Hugging Face Parquet."""
    from fusar_klip.export import export as run

    summary = run(dataset, to=to, out=out, every_tile=every_tile, texts=texts)
    left_out = f", {summary.left_out} that are not kept left out" if summary.left_out else ""
    _report(summary, as_json, f"{summary.tiles} tiles in {summary.files} files in {out}{left_out}")


@app.command()
def describe(
    dataset: DatasetArgument,
    provider: Annotated[str | None, typer.Option(help="measure, template, openai or transformers.")] = None,
    model: Annotated[str | None, typer.Option(help="The language model's name, or its folder.")] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A server that speaks OpenAI's protocol; else $OPENAI_BASE_URL, else OpenAI's.",
        ),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="How the model is led: single, chain or plain. Default: single.")
    ] = None,
    annotations: Annotated[
        str | None, typer.Option(metavar="GEOJSON", help="Annotated targets, for template.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", help="Most that the answers for this data set may cost.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell requests, tokens and cost ahead; ask nobody.")
    ] = False,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write eight sentences about every tile."""
    from fusar_klip import texts
    from fusar_klip.config import load_settings

    options = {
        "provider": provider,
        "model": model,
        "base_url": base_url,
        "mode": mode,
        "annotations": annotations,
        "budget_usd": budget,
    }
    overrides = [f"{name}={json.dumps(value)}" for name, value in options.items() if value is not None]
    given = load_settings(texts.DescribeSettings, config, [*overrides, *(settings or ())])
    if dry_run:
        ahead = texts.estimate(dataset, given)
        _report(ahead, as_json, _cost_lines(ahead))
        return
    summary = texts.describe(dataset, given)
    aside = f"; {summary.rejected} rejected, see texts/rejected.jsonl" if summary.rejected else ""
    aside += f"; {summary.cost_usd:.2f} USD" if summary.cost_usd else ""
    _report(summary, as_json, f"{summary.texts} texts of {summary.tiles} tiles in {summary.path}{aside}")


def _cost_lines(ahead: "DescribeEstimate") -> str:
    cost = "at a price that is not known" if ahead.cost_usd is None else f"for {ahead.cost_usd:.2f} USD"
    return (
        f"{ahead.requests} requests to {ahead.source} about {ahead.tiles} tiles ({ahead.cached} answers are "
        f"there): about {ahead.input_tokens} tokens in and {ahead.output_tokens} out, {cost}"
    )


@app.command()
def inspect(
    dataset: Annotated[
        Path, typer.Argument(help="A data set's folder, or a caption file (CSV, TSV, JSON, Parquet, text).")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a report with pictures, too.")
    ] = None,
    texts: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The texts that are told of. Default: the newest.")
    ] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="Another caption file or data set beside it; may be repeated.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column or key of a file's captions.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Statistics and examples of texts: richness, lengths, repetitions, word clouds."""
    from fusar_klip.texts.inspection import inspect as run

    summary = run(dataset, out=out, version=texts, against=against or (), column=column)
    _report(summary, as_json, _inspect_lines(summary))


def _inspect_lines(summary: "InspectSummary") -> str:
    head = f"{'texts':<28} {'images':>9} {'tokens/image':>13} {'MTLD':>7} {'distinct-2':>11} {'repeated':>9}"
    lines = []
    for each in summary.sets:
        mtld = "-" if each.mtld is None else f"{each.mtld:.1f}"
        lines.append(
            f"{f'{each.name} {each.about}'.strip():<28} {each.images:>9,} {each.tokens_per_image:>13.1f} "
            f"{mtld:>7} {each.distinct_2:>11.3f} {each.duplicate_captions:>9.1%}"
        )
    return "\n".join([head, *lines, *([f"the report is {summary.report}"] if summary.report else [])])


@app.command()
def review(
    dataset: DatasetArgument,
    fraction: Annotated[float, typer.Option(help="Share of the tiles that is drawn.")] = 0.02,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same tiles.")] = 0,
    texts: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The texts to judge. Default: the newest.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="The page; default: review.html in the data set. Of answers: their chart.",
        ),
    ] = None,
    answers: Annotated[
        list[Path] | None, typer.Option(help="Read answers that a page saved; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """An expert's review of a share of the texts: makes the page, or reads its answers."""
    from fusar_klip.files import write_bytes
    from fusar_klip.texts.review import accuracy_html, make_pages, read_answers

    if answers:
        result = read_answers(dataset, answers)
        if out is not None:
            write_bytes(out, accuracy_html(result).encode())
        _report(result, as_json, _accuracy_lines(result))
        return
    made = make_pages(dataset, fraction=fraction, seed=seed, version=texts, out=out)
    mend = "judge in a browser, then read with --answers FILE"
    _report(made, as_json, f"{made.tiles} of {made.of} tiles in {', '.join(made.pages)}: {mend}")


def _accuracy_lines(result: "ReviewResult") -> str:
    lines = [f"{'task':<14} {'field':<14} {'right':>6} {'wrong':>6} {'unsure':>7}  accuracy (95 % interval)"]
    for line in result.accuracy:
        share = "-"
        if line.accuracy is not None:
            share = f"{line.accuracy:6.1%} ({line.ci_low:.1%} to {line.ci_high:.1%})"
        lines.append(
            f"{line.task:<14} {line.field:<14} {line.right:>6} {line.wrong:>6} {line.unsure:>7}  {share}"
        )
    who = f"{result.answers} answers on {result.tiles} tiles by {', '.join(result.reviewers)}"
    if result.agreement is not None:
        who += f"; they agree on {result.agreement:.1%} (kappa {result.kappa:.2f})"
    return "\n".join([*lines, who])


@app.command()
def pretrain(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder.")],
    config: ConfigOption = None,
    settings: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stood.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train image and text encoders together (ITC, ITM, MLM)."""
    from fusar_klip.config import load_settings
    from fusar_klip.pretrain import PretrainSettings
    from fusar_klip.pretrain import pretrain as run

    summary = run(dataset, out, load_settings(PretrainSettings, config, settings or ()), resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return  # of the processes that torchrun starts, the first one reports
    left_out = f", {summary.skipped_steps} of them left out" if summary.skipped_steps else ""
    _report(summary, as_json, f"{summary.steps} steps{left_out}; the run is {summary.run}")


@app.command()
def refine(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="A data set's folder; or a CSV, TSV or Parquet of image paths and captions.",
        ),
    ],
    checkpoint: Annotated[str, typer.Option(metavar="RUN", help="The run whose model judges and writes.")],
    texts: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="The texts to judge. Default: the newest that SCIO has not made."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a table: the new one. Default: NAME.refined.csv.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of a table: where its image paths start from.")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Of a table: column of image paths.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Of a table: column of captions.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what is false in texts with a checkpoint, leave it out, and write it anew (SCIO)."""
    from fusar_klip.config import load_settings
    from fusar_klip.pretrain import refine as stage
    from fusar_klip.pretrain.scio import ScioSettings

    summary = stage.refine(
        source,
        checkpoint,
        load_settings(ScioSettings, config, settings or ()),
        version=texts,
        out=out,
        images=images,
        image_column=image_column,
        caption_column=caption_column,
    )
    _report(summary, as_json, stage.in_words(summary))


@app.command()
def benchmark(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT...",
            help="A run, untrained:RUN for its fresh twin, a zoo name, clip:FILE, or llm:NAME for vqa.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RESULTS", help="Folder for results and reports.")],
    suite: Annotated[Path | None, typer.Option(help="TOML file that lists what is measured.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    base_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The server of llm:NAME; else $OPENAI_BASE_URL, else OpenAI's."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare checkpoints on labelled data sets."""
    from fusar_klip.benchmark import benchmark as run

    summary = run(checkpoints, out, suite=suite, data=data, tasks=task or (), base_url=base_url)
    _report(
        summary,
        as_json,
        f"{summary.rows_run + summary.rows_reused} rows; the report is {summary.report_html}",
    )


@app.command(name="label-texts")
def write_label_texts(
    reader: Annotated[str, typer.Argument(help="How the data set lies on disk: coco, hrsid, ombria, ...")],
    path: Annotated[Path, typer.Argument(help="Folder of a data set with boxes or masks.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for captions and questions.")],
    split: Annotated[
        str | None,
        typer.Option(
            help="given, paper (random 4:1) or grouped. Default: as given, or else near-duplicates together."
        ),
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write captions and questions with answers from a data set's boxes or masks."""
    from fusar_klip.benchmark.language.label_texts import TextSettings, label_texts
    from fusar_klip.config import load_settings

    given = load_settings(TextSettings, config, settings or ())
    summary = label_texts(reader, path, out, split=split, settings=given)
    _report(
        summary,
        as_json,
        f"{summary.captions} captions and {summary.questions} questions of {summary.images} images in {out}",
    )


@app.command(name="models")
def list_models(as_json: JsonOption = False) -> None:
    """List the models of other projects that benchmark takes by name, and where their weights are."""
    from fusar_klip.benchmark.zoo import listing

    _report(listing.listing(), as_json, listing.text())


@app.command()
def index(
    dataset: DatasetArgument,
    checkpoint: Annotated[str, typer.Option(metavar="RUN", help="The run whose model embeds the tiles.")],
    out: Annotated[Path, typer.Option(metavar="INDEX", help="The index's folder.")],
    as_json: JsonOption = False,
) -> None:
    """Embed a data set's tiles for search."""
    from fusar_klip.search import build_index

    summary = build_index(dataset, checkpoint, out)
    _report(summary, as_json, f"{summary.tiles} tiles in {out}")


@app.command()
def search(
    index: Annotated[Path, typer.Argument(help="An index's folder.")],
    query: Annotated[str, typer.Argument(help="Words, or the path of an image.")],
    bbox: Annotated[
        str | None, typer.Option(metavar="W,S,E,N", help="Only tiles that touch this box, in degrees.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many results.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Find tiles by words, within a box on the map."""
    from fusar_klip.search import search as run

    results = run(index, query, bbox=_parse_bbox(bbox) if bbox else None, top=top)
    _report(results, as_json, "\n".join(map(_hit_lines, results.hits)))


def _hit_lines(hit: "Hit") -> str:
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


@app.command()
def caption(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Tiles, PNG or JPEG files.")],
    checkpoint: Annotated[str, typer.Option(metavar="RUN", help="The run whose model writes.")],
    as_json: JsonOption = False,
) -> None:
    """Describe images in words."""
    from fusar_klip.models.said import captions

    said = captions(images, checkpoint)
    _report(said, as_json, "\n\n".join(f"{image}\n{text}" for image, text in said.captions.items()))


@app.command()
def ask(
    image: Annotated[Path, typer.Argument(help="A tile, PNG or JPEG file.")],
    question: Annotated[str, typer.Argument(help="Such as: How many ships are in this SAR image?")],
    checkpoint: Annotated[
        str, typer.Option(metavar="RUN", help="A run that a vqa row of benchmark kept (save = true).")
    ],
    as_json: JsonOption = False,
) -> None:
    """Answer a question about an image."""
    from fusar_klip.models.said import answer

    said = answer(image, question, checkpoint)
    _report(said, as_json, said.answer)


def _later(verb: str) -> Callable[[list[str] | None], None]:
    def say_so(_arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
        raise NotInThisVersionError(f"{verb} is not in this version: fusar-klip --help lists what is")

    return say_so


for _verb, _help in LATER_VERBS.items():
    app.command(
        _verb,
        help=f"{_help} (Not in this version.)",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(_later(_verb))
