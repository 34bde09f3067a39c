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
    provider: Annotated[
        str | None,
        typer.Option(
            help="measure (rule-based, no LLM), template, openai or transformers. Default: measure."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name or folder of the language model.")] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An OpenAI-compatible server. Default: $OPENAI_BASE_URL, else OpenAI's.",
        ),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="Prompting mode: single, chain or plain. Default: single.")
    ] = None,
    annotations: Annotated[
        str | None, typer.Option(metavar="GEOJSON", help="Annotated targets, for --provider template.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", help="Upper limit of the cost of this data set.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate requests, tokens and cost; send no requests.")
    ] = False,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an eight-field text for every tile, rule-based or by a language model (HCoT)."""
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
    cost = "at an unknown price" if ahead.cost_usd is None else f"for {ahead.cost_usd:.2f} USD"
    return (
        f"{ahead.requests} requests to {ahead.source} about {ahead.tiles} tiles ({ahead.cached} answers are "
        f"cached): about {ahead.input_tokens} input and {ahead.output_tokens} output tokens, {cost}"
    )


def inspect(
    dataset: Annotated[
        Path, typer.Argument(help="Folder of a data set, or a caption file (CSV, TSV, JSON, Parquet, text).")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Also write an HTML report with pictures.")
    ] = None,
    texts: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Version of the texts. Default: the newest.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Another caption file or data set to compare with; may be repeated."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column or key of the captions in a file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Report statistics and examples of texts: richness, lengths, repetitions, word clouds."""
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
    fraction: Annotated[float, typer.Option(help="Share of the tiles to sample.")] = 0.02,
    seed: Annotated[int, typer.Option(min=0, help="Random seed. The same seed samples the same tiles.")] = 0,
    texts: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Version of the texts to review. Default: the newest."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="The review page. Default: review.html in the data set. With --answers: a chart of them.",
        ),
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="Answers saved by a review page, to be evaluated; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a page on which an expert reviews a sample of the texts, or evaluate its answers."""
    from fusar_klip.files import write_bytes
    from fusar_klip.texts.review import accuracy_html, make_pages, read_answers

    if answers:
        result = read_answers(dataset, answers)
        if out is not None:
            write_bytes(out, accuracy_html(result).encode())
        report(result, as_json, _accuracy_lines(result))
        return
    made = make_pages(dataset, fraction=fraction, seed=seed, version=texts, out=out)
    next_step = "review them in a browser, then run review again with --answers FILE"
    report(made, as_json, f"{made.tiles} of {made.of} tiles in {', '.join(made.pages)}: {next_step}")


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
        who += f"; agreement {result.agreement:.1%} (kappa {result.kappa:.2f})"
    return "\n".join([*lines, who])
