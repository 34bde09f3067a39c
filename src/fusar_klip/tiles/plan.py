"""The plan of one scene in a build, as workers receive it: scene, settings, grid, and paths of its state."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np

from fusar_klip import __version__
from fusar_klip.config import Settings
from fusar_klip.files import read_json, sha256, write_json
from fusar_klip.tiles.grid import Grid, GridTile
from fusar_klip.tiles.scene.scene import Scene
from fusar_klip.tiles.scratch import Scratch
from fusar_klip.tiles.screening.screen import cell_px_of
from fusar_klip.tiles.settings import BuildSettings

_STRIP_BYTES = 16 << 20  # pass 1 holds one strip per worker, and a few arrays of its size


@dataclass(frozen=True)
class ScenePlan:
    """One scene's part of a build. Workers get it by pickle; paths hold on a shared file system.

    Attributes:
        scene: The scene.
        settings: How to map, cut and screen.
        dataset: The data set's folder, absolute.
        grid: The tiles that the scene can have.
        strip_rows: Rows that pass 1 reads at a time: a multiple of those that the file decodes together.
        cell_px: Side of a cell of the overview.
    """

    scene: Scene
    settings: BuildSettings
    dataset: Path
    grid: Grid
    strip_rows: int
    cell_px: int

    @classmethod
    def of(cls, scene: Scene, settings: BuildSettings, dataset: Path) -> "ScenePlan":
        """Plan a scene: its grid, and strips of about 16 MiB that decode each block of the file once."""
        decoded_bytes = scene.block_rows * scene.width * np.dtype(scene.dtype).itemsize
        return cls(
            scene,
            settings,
            dataset.absolute(),
            Grid.over(scene.height, scene.width, scene.gsd_m, settings.tiling),
            scene.block_rows * max(1, _STRIP_BYTES // decoded_bytes),
            cell_px_of(scene.height, scene.width, scene.gsd_m),
        )

    @property
    def work(self) -> Path:
        """The scene's folder of state, gone once its tiles are in the catalog."""
        return self.dataset / ".build" / self.scene.scene_id

    @property
    def tiles(self) -> Path:
        """The folder of the scene's tiles."""
        return self.dataset / "tiles" / self.scene.scene_id

    @property
    def scratch(self) -> Scratch:
        """The scene's amplitude between the passes."""
        scene = self.scene
        panel_cols = self.grid.step("large")
        return Scratch(
            self.work / "strips", scene.height, scene.width, scene.dtype, self.strip_rows, panel_cols
        )

    @property
    def entry(self) -> Path:
        """The scene's entry for the manifest; it is there once all tiles and `rows` are."""
        return self.work / "scene.json"

    @property
    def rows(self) -> Path:
        """The scene's rows for the catalog."""
        return self.work / "rows.parquet"

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the scene's tiles and rows; state of another identity is discarded."""
        return {
            "version": __version__,
            "scene_id": self.scene.scene_id,
            "digest": self.scene.digest,
            "facts": repr(self.scene.facts),
            "scene_settings": section_identity(self.settings.scene),
            "settings": settings_identity(self.settings),
        }

    def sums(self, strip: int) -> Path:
        """Return the file of the sums of a strip from pass 1; it exists once the strip is written."""
        return self.scratch.folder / f"{strip:06d}.npz"

    def record(self, large: GridTile) -> Path:
        """Return the file that lists the kept tiles of a large tile; it exists once they are written."""
        return self.work / "large" / f"{large.row:06d}_{large.col:06d}.json"

    def prepare(self) -> None:
        """Create the folder of state, or keep that of an interrupted build with the same plan."""
        file = self.work / "plan.json"
        try:
            same = read_json(file) == self.identity
        except (OSError, ValueError):
            same = False
        if not same:
            self.discard()
            write_json(file, self.identity)

    def discard(self) -> None:
        """Remove all that was made of the scene."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.rmtree(self.tiles, ignore_errors=True)


def settings_identity(settings: BuildSettings) -> dict[str, Any]:
    """Return the settings that a data set's scenes share."""
    return {name: section_identity(section) for name, section in settings if name != "scene"}


def section_identity(section: Settings) -> dict[str, Any]:
    """Return one section's values for JSON; files are identified by name and content, not by path."""
    values: dict[str, Any] = section.model_dump(mode="json")
    for name, value in section:
        if isinstance(value, Path):
            digest = sha256(value) if value.is_file() else hashlib.sha256(b"").hexdigest()
            values[name] = f"{value.name} sha256:{digest[:16]}"
    return values


class Stopwatch:
    """Processor seconds of the calling thread by stage, without waiting times."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block as that of stage `name`."""
        started = thread_time()
        try:
            yield
        finally:
            self.seconds[name] += thread_time() - started  # type: ignore[assignment]
