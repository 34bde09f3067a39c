"""`fusar-klip refine`: a SCIO pass with any checkpoint over a data set, or over a table of image captions."""

from pathlib import Path

import torch

from fusar_klip.catalog import described_versions, read_text_metadata
from fusar_klip.errors import SettingsError
from fusar_klip.models import ModelRef, load
from fusar_klip.scio import RefineSummary, ScioSettings, TableSummary, refine_table, refine_texts

# More noise than this in useful texts is unlikely; the model is then the more likely cause.
_PLAUSIBLE_NOISE = 1 / 3


def refine(
    source: Path,
    checkpoint: str,
    settings: ScioSettings,
    *,
    version: str | None = None,
    out: Path | None = None,
    images: Path | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> RefineSummary | TableSummary:
    """Screen and reconstruct the texts of `source`.

    Args:
        source: The folder of a data set, or a CSV, TSV or Parquet file of image paths and captions.
        checkpoint: A RUN, or one of its safetensors files.
        settings: Screening and reconstruction.
        version: For a data set: the text version to read. None: the newest that SCIO has not written.
        out: For a table: the new table.
        images: For a table: the folder that relative image paths start from.
        image_column: For a table: the column of image paths.
        caption_column: For a table: the column of captions.

    Raises:
        SettingsError: An option does not apply to the source, or the table cannot be read.
        DatasetError: The data set or the text version is missing, or it has nothing to judge.
        CheckpointError: The checkpoint is missing, or does not fit the model.
    """
    if not (settings.screen or settings.reconstruct):
        raise SettingsError(
            "screen and reconstruct are both false, so there is nothing to do: set one to true"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not source.is_dir() and source.suffix:
        if version is not None:
            raise SettingsError(f"--texts applies only to data sets, and {source} is a table: leave it out")
        return refine_table(
            source,
            load(checkpoint, device),
            settings,
            out=out,
            images=images,
            image_column=image_column,
            caption_column=caption_column,
        )
    of_tables: dict[str, object] = {"--out": out, "--images": images}
    of_tables |= {"--image-column": image_column, "--caption-column": caption_column}
    if given := [name for name, value in of_tables.items() if value is not None]:
        raise SettingsError(f"{', '.join(given)}: only for tables, and {source} is a data set: leave it out")
    version = version or _newest_described(source)
    klip = load(checkpoint, device)
    return refine_texts(
        source,
        version,
        klip.network,
        klip.tokenizer,
        klip.preprocess,
        settings,
        maker={"verb": "refine", "checkpoint": ModelRef.parse(checkpoint).digest()},
    )


def summary_text(summary: RefineSummary | TableSummary) -> str:
    """Return the counts as a sentence, with a warning if much is called noise."""
    return _counts_text(summary) + _warning(summary)


def _warning(summary: RefineSummary | TableSummary) -> str:
    noise = summary.noise + summary.reconstructed
    if noise <= _PLAUSIBLE_NOISE * (summary.kept + noise):
        return ""
    return (
        ".\nMore than a third is called noise, as by models that have hardly learned such texts: look at the "
        "decisions before you train on the result"
    )


def _counts_text(summary: RefineSummary | TableSummary) -> str:
    found = f"{summary.kept} kept, {summary.noise} noise, {summary.reconstructed} reconstructed"
    if isinstance(summary, RefineSummary):
        left = "".join(f"; {count} tiles left ({why})" for why, count in summary.left.items())
        return (
            f"{summary.segments} segments of {summary.tiles} tiles: {found}{left}; "
            f"{summary.version} in {summary.dataset}, made from {summary.parent}"
        )
    aside = f"; {summary.empty} rows without a caption" if summary.empty else ""
    aside += f"; {summary.unreadable} rows whose image cannot be read" if summary.unreadable else ""
    return (
        f"{summary.sentences} sentences of {summary.judged} rows: {found}{aside}; "
        f"captions in {summary.out}, decisions in {summary.decisions}"
    )


def _newest_described(dataset: Path) -> str:
    """Return the newest text version that SCIO has not written: a repeated command reads the same one."""
    versions = described_versions(dataset)
    described = [v for v in versions if "scio" not in (read_text_metadata(dataset, v)["maker"] or {})]
    return (described or versions)[-1]
