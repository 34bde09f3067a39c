"""What the registry states about a labelled data set, one class for each kind of label.

To add a data set, write a reader, and enter a spec into the dictionary of its task:
`classification_sets.CLASSIFICATION_SETS`, `detection_sets.DETECTION_SETS` or
`segmentation_sets.SEGMENTATION_SETS`. Nothing else lists data sets.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fusar_klip.datasets.labelled_data import DetectionData, ImageWithLabel, SegmentationData

Task = Literal["classification", "detection", "segmentation"]

NOT_STATED = "not stated"

ReadLabels = Callable[[Path, str, str], list[ImageWithLabel]]
"""From the data set's folder, its name for errors, and the name of a split file below the folder."""
ReadBoxes = Callable[[Path, str], DetectionData]
"""From the data set's folder and its name for errors."""
ReadMasks = Callable[[Path, str], SegmentationData]
"""From the data set's folder and its name for errors."""


@dataclass(frozen=True)
class DatasetSpec:
    """A labelled data set, or a common format, that can be read."""

    TASK: ClassVar[Task]
    name: str
    """Its published name."""
    _: KW_ONLY
    layout: str
    """Its files on disk, in Markdown."""
    classes: tuple[str, ...] = ()
    """The names of its classes, where they are known."""
    licence: str = NOT_STATED
    download: str = ""
    """Where it can be downloaded; empty for a format."""
    layout_source: str = ""
    """The public repository or page that documents the layout; "not found" says what is tried instead."""


@dataclass(frozen=True, kw_only=True)
class ClassificationSpec(DatasetSpec):
    """A data set of images with one class each."""

    TASK: ClassVar[Task] = "classification"
    read: ReadLabels


@dataclass(frozen=True, kw_only=True)
class DetectionSpec(DatasetSpec):
    """A data set of images with boxes."""

    TASK: ClassVar[Task] = "detection"
    read: ReadBoxes


@dataclass(frozen=True, kw_only=True)
class SegmentationSpec(DatasetSpec):
    """A data set of images with masks."""

    TASK: ClassVar[Task] = "segmentation"
    read: ReadMasks
