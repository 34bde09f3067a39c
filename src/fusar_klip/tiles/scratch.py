"""A scene's amplitude on local disk between the two passes of a build, as it was decoded.

Pass 1 writes strips of full width, pass 2 reads large tiles. A strip is one file; inside it, the columns of
one large tile (a panel) are contiguous, so a tile needs one read per strip. A strip is complete or absent,
and no two workers write to one file: this also holds on a shared file system.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusar_klip.files import replaced


@dataclass(frozen=True)
class Scratch:
    """Strips of one scene's amplitude.

    Attributes:
        folder: Where the strips lie.
        height: Rows of the scene.
        width: Columns of the scene.
        dtype: numpy's name of the pixel type.
        strip_rows: Rows of a strip; the last one may have fewer.
        panel_cols: Columns of a panel; the last one may have fewer.
    """

    folder: Path
    height: int
    width: int
    dtype: str
    strip_rows: int
    panel_cols: int

    @property
    def strips(self) -> int:
        """The number of strips."""
        return -(-self.height // self.strip_rows)

    def rows(self, strip: int) -> tuple[int, int]:
        """Return a strip's first row and its number of rows."""
        first = strip * self.strip_rows
        return first, min(self.strip_rows, self.height - first)

    def write(self, strip: int, amplitude: NDArray[np.generic]) -> None:
        """Write a strip, (its rows, width) of `dtype`; atomically.

        Raises:
            OSError: The disk is full.
        """
        with replaced(self._path(strip)) as partial, partial.open("wb") as file:
            for left in range(0, self.width, self.panel_cols):
                file.write(np.ascontiguousarray(amplitude[:, left : left + self.panel_cols]).data)

    def read(self, row: int, col: int, side: int) -> NDArray[np.generic]:
        """Return a square window, (side, side) of `dtype`; 0 where it overhangs the scene."""
        window = np.zeros((side, side), self.dtype)
        bottom, right = min(row + side, self.height), min(col + side, self.width)
        for strip in range(row // self.strip_rows, -(-bottom // self.strip_rows)):
            first, count = self.rows(strip)
            top, stop = max(row, first), min(bottom, first + count)
            with self._path(strip).open("rb") as file:
                for left in range(col // self.panel_cols * self.panel_cols, right, self.panel_cols):
                    panel = min(self.panel_cols, self.width - left)
                    start = (count * left + (top - first) * panel) * window.itemsize
                    file.seek(start)
                    pixels = np.fromfile(file, self.dtype, (stop - top) * panel).reshape(-1, panel)
                    begin, end = max(col, left), min(right, left + panel)
                    window[top - row : stop - row, begin - col : end - col] = pixels[
                        :, begin - left : end - left
                    ]
        return window

    def _path(self, strip: int) -> Path:
        return self.folder / f"{strip:06d}.raw"
