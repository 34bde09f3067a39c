"""The result of one row for one checkpoint, kept on disk so that an interrupted benchmark resumes at its row.

RESULTS/rows/<digest>.json holds one result. Its name is the digest of everything that decides it: the
checkpoint's content, the data set's content, the content of an attached text side, and every value of the row
but its path. The same four give the same file, whichever other checkpoints and rows a command names.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fusar_klip.benchmark.metrics.bootstrap import Score
from fusar_klip.benchmark.settings import Row
from fusar_klip.files import write_bytes

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised whenever the same row would give another result, so that results of older code are not reused."""
REVISIONS: Mapping[str, int] = {"captioning": 1}
"""The same for the rows of one task. Captioning, 1: METEOR of all captions together, not the mean of each."""

# The names of the fields below are the keys of RESULTS/rows/*.json.


@dataclass(frozen=True)
class ConfusionMatrix:
    """A confusion matrix of the test part."""

    classes: list[str]
    counts: list[list[int]]
    """counts[t][p]: number of images of class t that were predicted as class p."""


@dataclass(frozen=True)
class ClassifiedImage:
    """A test image with its true and its predicted class."""

    picture: str
    """PNG, base64."""
    truth: str
    predicted: str
    probability: float
    """The model's probability of `predicted`, 0 to 1."""


@dataclass(frozen=True)
class RetrievedImage:
    """An image that was retrieved for a text."""

    picture: str
    """PNG, base64."""
    similarity: float
    """Cosine of image and text."""
    own: bool
    """Whether it is the image that the text describes."""


@dataclass(frozen=True)
class RetrievalExample:
    """A text and the images that rank first for it."""

    text: str
    rank: int
    """The rank of the text's own image, 1 = first."""
    hits: list[RetrievedImage]


@dataclass(frozen=True)
class ReportFigure:
    """A figure that the task has drawn itself."""

    name: str
    """End of the file's name: unique among the row's figures for one model."""
    content: str
    """PNG, base64."""
    alt: str
    caption: str
    text: str = ""
    """Text that is printed above it."""


@dataclass(frozen=True)
class RowResult:
    """Everything that one row gives for one checkpoint."""

    scores: list[Score]
    chosen: dict[str, Any] = field(default_factory=dict)
    """The setting chosen on a held-out fifth of the training part, and every candidate's accuracy."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the reader of the scores. The report prints the model's name before a note that starts with
    a lower-case letter."""
    confusion: ConfusionMatrix | None = None
    chips: list[ClassifiedImage] = field(default_factory=list)
    queries: list[RetrievalExample] = field(default_factory=list)
    drawings: list[ReportFigure] = field(default_factory=list)


_RESULT = TypeAdapter(RowResult)


def row_identity(
    row: Row, checkpoint_digest: str, data_digest: str, text_side_digest: str | None = None
) -> str:
    """Return the 64 hexadecimal digits that identify a result; they depend on no path of this machine.

    Args:
        row: The row's values.
        checkpoint_digest: Digest of the checkpoint's content.
        data_digest: Digest of the data set's content.
        text_side_digest: Digest of the RUN that provides the row's text side; None where none does.
    """
    values = row.model_dump(mode="json", exclude={"path"})
    parts = {"format": FORMAT, "checkpoint": checkpoint_digest, "data": data_digest, "row": values}
    if revision := REVISIONS.get(row.task):
        parts["revision"] = revision
    if text_side_digest is not None:
        values["text_side"] = text_side_digest
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_result(results: Path, identity: str) -> RowResult | None:
    """Return the result of that identity in RESULTS; None where there is none or it cannot be read."""
    path = _path(results, identity)
    if not path.is_file():
        return None
    try:
        return _RESULT.validate_json(path.read_bytes())
    except ValidationError:
        logger.warning("%s cannot be read, so its row runs again", path)
        return None


def write_result(results: Path, identity: str, result: RowResult) -> None:
    """Write a result to RESULTS, atomically."""
    write_bytes(_path(results, identity), _RESULT.dump_json(result, indent=1) + b"\n")


def _path(results: Path, identity: str) -> Path:
    return results / "rows" / f"{identity[:20]}.json"
