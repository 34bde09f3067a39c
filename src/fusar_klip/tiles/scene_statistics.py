"""Pass 1 of a build: statistics of the whole scene; each block is decoded once, strip by strip.

A strip gives its part of the histogram and of the overview, and its amplitude is written to the scratch
folder, from which pass 2 (`tile_writer.py`) reads it. All sums are exact or belong to one strip, and strips
depend only on the scene: so the result depends neither on their order nor on the worker.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusar_klip.errors import SceneError
from fusar_klip.files import write_bytes
from fusar_klip.tiles.plan import ScenePlan, Stopwatch
from fusar_klip.tiles.scene.radiometry import IDENTITY, AmplitudeHistogram, EightBitMapping, fit_mapping
from fusar_klip.tiles.scene.scene import Scene
from fusar_klip.tiles.screening.screen import CellSums, Overview, Screening, overview_of, screen, summarise


@dataclass(frozen=True)
class SceneStatistics:
    """Statistics of the whole scene that pass 2 needs.

    Attributes:
        mapping: Amplitude to 8 bits.
        lookup_table: The mapping of all integer values, (256,) or (65536,) uint8; None for float32.
        screening: Density of the scene's regions; None where they are not screened.
        overview: The scene by cells; None where regions are not screened.
    """

    mapping: EightBitMapping
    lookup_table: NDArray[np.uint8] | None
    screening: Screening | None
    overview: Overview | None


def measure_strip(plan: ScenePlan, strip: int) -> dict[str, float]:
    """Decode a strip, count it, and write it to the scratch folder, unless that is done.

    Returns:
        Processor seconds by stage.

    Raises:
        SceneError: The file is damaged there.
        OSError: The disk is full.
    """
    watch = Stopwatch()
    if plan.sums(strip).exists():
        return {}
    row, height = plan.scratch.rows(strip)
    with watch.stage("decode"), plan.scene.reader() as reader:
        amplitude = reader.read(row, 0, height, plan.scene.width)
    histogram = AmplitudeHistogram.empty(plan.scene.dtype)
    with watch.stage("histogram"):
        histogram.add(amplitude)
    sums: dict[str, Any] = {"counts": histogram.counts, "low_sums": histogram.low_sums}
    if plan.settings.screening.mode != "off":
        with watch.stage("overview"):
            cells = summarise(amplitude, plan.cell_px, row)
            sums |= {f"cells_{field.name}": getattr(cells, field.name) for field in fields(cells)}
    with watch.stage("scratch"):
        plan.scratch.write(strip, amplitude)
        encoded = io.BytesIO()
        np.savez(encoded, **sums)
        write_bytes(plan.sums(strip), encoded.getvalue())
    return dict(watch.seconds)


def fit(plan: ScenePlan) -> SceneStatistics:
    """Merge the sums of all strips, in order, and fit the scene's mapping and screening.

    Raises:
        SceneError: Every pixel is no data.
    """
    scene = plan.scene
    histogram = AmplitudeHistogram.empty(scene.dtype)
    for strip in range(plan.scratch.strips):
        with np.load(plan.sums(strip)) as sums:
            histogram.merge(AmplitudeHistogram(scene.dtype, sums["counts"], sums["low_sums"]))
    if histogram.count == 0:
        raise no_data(scene)
    mapping = IDENTITY if scene.eight_bit else fit_mapping(histogram, plan.settings.mapping)
    lookup_table = mapping.lookup_table(scene.dtype)
    if plan.settings.screening.mode == "off":
        return SceneStatistics(mapping, lookup_table, None, None)
    overview = overview_of(_cell_sums(plan), plan.cell_px, scene.gsd_m)
    to_lonlat = scene.to_lonlat if scene.crs is not None else None
    screening = screen(overview, plan.settings.screening, to_lonlat)
    return SceneStatistics(mapping, lookup_table, screening, overview)


def _cell_sums(plan: ScenePlan) -> Iterator[CellSums]:
    """Read the strips' cells from top to bottom, one strip at a time."""
    for strip in range(plan.scratch.strips):
        with np.load(plan.sums(strip)) as sums:
            cells = {field.name: sums[f"cells_{field.name}"] for field in fields(CellSums)}
        yield CellSums(**{name: array if array.ndim else array.item() for name, array in cells.items()})


def no_data(scene: Scene) -> SceneError:
    """Return the error of a scene without a single valid pixel."""
    return SceneError(f"every pixel of {scene.path.name} is no data: give a scene with an image in it")
