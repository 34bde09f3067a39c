"""Test images beside their masks and what the model made of them."""

import base64
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from fusar_klip.benchmark.report.figures import png
from fusar_klip.benchmark.results import ReportFigure
from fusar_klip.datasets.samples import IGNORED, MaskedImage
from fusar_klip.finetune.segmentation.windows import read_images

# Okabe and Ito's palette without its black, told apart by colour-blind readers too; then the first again,
# paler.
_COLOURS = ("#dddddd", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
_NO_CLASS = "#000000"


def draw_masks(
    images: Sequence[MaskedImage],
    truths: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    classes: Sequence[str],
    before: bool,
) -> list[ReportFigure]:
    """Return one sheet: each image (and the one before), its mask, and the predicted one in a row."""
    titles = ["image", "before", "truth", "prediction"] if before else ["image", "truth", "prediction"]
    figure = Figure(figsize=(2.3 * len(titles), 2.35 * len(images) + 0.5))
    grid = figure.subplots(len(images), len(titles), squeeze=False)
    colours = [_COLOURS[k % len(_COLOURS)] for k in range(len(classes))]
    painted = ListedColormap([*colours, _NO_CLASS])
    for row, image, truth, mask in zip(grid, images, truths, masks, strict=True):
        for axes, grey in zip(row, read_images(image, before), strict=False):
            axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
        for axes, classes_hw in zip(row[-2:], (truth, mask), strict=True):
            shown = np.where(classes_hw == IGNORED, len(classes), classes_hw)
            axes.imshow(shown, cmap=painted, vmin=0, vmax=len(classes), interpolation="nearest")
        for axes in row:
            axes.set_axis_off()
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    handles = [Patch(color=c, label=name) for c, name in zip(colours, classes, strict=True)]
    if any((truth == IGNORED).any() for truth in truths):
        handles.append(Patch(color=_NO_CLASS, label="no class"))
    figure.legend(handles=handles, loc="lower center", ncols=min(6, len(handles)), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.45 / figure.get_figheight(), 1, 1))
    content = base64.b64encode(png(figure)).decode("ascii")
    alt = "Test images beside their true and predicted masks"
    return [
        ReportFigure(
            "masks", content, alt, "test images drawn at random, their masks, and the predicted ones."
        )
    ]
