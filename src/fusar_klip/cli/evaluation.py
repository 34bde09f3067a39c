"""The verbs that compare models: benchmark, label-texts, models."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand

from fusar_klip.cli.options import ConfigOption, JsonOption, SetOption
from fusar_klip.cli.output import report


def benchmark(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A run; untrained:RUN for a randomly initialised copy; a published model NAME:FILE; "
            "or llm:NAME for vqa.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RESULTS", help="Folder for results and reports.")],
    suite: Annotated[
        Path | None,
        typer.Option(help="TOML file of tasks and data sets. Default: SAR-ACD and MSTAR."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the labelled data sets.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Run only this task; may be repeated.")] = None,
    base_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Server of llm:NAME. Default: $OPENAI_BASE_URL, else OpenAI's."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate models on labelled data sets, with confidence intervals and a report."""
    from fusar_klip.benchmark import benchmark as run

    summary = run(checkpoints, out, suite=suite, data=data, tasks=task or (), base_url=base_url)
    report(
        summary,
        as_json,
        f"{summary.rows_run + summary.rows_reused} rows; the report is {summary.report_html}",
    )


class ReaderCommand(TyperCommand):
    """A verb whose help lists the readers of the registry, which is imported only for that help."""

    # typer keeps the types of a context and of a formatter private.
    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Complete the help of the argument `reader`, then print all."""
        from fusar_klip.datasets.registry import readers

        for parameter in self.params:
            if isinstance(parameter, TyperArgument) and parameter.name == "reader":
                parameter.help = f"{parameter.help}: {', '.join(readers('detection', 'segmentation'))}."
        super().format_help(ctx, formatter)


def write_label_texts(
    reader: Annotated[str, typer.Argument(help="Reader of the data set")],
    path: Annotated[Path, typer.Argument(help="Folder of a data set with boxes or masks.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for captions and questions.")],
    split: Annotated[
        str | None,
        typer.Option(
            help="given, paper (random, 80/20) or grouped (by near-duplicates). "
            "Default: given where the data set has one, else grouped."
        ),
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate captions and question-answer pairs from the boxes or masks of a data set."""
    from fusar_klip.config import load_settings
    from fusar_klip.datasets.label_texts.generate import LabelTextSettings, label_texts

    given = load_settings(LabelTextSettings, config, settings or ())
    summary = label_texts(reader, path, out, split=split, settings=given)
    report(
        summary,
        as_json,
        f"{summary.captions} captions and {summary.questions} questions of {summary.images} images in {out}",
    )


def list_models(
    name: Annotated[str | None, typer.Argument(help="Print the details of this model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the published models that can be used by name, and where to download their weights."""
    from fusar_klip.models.pretrained import model_table

    found = model_table.model_table(name)
    report(found, as_json, model_table.drawn() if name is None else model_table.details(name))
