"""SCIO over a table of image paths and captions (CSV, TSV, Parquet); a caption's sentences are its segments.

Written beside the table are the same table with the refined captions, and one of each sentence's decision.
Rows are read, judged and written in blocks, so that a table of any length fits.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.files import replaced
from fusar_klip.models import Klip
from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.progress import progress_bar
from fusar_klip.scio.block import Refined, refine_block
from fusar_klip.scio.scoring import ImageBlock, PairScorer, References
from fusar_klip.scio.screening import ImageText
from fusar_klip.scio.sentences import join_sentences
from fusar_klip.scio.table_files import CaptionTable, open_table, table_writer

_log = logging.getLogger(__name__)

# Named in the summary and in the log; all of them stand in the table of decisions.
_NAMED = 20
# A sentence takes a separator and needs some tokens to say anything.
_LEAST_TOKENS = 4

_DECISIONS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("image", pa.string()),
        pa.field("sentence", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("verdict", pa.string(), nullable=False),
        ("delta_itc", pa.float64()),
        ("delta_itm", pa.float64()),
        ("itm_score", pa.float64()),
        ("previous", pa.string()),
    ]
)
"""Columns of the table of decisions: as in texts/vNNN.parquet. Verdict `skipped` stands for a whole row."""


@dataclass(frozen=True)
class TableSummary:
    """A pass over a table.

    Attributes:
        table: The table that was read.
        out: The table with the refined captions.
        decisions: The table with a line per sentence.
        rows: Rows of the table.
        judged: Rows whose captions were judged.
        sentences: Sentences that were judged.
        kept: Sentences that stay as they were.
        noise: Sentences that are left out.
        reconstructed: Sentences that were written anew.
        empty: Rows without a caption.
        unreadable: Rows whose image cannot be read; their captions stay as they were.
        skipped: The first of them, and why.
    """

    table: str
    out: str
    decisions: str
    rows: int = 0
    judged: int = 0
    sentences: int = 0
    kept: int = 0
    noise: int = 0
    reconstructed: int = 0
    empty: int = 0
    unreadable: int = 0
    skipped: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    """A row with a picture and a caption.

    Attributes:
        number: Its place in the table, from 0.
        image: Its image's path as the table gives it.
        sentences: Its caption.
        square: (S, S) uint8.
    """

    number: int
    image: str
    sentences: list[str]
    square: np.ndarray


def refine_table(
    path: Path,
    klip: Klip,
    settings: ScioSettings,
    *,
    out: Path | None = None,
    images: Path | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> TableSummary:
    """Screen and reconstruct the captions of a table.

    Args:
        path: CSV, TSV or Parquet, with a column of image paths and one of captions (texts, or lists of
            sentences).
        klip: The model.
        settings: What to do.
        out: The new table; None: beside the old one, NAME.refined.csv. The decisions go beside it,
            NAME.decisions.csv.
        images: The folder that relative image paths start from; None: the table's own.
        image_column: Column of the image paths; None: the first of the usual names.
        caption_column: Column of the captions; None: the first of the usual names.

    Raises:
        SettingsError: The table is missing, of another kind or damaged, or has no such column.
        DatasetError: No row has both a caption and an image that can be read.
    """
    table = open_table(path, images, image_column, caption_column)
    out = out or path.with_name(f"{path.stem}.refined{path.suffix}")
    kind = path.suffix.lower()
    if out.suffix.lower() != kind or out.resolve() == path.resolve():
        raise SettingsError(f"--out {out} must be another file than the table, and end in {kind} as it does")
    log = out.with_name(f"{out.stem.removesuffix('.refined')}.decisions{kind}")
    if log.resolve() == path.resolve():
        raise SettingsError(f"{log} would take the decisions and is the table itself: give another --out")
    total, references = _references(table, klip, settings)
    counts: dict[str, Any] = {"rows": total, "skipped": []}
    with ExitStack() as stack, progress_bar() as bar:
        task = bar.add_task("Refining captions", total=total)
        captions = stack.enter_context(table_writer(stack.enter_context(replaced(out)), kind, table.schema))
        decisions = stack.enter_context(table_writer(stack.enter_context(replaced(log)), kind, _DECISIONS))
        first = 0
        for block in table.blocks():
            refined, lines = _refine_rows(table, block, first, klip, references, settings, counts)
            captions.write(_with_captions(block, table.caption, refined))
            decisions.write(pd.DataFrame(lines, columns=_DECISIONS.names).astype({"sentence": "Int32"}))
            first += len(block)
            bar.update(task, completed=first)
    return TableSummary(str(path), str(out), str(log), **counts)


def _references(table: CaptionTable, klip: Klip, settings: ScioSettings) -> tuple[int, References]:
    """Return the number of rows, and features of evenly spaced rows.

    Raises:
        DatasetError: No such row has both a caption and an image that can be read.
    """
    total = 0
    try:
        for block in table.blocks():
            total += len(block)
    except (ValueError, OSError, pa.ArrowException) as error:
        what = " ".join(str(error).split())
        raise SettingsError(f"{table.path} cannot be read to its end ({what}): mend or replace it") from error
    if not total:
        raise SettingsError(f"{table.path} has no rows: give a table with captions")
    every = math.ceil(total / settings.references)

    def blocks() -> Iterator[tuple[ImageBlock, list[list[int]]]]:
        first, sample = 0, []
        for block in table.blocks():
            sample += _readable(table, block.iloc[-first % every :: every], first, klip, None)
            first += len(block)
            while len(sample) >= settings.images_per_block or (sample and first == total):
                taken, sample = sample[: settings.images_per_block], sample[settings.images_per_block :]
                texts = [klip.tokenizer.join(_image_text(row, klip).segments) for row in taken]
                yield _images(taken, klip), texts

    references = References.encode(klip.network, klip.tokenizer, blocks(), settings.texts_per_batch)
    if not len(references.ids_q):
        raise DatasetError(
            f"{table.path} has no row with a caption and an image that can be read: relative paths start "
            f"from {table.images}; give another folder with --images"
        )
    return total, references


def _identity(row: _Row) -> int:
    """Return a number that stands for the row's image: rows of the same image are never negatives."""
    # Python's own hash of a text differs from run to run.
    return int(pd.util.hash_array(np.array([row.image], object))[0].astype(np.int64))


def _readable(
    table: CaptionTable, block: pd.DataFrame, first: int, klip: Klip, skipped: "dict[int, str] | None"
) -> list[_Row]:
    """Return the rows that have a caption and a picture; put the reasons of the others into `skipped`."""
    rows = []
    for number, (image, caption) in enumerate(zip(block[table.image], block[table.caption], strict=True)):
        sentences = table.sentences(caption)
        if not sentences:
            if skipped is not None:
                skipped[first + number] = ""
            continue
        try:
            if not isinstance(image, str) or not image.strip():
                raise DatasetError("the row names no image")
            square = klip.preprocess.resize(table.images / image.strip())
        except DatasetError as error:
            if skipped is not None:
                skipped[first + number] = str(error)
            continue
        rows.append(_Row(first + number, image.strip(), sentences, square))
    return rows


def _image_text(row: _Row, klip: Klip) -> ImageText:
    """Return the sentences that are judged: what a caption says after some forty of them stays as it is."""
    longest = klip.network.settings.max_tokens
    sentences = row.sentences[: longest // _LEAST_TOKENS]
    return ImageText(klip.tokenizer.segments(sentences, longest), (True,) * len(sentences))


def _images(rows: Sequence[_Row], klip: Klip) -> ImageBlock:
    pixels = klip.preprocess.standardise(np.stack([row.square for row in rows])).to(klip.device)
    return ImageBlock(pixels, [_identity(row) for row in rows])


def _refine_rows(
    table: CaptionTable,
    block: pd.DataFrame,
    first: int,
    klip: Klip,
    references: References,
    settings: ScioSettings,
    counts: dict[str, Any],
) -> tuple[dict[int, list[str]], list[dict[str, Any]]]:
    """Return the new sentences by place in the block, and the lines of the table of decisions."""
    captions: dict[int, list[str]] = {}
    lines: list[dict[str, Any]] = []
    for start in range(0, len(block), settings.images_per_block):
        part = block.iloc[start : start + settings.images_per_block]
        skipped: dict[int, str] = {}
        rows = _readable(table, part, first + start, klip, skipped)
        for number, reason in skipped.items():
            image = str(part[table.image].iloc[number - first - start])
            lines.append(
                {"row": number, "image": image, "verdict": "skipped", "text": reason or "no caption"}
            )
            _count_skipped(counts, number, image, reason)
        if not rows:
            continue
        scorer = PairScorer(
            klip.network,
            klip.tokenizer,
            _images(rows, klip),
            references,
            texts_per_batch=settings.texts_per_batch,
        )
        texts = [_image_text(row, klip) for row in rows]
        for row, refined in zip(rows, refine_block(scorer, texts, settings), strict=True):
            captions[row.number - first] = _apply(row, refined, lines, counts)
    lines.sort(key=lambda line: (line["row"], line.get("sentence", 0)))
    return captions, lines


def _count_skipped(counts: dict[str, Any], number: int, image: str, reason: str) -> None:
    kind = "unreadable" if reason else "empty"
    counts[kind] = counts.get(kind, 0) + 1
    if reason and len(counts["skipped"]) < _NAMED:
        counts["skipped"].append({"row": number, "image": image, "reason": reason})
        _log.warning("row %d is left as it is: %s", number, reason)


def _apply(row: _Row, refined: Refined, lines: list[dict[str, Any]], counts: dict[str, Any]) -> list[str]:
    """Return the sentences of the new caption; add a line per sentence, and count it."""
    counts["judged"] = counts.get("judged", 0) + 1
    sentences = []
    for place, sentence in enumerate(row.sentences):
        decision = refined.decisions[place] if place < len(refined.decisions) else None
        line: dict[str, Any] = {"row": row.number, "image": row.image, "sentence": place, "text": sentence}
        if decision is None:
            lines.append({**line, "verdict": "original"})
            sentences.append(sentence)
            continue
        new = decision.text if decision.text is None or decision.text[-1:] in ".!?" else f"{decision.text}."
        lines.append(
            {
                **line,
                "text": new or sentence,
                "verdict": decision.verdict,
                "delta_itc": decision.delta_itc,
                "delta_itm": decision.delta_itm,
                "itm_score": decision.itm_score,
                "previous": sentence if new else None,
            }
        )
        counts["sentences"] = counts.get("sentences", 0) + 1
        counts[decision.verdict] = counts.get(decision.verdict, 0) + 1
        if decision.verdict != "noise":
            sentences.append(new or sentence)
    return sentences


def _with_captions(block: pd.DataFrame, column: str, captions: dict[int, list[str]]) -> pd.DataFrame:
    """Return the block with its new captions; a list of sentences stays a list."""
    values = list(block[column])
    for place, sentences in captions.items():
        values[place] = join_sentences(sentences) if isinstance(values[place], str) else sentences
    return block.assign(**{column: pd.Series(values, index=block.index, dtype=object)})
