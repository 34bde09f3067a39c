"""The verbs that train a model, and that clean texts with a trained one: pretrain, refine."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fusar_klip.cli.options import ConfigOption, DatasetArgument, JsonOption, SetOption
from fusar_klip.cli.output import report


def pretrain(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    config: ConfigOption = None,
    settings: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pretrain an image-text model (ITC, ITM, MLM), or an image-only baseline (MAE, MoCo v3)."""
    from fusar_klip.config import load_settings
    from fusar_klip.pretrain import PretrainSettings
    from fusar_klip.pretrain import pretrain as run
    from fusar_klip.scio import refine_texts

    given = load_settings(PretrainSettings, config, settings or ())
    summary = run(dataset, out, given, resume=resume, refine_texts=refine_texts)
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun, only rank 0 reports
    skipped = f" ({summary.skipped_steps} skipped)" if summary.skipped_steps else ""
    report(summary, as_json, f"{summary.steps} steps{skipped}; the run is {summary.run}")


def refine(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Folder of a data set; or a CSV, TSV or Parquet file of image paths and captions.",
        ),
    ],
    checkpoint: Annotated[
        str, typer.Option(metavar="RUN", help="The run whose model screens and rewrites the texts.")
    ],
    texts: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="Version of the texts. Default: the newest that SCIO has not made."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For a table: the output file. Default: NAME.refined, with the table's suffix.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For a table: folder that its image paths are relative to."),
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="For a table: column of the image paths.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="For a table: column of the captions.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove or rewrite sentences that a checkpoint finds to mismatch their image (SCIO)."""
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
    report(summary, as_json, stage.summary_text(summary))
