"""The verbs on texts: describe, inspect, review."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusar_klip.cli.options import ConfigOption, DatasetArgument, JsonOption, SetOption
from fusar_klip.cli.output import report

if TYPE_CHECKING:
    from fusar_klip.texts import DescribeEstimate
    from fusar_klip.texts.inspection import InspectSummary
    from fusar_klip.texts.review import ReviewResult


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
        report(ahead, as_json, _cost_lines(ahead))
        return
    summary = texts.describe(dataset, given)
    aside = f"; {summary.rejected} rejected, see texts/rejected.jsonl" if summary.rejected else ""
    aside += f"; {summary.cost_usd:.2f} USD" if summary.cost_usd else ""
    report(summary, as_json, f"{summary.texts} texts of {summary.tiles} tiles in {summary.path}{aside}")


def _cost_lines(ahead: "DescribeEstimate") -> str:
    cost = "at a price that is not known" if ahead.cost_usd is None else f"for {ahead.cost_usd:.2f} USD"
    return (
        f"{ahead.requests} requests to {ahead.source} about {ahead.tiles} tiles ({ahead.cached} answers are "
        f"there): about {ahead.input_tokens} tokens in and {ahead.output_tokens} out, {cost}"
    )


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
    report(summary, as_json, _inspect_lines(summary))


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
        report(result, as_json, _accuracy_lines(result))
        return
    made = make_pages(dataset, fraction=fraction, seed=seed, version=texts, out=out)
    mend = "judge in a browser, then read with --answers FILE"
    report(made, as_json, f"{made.tiles} of {made.of} tiles in {', '.join(made.pages)}: {mend}")


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
