"""Generates captions and questions from labels: in memory for the benchmark, or as files for `label-texts`.

    fusar-klip label-texts hrsid DATA/HRSID --out TEXTS

Boxes give texts about targets, masks give texts about land cover. The same labels, settings and seed give the
same bytes.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
from pydantic import Field

from fusar_klip.config import Settings
from fusar_klip.datasets.label_texts.captions import land_captions, target_captions
from fusar_klip.datasets.label_texts.label_summary import summarize_land_cover, summarize_targets
from fusar_klip.datasets.label_texts.language_data import (
    CaptionedImage,
    LanguageData,
    Question,
    write_records,
)
from fusar_klip.datasets.label_texts.questions import land_questions, target_questions
from fusar_klip.datasets.labelled_data import (
    DetectionData,
    ImageWithBoxes,
    ImageWithMask,
    SegmentationData,
    read_mask,
)
from fusar_klip.datasets.loading import load_detection, load_segmentation
from fusar_klip.datasets.registry import DATASETS, check_reader
from fusar_klip.datasets.splits import LabelledSplitSettings, SplitMethod
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.progress import track


class LabelTextSettings(Settings):
    """How texts are generated from labels."""

    target_grid: int = Field(default=3, ge=1, le=9)
    """Targets lie in one of target_grid x target_grid regions."""
    land_grid: int = Field(default=2, ge=1, le=9)
    """Land cover is described for land_grid x land_grid regions."""
    least_share: float = Field(default=0.01, ge=0, lt=1)
    """A class is present if it has at least this share of the labelled pixels."""
    text_seed: int = Field(default=0, ge=0)
    """Draws the absent category and the region of the questions."""


@dataclass(frozen=True)
class LabelTextsSummary:
    """The result of `label_texts`."""

    out: str
    images: int
    by_part: dict[str, int]
    captions: int
    questions: int
    by_kind: dict[str, int]
    sha256: dict[str, str]


def label_texts(
    reader: str,
    path: Path,
    out: Path,
    *,
    split: str | None = None,
    settings: LabelTextSettings | None = None,
) -> LabelTextsSummary:
    """Write OUT/captions.jsonl, questions.jsonl and, last, label_texts.json.

    Args:
        reader: A detection or segmentation reader of the registry.
        path: The data set's folder.
        out: Folder to create, or to overwrite.
        split: How the images are split. By default the data set's own split is used; without one, whole
            groups of near-duplicates are split 80/20.
        settings: How texts are generated.

    Raises:
        SettingsError: There is no such reader or split.
        DatasetError: The data set is missing or wrong, or has no split of its own where `split` is `given`.
    """
    if split is not None and split not in get_args(SplitMethod):
        raise SettingsError(f'no split "{split}"; splits: {", ".join(get_args(SplitMethod))}')
    settings = settings or LabelTextSettings()
    how = LabelledSplitSettings(
        split="grouped", split_by=cast(SplitMethod | None, split), split_seed=settings.text_seed
    )
    data = load_boxes_or_masks(reader, path, how, path.name)
    built = build_texts(data, settings)
    provenance = {
        "reader": reader,
        "split": split or "grouped",
        "labels": data.digest,
        **settings.model_dump(),
    }
    checksums = write_records(out, built, path, provenance)
    return LabelTextsSummary(
        out=str(out),
        images=len(built.images),
        by_part=dict(sorted(Counter(str(image.part) for image in built.images).items())),
        captions=sum(len(image.captions) for image in built.images),
        questions=len(built.questions),
        by_kind=dict(Counter(question.kind for question in built.questions)),
        sha256=checksums,
    )


def load_boxes_or_masks(
    reader: str, path: Path, split: LabelledSplitSettings, name: str
) -> DetectionData | SegmentationData:
    """Read and split a data set with boxes or masks; raises as `label_texts`."""
    if DATASETS[check_reader(reader, "detection", "segmentation")].TASK == "detection":
        return load_detection(reader, path, split, name)
    return load_segmentation(reader, path, split, name)


def build_texts(data: DetectionData | SegmentationData, settings: LabelTextSettings) -> LanguageData:
    """Return the captions and questions of a data set; images without labelled pixels are omitted."""
    rng = np.random.default_rng(settings.text_seed)
    images: list[CaptionedImage] = []
    questions: list[Question] = []

    def add(image: ImageWithBoxes | ImageWithMask, captions: tuple[str, ...], asked: list[Question]) -> None:
        images.append(CaptionedImage(image.file, image.name, image.part, image.group, captions))
        questions.extend(asked)

    if isinstance(data, DetectionData):
        categories = tuple(sorted({box.category for image in data.images for box in image.boxes}))
        for boxed in data.images:
            targets = summarize_targets(boxed, settings.target_grid)
            asked = target_questions(len(images), targets, categories, rng)
            add(boxed, target_captions(targets), asked)
        return LanguageData(tuple(images), tuple(questions), categories, data)
    for masked in track(data.images, "Reading masks"):
        mask = read_mask(masked.mask, data.table)
        land = summarize_land_cover(mask, data.classes, settings.land_grid, settings.least_share)
        if land is not None:
            asked = land_questions(len(images), land)
            add(masked, land_captions(land), asked)
    if not images:
        raise DatasetError("no mask of the data set has a labelled pixel: check its class table")
    return LanguageData(tuple(images), tuple(questions), data.classes, data)
