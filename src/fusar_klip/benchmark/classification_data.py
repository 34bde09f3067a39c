"""The data of a classification row: its reader's images, split as the row says, and checked."""

from pathlib import Path

from fusar_klip.benchmark.datasets.catalogue import read_classification_images
from fusar_klip.benchmark.datasets.samples import ClassificationData
from fusar_klip.benchmark.settings import ClassificationRow
from fusar_klip.benchmark.splits import SplitMethod, split_images
from fusar_klip.errors import DatasetError


def read_classification(row: ClassificationRow, path: Path) -> ClassificationData:
    """Read the data set of a row with the row's reader, and split it as the row says.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, there is no split, a part is empty, or a class has no
            training image.
    """
    listed = read_classification_images(row.reader, path, row.dataset, row.split_file)
    method = split_method(row, given=all(image.part is not None for image in listed))
    images = split_images(listed, method, row.split_seed, row.dataset)
    for part in ("train", "test"):
        if not any(image.part == part for image in images):
            raise DatasetError(f"{row.dataset} at {path} has no {part} images: check its split")
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


def split_method(row: ClassificationRow, given: bool) -> SplitMethod:
    """Return how a row's images are split; `given`: its data set brings parts.

    Without `split_by`, `split = "paper"` is always made, and "grouped" is where the data set brings no parts.
    """
    if row.split_by is not None:
        return row.split_by
    if row.split == "paper":
        return "paper"
    return "grouped" if row.split == "grouped" and not given else "given"
