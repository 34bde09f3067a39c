"""The verbs that learn, and that mend texts by what was learnt: pretrain, refine."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fusar_klip.cli.options import ConfigOption, DatasetArgument, JsonOption, SetOption
from fusar_klip.cli.output import report


def pretrain(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder.")],
    config: ConfigOption = None,
    settings: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stood.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train image and text encoders together (ITC, ITM, MLM), or a baseline (MAE, MoCo v3)."""
    from fusar_klip.config import load_settings
    from fusar_klip.pretrain import PretrainSettings
    from fusar_klip.pretrain import pretrain as run

    summary = run(dataset, out, load_settings(PretrainSettings, config, settings or ()), resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return  # of the processes that torchrun starts, the first one reports
    left_out = f", {summary.skipped_steps} of them left out" if summary.skipped_steps else ""
    report(summary, as_json, f"{summary.steps} steps{left_out}; the run is {summary.run}")


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
    from fusar_klip.scio import ScioSettings
    from fusar_klip.scio import refine as stage

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
    report(summary, as_json, stage.in_words(summary))
