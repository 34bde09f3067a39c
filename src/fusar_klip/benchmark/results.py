"""What one row gave for one checkpoint, kept on disk so that a killed benchmark goes on where it stood.

RESULTS/rows/<digest>.json holds one outcome. Its name is the digest of all that decides it: the
checkpoint's content, the data set's content and every value of the row. The same three come to the same
file, whichever other checkpoints and rows a command names.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fusar_klip.benchmark.metrics.scores import Score
from fusar_klip.benchmark.settings import Row
from fusar_klip.files import write_bytes

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised whenever the same row would come out otherwise, so that outcomes of older code are not reused."""
REVISIONS: Mapping[str, int] = {"captioning": 1}
"""The same for the rows of one task. Captioning, 1: METEOR of all captions together, not the mean of each."""


@dataclass(frozen=True)
class ConfusionMatrix:
    """A confusion matrix of the test part."""

    classes: list[str]
    counts: list[list[int]]
    """counts[t][p]: images of class t that were taken for class p."""


@dataclass(frozen=True)
class ClassifiedImage:
    """One test image, shown in the report."""

    picture: str
    """PNG, base64."""
    truth: str
    predicted: str
    probability: float
    """What the model gave to `predicted`, 0 to 1."""


@dataclass(frozen=True)
class RetrievedImage:
    """One tile in the answer to a text."""

    picture: str
    """PNG, base64."""
    similarity: float
    own: bool
    """Whether it is the tile that the text describes."""


@dataclass(frozen=True)
class RetrievalExample:
    """A text and the tiles that come first for it."""

    text: str
    rank: int
    """The rank of the text's own tile, 1 = first."""
    hits: list[RetrievedImage]


@dataclass(frozen=True)
class ReportFigure:
    """A figure that the task has drawn itself."""

    name: str
    """Ends its file's name: unique among the row's drawings for one model."""
    content: str
    """PNG, base64."""
    alt: str
    caption: str
    text: str = ""
    """Words printed above it."""


@dataclass(frozen=True)
class RowResult:
    """All that one row gave for one checkpoint."""

    scores: list[Score]
    chosen: dict[str, Any] = field(default_factory=dict)
    """Settings that were chosen on a held-out fifth of the training part, and how the candidates did."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers has to know."""
    confusion: ConfusionMatrix | None = None
    chips: list[ClassifiedImage] = field(default_factory=list)
    queries: list[RetrievalExample] = field(default_factory=list)
    drawings: list[ReportFigure] = field(default_factory=list)


_OUTCOME = TypeAdapter(RowResult)


def row_identity(
    row: Row, checkpoint_digest: str, data_digest: str, text_side_digest: str | None = None
) -> str:
    """Return the 64 hexadecimal digits that name an outcome: no path of this machine goes into them.

    Args:
        row: Its values.
        checkpoint_digest: The checkpoint's content.
        data_digest: The data set's content.
        text_side_digest: The content of the RUN that lends the row its text side, where one does.
    """
    values = row.model_dump(mode="json", exclude={"path"})
    parts = {"format": FORMAT, "checkpoint": checkpoint_digest, "data": data_digest, "row": values}
    if revision := REVISIONS.get(row.task):
        parts["revision"] = revision
    if text_side_digest is not None:
        values["text_side"] = text_side_digest
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_result(results: Path, identity: str) -> RowResult | None:
    """Return the kept outcome of that identity, or None."""
    path = _path(results, identity)
    if not path.is_file():
        return None
    try:
        return _OUTCOME.validate_json(path.read_bytes())
    except ValidationError:
        logger.warning("%s cannot be read, so its row is run again", path)
        return None


def write_result(results: Path, identity: str, outcome: RowResult) -> None:
    """Keep an outcome, atomically."""
    write_bytes(_path(results, identity), _OUTCOME.dump_json(outcome, indent=1) + b"\n")


def _path(results: Path, identity: str) -> Path:
    return results / "rows" / f"{identity[:20]}.json"
