"""Captions and questions of images: the classes, and the two files that store them.

    DIR/captions.jsonl     one image a line: {image, part, group, captions}
    DIR/questions.jsonl    one question a line: {image, part, group, kind, question, answers, answer_type}
    DIR/label_texts.json   source, settings, and the files' SHA-256; written last

`image` is a path below the data set's folder; label_texts.json gives that folder relative to DIR.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fusar_klip.datasets.labelled_data import DatasetNotFoundError, DetectionData, Part, SegmentationData
from fusar_klip.errors import DatasetError
from fusar_klip.files import read_json, sha256, write_bytes, write_json

QuestionKind = Literal[
    "target_count", "target_category", "target_position", "main_land", "all_land", "regional_land"
]
KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)
"""The six kinds, in the order of table 6."""
AnswerType = Literal["number", "name", "set"]
"""One number; one name; or a set of names or of numbers, whose order does not count."""

CAPTIONS, QUESTIONS, MANIFEST = "captions.jsonl", "questions.jsonl", "label_texts.json"
NONE = "none"
"""The answer to `target_category` in an image without targets."""


@dataclass(frozen=True)
class CaptionedImage:
    """An image and its captions."""

    file: Path
    name: str
    """Its path below the data set's folder, with forward slashes."""
    part: Part | None
    group: str | None
    captions: tuple[str, ...]
    """Each describes the image, in different words."""


@dataclass(frozen=True)
class Question:
    """A question about an image, and its answer.

    Its `repr` goes into `LanguageData.digest`, by which results are kept: a change of this class or of its
    fields would invalidate them.
    """

    image: int
    """Index of the image in the data set."""
    kind: QuestionKind
    text: str
    answers: tuple[str, ...]
    """One answer for a number or a name; the members of a set."""
    answer_type: AnswerType

    @property
    def answer(self) -> str:
        """The answer as text: "3", or "dry, flooded"."""
        return ", ".join(self.answers)


@dataclass(frozen=True)
class LanguageData:
    """N images of a data set with their captions and questions."""

    images: tuple[CaptionedImage, ...]
    questions: tuple[Question, ...]
    names: tuple[str, ...]
    """All names that occur in answers: the data set's categories or classes."""
    source: DetectionData | SegmentationData | None = None
    """The labels from which the texts were generated; None where the texts were read from files."""

    def part(self, part: Part) -> NDArray[np.int64]:
        """Return the indices of the images of one part, ascending."""
        return np.flatnonzero([image.part == part for image in self.images])

    def asked(self, part: Part) -> list[Question]:
        """Return the questions about the images of one part."""
        return [question for question in self.questions if self.images[question.image].part == part]

    def groups(self, chosen: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return (len(chosen),) the group number of each chosen image, or None without groups."""
        names = [self.images[i].group for i in chosen]
        if any(name is None for name in names):
            return None
        return np.unique([str(name) for name in names], return_inverse=True)[1].astype(np.int64)

    @property
    def size_summary(self) -> str:
        """Sizes in one line."""
        return (
            f"{len(self.part('train'))} training and {len(self.part('test'))} test images, "
            f"{len(self.images[0].captions)} captions an image, "
            f"{len(self.asked('train'))} training and {len(self.asked('test'))} test questions"
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every text, part and group, and the images' content."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(repr((image.name, image.part, image.group, image.captions)).encode())
            digest.update(sha256(image.file).encode())
        digest.update(repr(self.questions).encode())
        return digest.hexdigest()

    @cached_property
    def notes(self) -> list[str]:
        """Notes for the reader of results."""
        notes = [] if self.source is None else list(self.source.notes)
        captions = Counter(self.images[i].captions for i in self.part("test"))
        repeated = captions.total() - len(captions)
        if repeated:
            notes.append(
                f"{repeated} of {captions.total()} test images have the same captions as another one: "
                "their labels are equal."
            )
        return notes


def write_records(out: Path, data: LanguageData, root: Path, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Write the two files and, last, the manifest; return the files' SHA-256.

    Args:
        out: Folder to make.
        data: The images and their texts.
        root: The data set's folder, below which the images lie.
        provenance: Further entries of the manifest.
    """
    captions = [
        {"image": i.name, "part": i.part, "group": i.group, "captions": list(i.captions)} for i in data.images
    ]
    questions = [
        {
            "image": data.images[q.image].name,
            "part": data.images[q.image].part,
            "group": data.images[q.image].group,
            "kind": q.kind,
            "question": q.text,
            "answers": list(q.answers),
            "answer_type": q.answer_type,
        }
        for q in data.questions
    ]
    for name, lines in ((CAPTIONS, captions), (QUESTIONS, questions)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_bytes(out / name, text.encode())
    checksums = {name: sha256(out / name) for name in (CAPTIONS, QUESTIONS)}
    images = Path(os.path.relpath(root, out)).as_posix()
    manifest = {**provenance, "images": images, "names": list(data.names), "sha256": checksums}
    write_json(out / MANIFEST, manifest)
    return checksums


def read_records(folder: Path, name: str) -> LanguageData:
    """Read the files of `write_records`, or your own files in the same format.

    Without a manifest, images lie below DIR itself, and the names are those in the answers.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: A file is missing or wrong, or an image is not there.
    """
    if not folder.is_dir():
        raise DatasetNotFoundError(
            f"{name} not found: {folder} does not exist; write it with fusar-klip label-texts, or correct "
            "the row's path"
        )
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    root = folder / manifest.get("images", ".")
    captions, questions = (_lines(folder / file) for file in (CAPTIONS, QUESTIONS))
    if not captions:
        raise DatasetError(f"{folder / CAPTIONS} is missing or empty: it lists the images")
    try:
        images = tuple(
            CaptionedImage(root / c["image"], c["image"], c["part"], c["group"], _words(c, "captions"))
            for c in captions
        )
        place = {image.name: index for index, image in enumerate(images)}
        asked = tuple(
            Question(place[q["image"]], q["kind"], q["question"], _words(q, "answers"), q["answer_type"])
            for q in questions
        )
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"{folder} has a line without {error}: see docs/datasets.md for its keys"
        ) from None
    _check(folder, images, asked)
    return LanguageData(images, asked, tuple(manifest.get("names") or _names(asked)))


def _words(line: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a line's list of texts.

    Raises:
        KeyError: It has none: a single text would be split into letters.
    """
    texts = line[key]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise KeyError(f"{key}, a list of texts")
    return tuple(texts)


def _check(folder: Path, images: Sequence[CaptionedImage], questions: Iterable[Question]) -> None:
    gone = next((image.file for image in images if not image.file.is_file()), None)
    if gone is not None:
        raise DatasetError(f"{folder} lists {gone}, which does not exist: put the images back")
    if twice := [name for name, count in Counter(i.name for i in images).items() if count > 1]:
        raise DatasetError(f"{folder / CAPTIONS} lists {twice[0]} more than once: keep one line an image")
    captions = {len(image.captions) for image in images}
    if len(captions) > 1 or 0 in captions:
        raise DatasetError(
            f"{folder / CAPTIONS} needs the same number of captions for every image, at least one"
        )
    for question in questions:
        if question.kind not in KINDS or question.answer_type not in get_args(AnswerType):
            raise DatasetError(
                f"{folder / QUESTIONS} has the kind {question.kind} and the answer type "
                f"{question.answer_type}: kinds are {', '.join(KINDS)}, types "
                f"{', '.join(get_args(AnswerType))}"
            )


def _names(questions: Iterable[Question]) -> list[str]:
    return sorted({answer for q in questions for answer in q.answers if not answer.isdigit()} - {NONE})


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise DatasetError(f"{file} is no JSON Lines file ({error}): correct it") from None
