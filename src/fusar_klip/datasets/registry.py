"""The registry of labelled data sets and formats that can be read, and the functions that read them by name.

A reader's name is its key in `DATASETS`. Suites, `label-texts`, error messages, CLI help and the tables of
docs/datasets.md take the names from there (a test compares the tables with `markdown_table`). `specs.py` says
how to add a data set.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from fusar_klip.datasets.classification_sets import CLASSIFICATION_SETS
from fusar_klip.datasets.detection_sets import DETECTION_SETS
from fusar_klip.datasets.labelled_data import (
    AnyImage,
    DatasetNotFoundError,
    DetectionData,
    ImageWithLabel,
    SegmentationData,
)
from fusar_klip.datasets.segmentation_sets import SEGMENTATION_SETS
from fusar_klip.datasets.specs import (
    ClassificationSpec,
    DatasetSpec,
    DetectionSpec,
    SegmentationSpec,
    Task,
)
from fusar_klip.errors import DatasetError, SettingsError

DATASETS: dict[str, DatasetSpec] = {**CLASSIFICATION_SETS, **DETECTION_SETS, **SEGMENTATION_SETS}

LABELS: Mapping[Task, str] = {"classification": "class labels", "detection": "boxes", "segmentation": "masks"}
"""The labels that a task's readers read."""

Spec = TypeVar("Spec", bound=DatasetSpec)


def readers(*tasks: Task) -> list[str]:
    """Return the names of the readers of these tasks."""
    return [reader for reader, spec in DATASETS.items() if spec.TASK in tasks]


def check_reader(reader: str, *tasks: Task) -> str:
    """Return `reader` if it is one of these tasks.

    Raises:
        SettingsError: It is not.
    """
    known = readers(*tasks)
    if reader in known:
        return reader
    labels = " or ".join(LABELS[task] for task in tasks)
    near = difflib.get_close_matches(reader, known, n=1)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise SettingsError(
        f'no reader "{reader}" of {labels}; {hint}readers: {", ".join(known)} (docs/datasets.md)'
    )


def reader_validator(*tasks: Task) -> AfterValidator:
    """Return a pydantic validator of a setting that names a reader of these tasks."""

    def check(reader: str) -> str:
        try:
            return check_reader(reader, *tasks)
        except SettingsError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(check)


ClassificationReader = Annotated[str, reader_validator("classification")]
DetectionReader = Annotated[str, reader_validator("detection")]
SegmentationReader = Annotated[str, reader_validator("segmentation")]


def read_classification_images(
    reader: str, path: Path, name: str, split_file: str = "split.csv"
) -> list[ImageWithLabel]:
    """Return the images of a classification set, sorted by name; their parts may be None.

    Args:
        reader: A key of `DATASETS`.
        path: The data set's folder.
        name: The data set's name in error messages.
        split_file: A CSV below `path` that readers of class folders use if it is there.

    Raises:
        SettingsError: There is no such reader.
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, or a file is wrong.
    """
    spec = _spec(reader, ClassificationSpec)
    _check_folder(path, name, spec)
    images = sorted(spec.read(path, name, split_file), key=lambda image: image.name)
    _check_some(len(images), path, name, spec)
    return images


def read_detection(reader: str, path: Path, name: str) -> DetectionData:
    """Return a detection set; arguments and errors are those of `read_classification_images`."""
    spec = _spec(reader, DetectionSpec)
    _check_folder(path, name, spec)
    data = spec.read(path, name)
    _check_some(len(data.images), path, name, spec)
    return data


def read_segmentation(reader: str, path: Path, name: str) -> SegmentationData:
    """Return a segmentation set; arguments and errors are those of `read_classification_images`."""
    spec = _spec(reader, SegmentationSpec)
    _check_folder(path, name, spec)
    data = spec.read(path, name)
    _check_some(len(data.images), path, name, spec)
    return data


def read_images(reader: str, path: Path, name: str, split_file: str = "split.csv") -> Sequence[AnyImage]:
    """Return the images of a data set of any task; arguments and errors are those of the functions above."""
    if check_reader(reader, *LABELS) in readers("classification"):
        return read_classification_images(reader, path, name, split_file)
    if reader in readers("detection"):
        return read_detection(reader, path, name).images
    return read_segmentation(reader, path, name).images


def markdown_table(task: Task) -> str:
    """Return the Markdown table of a task's readers."""
    lines = [
        "| Reader | Data set | Layout below `path` | Classes | Licence | Download | Layout source |",
        "|---|---|---|---|---|---|---|",
    ]
    for reader in readers(task):
        spec = DATASETS[reader]
        cells = (
            f"`{reader}`",
            spec.name,
            spec.layout,
            ", ".join(spec.classes),
            spec.licence,
            spec.download,
            spec.layout_source,
        )
        lines.append(f"| {' | '.join(cell or '-' for cell in cells)} |")
    return "\n".join(lines)


def _spec(reader: str, kind: type[Spec]) -> Spec:
    check_reader(reader, kind.TASK)
    spec = DATASETS[reader]
    assert isinstance(spec, kind)
    return spec


def _check_folder(path: Path, name: str, spec: DatasetSpec) -> None:
    if not path.is_dir():
        download = f" (download {spec.name} from {spec.download})" if spec.download else ""
        raise DatasetNotFoundError(
            f"{name} not found: {path} does not exist; give --data DIR or set FUSAR_KLIP_DATA to the folder "
            f"that contains it{download}"
        )


def _check_some(count: int, path: Path, name: str, spec: DatasetSpec) -> None:
    if not count:
        download = f"; download it from {spec.download}" if spec.download else ""
        raise DatasetError(
            f"{name} not found: {path} has no images in the layout {spec.layout.replace('`', '')}; set the "
            f"path to the folder that contains it{download}"
        )
