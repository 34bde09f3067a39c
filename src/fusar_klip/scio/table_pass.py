"""A SCIO pass over a table of image paths and captions (CSV, TSV, Parquet); sentences are the segments.

It writes two files beside the table: the same table with refined captions, and a table with the decision
about each sentence. Rows are read, judged and written in blocks, so memory does not grow with the table.
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

from fusar_klip.caption_table import CaptionTable, one_line, open_caption_table
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.files import replaced
from fusar_klip.models import Klip
from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.progress import progress_bar
from fusar_klip.scio.algorithm1 import TextDecisions, refine_batch
from fusar_klip.scio.scoring import ImageBatch, ImageTextScorer, Negatives
from fusar_klip.scio.screening import SegmentedText
from fusar_klip.scio.sentences import join_sentences, sentences_of
from fusar_klip.scio.table_writer import table_writer

_log = logging.getLogger(__name__)

# Summary and log name only the first skipped rows; the table of decisions has all of them.
_MOST_NAMED = 20
# A sentence takes a separator and needs a few tokens.
_TOKENS_PER_SENTENCE = 4

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
"""Columns of the table of decisions, as in texts/vNNN.parquet. A row that is not judged is `skipped`."""


@dataclass(frozen=True)
class TableSummary:
    """The result of a pass over a table.

    Attributes:
        table: The table that was read.
        out: The table with the refined captions.
        decisions: The table with one row per sentence.
        rows: Number of rows of the table.
        judged: Number of rows whose captions were judged.
        sentences: Number of judged sentences.
        kept: Number of sentences that stay unchanged.
        noise: Number of sentences that were removed.
        reconstructed: Number of sentences that were rewritten.
        empty: Number of rows without a caption.
        unreadable: Number of rows whose image cannot be read; their captions stay unchanged.
        skipped: The first of these rows, with the reason.
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
    """A row with an image and a caption.

    Attributes:
        number: Row number in the table, from 0.
        image: Path of the image as in the table.
        sentences: The sentences of the caption.
        pixels: (S, S) uint8.
    """

    number: int
    image: str
    sentences: list[str]
    pixels: np.ndarray


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
        settings: Screening and reconstruction.
        out: The new table; None: NAME.refined with the table's suffix, beside the table. The decisions are
            written beside it, as NAME.decisions with the same suffix.
        images: The folder that relative image paths start from; None: the folder of the table.
        image_column: Column of the image paths; None: the first known name (image, image_path, ...).
        caption_column: Column of the captions; None: the first known name (caption, captions, text, ...).

    Raises:
        SettingsError: The table is missing, damaged or of another kind, or a column is missing.
        DatasetError: No row has both a caption and a readable image.
    """
    table = open_caption_table(
        path, image_folder=images, image_column=image_column, caption_column=caption_column
    )
    out = out or path.with_name(f"{path.stem}.refined{path.suffix}")
    kind = path.suffix.lower()
    if out.suffix.lower() != kind or out.resolve() == path.resolve():
        raise SettingsError(
            f"--out {out} must be another file than the table, and end in {kind}: give another --out"
        )
    log = out.with_name(f"{out.stem.removesuffix('.refined')}.decisions{kind}")
    if log.resolve() == path.resolve():
        raise SettingsError(f"the decisions would overwrite the table {log}: give another --out")
    separator = None if kind == ".parquet" else table.separator
    total, negatives = _sample_negatives(table, klip, settings)
    counts: dict[str, Any] = {"rows": total, "skipped": []}
    with ExitStack() as stack, progress_bar() as bar:
        task = bar.add_task("Refining captions", total=total)
        caption_writer = stack.enter_context(
            table_writer(stack.enter_context(replaced(out)), table.schema, separator)
        )
        decision_writer = stack.enter_context(
            table_writer(stack.enter_context(replaced(log)), _DECISIONS, separator)
        )
        first = 0
        for block in table.blocks():
            refined, decisions = _refine_rows(table, block, first, klip, negatives, settings, counts)
            caption_writer.write(_with_captions(block, table.caption_column, refined))
            decision_writer.write(
                pd.DataFrame(decisions, columns=_DECISIONS.names).astype({"sentence": "Int32"})
            )
            first += len(block)
            bar.update(task, completed=first)
    return TableSummary(str(path), str(out), str(log), **counts)


def _sample_negatives(table: CaptionTable, klip: Klip, settings: ScioSettings) -> tuple[int, Negatives]:
    """Return the number of rows, and the features of evenly spaced rows.

    Raises:
        DatasetError: None of these rows has both a caption and a readable image.
    """
    total = 0
    try:
        for block in table.blocks():
            total += len(block)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise SettingsError(
            f"{table.path} cannot be read to its end ({one_line(error)}): repair or replace it"
        ) from error
    if not total:
        raise SettingsError(f"{table.path} has no rows: give a table with captions")
    every = math.ceil(total / settings.references)

    def batches() -> Iterator[tuple[ImageBatch, list[list[int]]]]:
        first, sample = 0, []
        for block in table.blocks():
            sample += _readable(table, block.iloc[-first % every :: every], first, klip, None)
            first += len(block)
            while len(sample) >= settings.images_per_block or (sample and first == total):
                rows, sample = sample[: settings.images_per_block], sample[settings.images_per_block :]
                texts = [klip.tokenizer.join(_segmented_text(row, klip).segments) for row in rows]
                yield _image_batch(rows, klip), texts

    negatives = Negatives.encode(klip.network, klip.tokenizer, batches(), settings.texts_per_batch)
    if not len(negatives.ids_q):
        raise DatasetError(
            f"{table.path} has no row with a caption and a readable image: relative paths start from "
            f"{table.image_folder}; give another folder with --images"
        )
    return total, negatives


def _identity(row: _Row) -> int:
    """Return a number that identifies the row's image: rows of one image are not negatives of each other."""
    # Python's own string hash differs from run to run.
    return int(pd.util.hash_array(np.array([row.image], object))[0].astype(np.int64))


def _readable(
    table: CaptionTable, block: pd.DataFrame, first: int, klip: Klip, skipped: dict[int, str] | None
) -> list[_Row]:
    """Return the rows with a caption and a readable image; add the reasons of the others to `skipped`."""
    rows = []
    cells = zip(block[table.image_column], block[table.caption_column], strict=True)
    for number, (image, caption) in enumerate(cells):
        sentences = sentences_of(caption)
        if not sentences:
            if skipped is not None:
                skipped[first + number] = ""
            continue
        try:
            if not isinstance(image, str) or not image.strip():
                raise DatasetError("the row names no image")
            pixels = klip.preprocess.resize(table.image_folder / image.strip())
        except DatasetError as error:
            if skipped is not None:
                skipped[first + number] = str(error)
            continue
        rows.append(_Row(first + number, image.strip(), sentences, pixels))
    return rows


def _segmented_text(row: _Row, klip: Klip) -> SegmentedText:
    """Return the sentences that are judged: the first `max_tokens` / 4; later ones stay unchanged."""
    max_tokens = klip.network.settings.max_tokens
    sentences = row.sentences[: max_tokens // _TOKENS_PER_SENTENCE]
    return SegmentedText(klip.tokenizer.segments(sentences, max_tokens), (True,) * len(sentences))


def _image_batch(rows: Sequence[_Row], klip: Klip) -> ImageBatch:
    pixels = klip.preprocess.standardise(np.stack([row.pixels for row in rows])).to(klip.device)
    return ImageBatch(pixels, [_identity(row) for row in rows])


def _refine_rows(
    table: CaptionTable,
    block: pd.DataFrame,
    first: int,
    klip: Klip,
    negatives: Negatives,
    settings: ScioSettings,
    counts: dict[str, Any],
) -> tuple[dict[int, list[str]], list[dict[str, Any]]]:
    """Return the new sentences by index in the block, and the rows of the table of decisions."""
    captions: dict[int, list[str]] = {}
    decisions: list[dict[str, Any]] = []
    for start in range(0, len(block), settings.images_per_block):
        part = block.iloc[start : start + settings.images_per_block]
        skipped: dict[int, str] = {}
        rows = _readable(table, part, first + start, klip, skipped)
        for number, reason in skipped.items():
            image = str(part[table.image_column].iloc[number - first - start])
            decisions.append(
                {"row": number, "image": image, "verdict": "skipped", "text": reason or "no caption"}
            )
            _count_skipped(counts, number, image, reason)
        if not rows:
            continue
        scorer = ImageTextScorer(
            klip.network,
            klip.tokenizer,
            _image_batch(rows, klip),
            negatives,
            texts_per_batch=settings.texts_per_batch,
        )
        texts = [_segmented_text(row, klip) for row in rows]
        for row, text_decisions in zip(rows, refine_batch(scorer, texts, settings), strict=True):
            captions[row.number - first] = _apply(row, text_decisions, decisions, counts)
    decisions.sort(key=lambda values: (values["row"], values.get("sentence", 0)))
    return captions, decisions


def _count_skipped(counts: dict[str, Any], number: int, image: str, reason: str) -> None:
    kind = "unreadable" if reason else "empty"
    counts[kind] = counts.get(kind, 0) + 1
    if reason and len(counts["skipped"]) < _MOST_NAMED:
        counts["skipped"].append({"row": number, "image": image, "reason": reason})
        _log.warning("row %d stays unchanged: %s", number, reason)


def _apply(
    row: _Row, text_decisions: TextDecisions, decisions: list[dict[str, Any]], counts: dict[str, Any]
) -> list[str]:
    """Return the sentences of the new caption; add a row per sentence to `decisions`, and count them."""
    counts["judged"] = counts.get("judged", 0) + 1
    of_sentence = text_decisions.segments
    sentences = []
    for i, sentence in enumerate(row.sentences):
        decision = of_sentence[i] if i < len(of_sentence) else None
        values: dict[str, Any] = {"row": row.number, "image": row.image, "sentence": i, "text": sentence}
        if decision is None:
            decisions.append({**values, "verdict": "original"})
            sentences.append(sentence)
            continue
        new = decision.text if decision.text is None or decision.text[-1:] in ".!?" else f"{decision.text}."
        decisions.append(
            {
                **values,
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
    for i, sentences in captions.items():
        values[i] = join_sentences(sentences) if isinstance(values[i], str) else sentences
    return block.assign(**{column: pd.Series(values, index=block.index, dtype=object)})
