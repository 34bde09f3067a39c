"""The data of a classification row: its reader's images, split as the row says, and checked."""

from pathlib import Path

from fusar_klip.benchmark.settings import ClassificationRow
from fusar_klip.datasets.registry import read_classification_images
from fusar_klip.datasets.samples import ClassificationData
from fusar_klip.datasets.splits import split_as
from fusar_klip.errors import DatasetError


def read_classification(row: ClassificationRow, path: Path) -> ClassificationData:
    """Read the data set of a row with the row's reader, and split it as the row says.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, there is no split, a part is empty, or a class has no
            training image.
    """
    listed = read_classification_images(row.reader, path, row.dataset, row.split_file)
    images = split_as(listed, row, path)
    trained = {image.label for image in images if image.part == "train"}
    classes = sorted({image.label for image in images})
    if untrained := [name for name in classes if name not in trained]:
        raise DatasetError(
            f"{row.dataset} has no training image of {', '.join(untrained)}: add some, or take the class "
            "out of its split"
        )
    if len(classes) < 2:
        raise DatasetError(
            f"{row.dataset} at {path} has one class only ({classes[0]}): at least two are needed"
        )
    return ClassificationData(images, tuple(classes))
