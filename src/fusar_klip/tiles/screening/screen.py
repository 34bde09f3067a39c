"""Region screening of a scene by semantic density (paper 3.1, step 1).

While a scene is streamed, `summarise` reduces it to cells of some 20 m (80 m at Sentinel-1's 10 m). From this
overview `screen` measures the semantic density of 0 to 1 (`density`): towns, harbours, airports and
industry are dense; open water, grass and other uniform land are not. Tiles with a ship on
the open sea are kept too, and so are areas of interest and the surroundings of known airports and ports.

This module reads no pixels and deletes no tiles: `build` marks sparse tiles, or drops them
(`screening.mode`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusar_klip.tiles.screening.areas_of_interest import AreasOfInterest, ToLonLat, areas_of_interest
from fusar_klip.tiles.screening.overview import CellSums, Overview, cell_px_of, overview_of, summarise
from fusar_klip.tiles.screening.semantic_density import density_of, isolated_targets, measure, speckle_cv_of
from fusar_klip.tiles.screening.water import water_cells
from fusar_klip.tiles.settings import ScreeningSettings

__all__ = [
    "CellSums",
    "Overview",
    "Reason",
    "Screening",
    "ToLonLat",
    "cell_px_of",
    "overview_of",
    "screen",
    "summarise",
]

Reason = Literal["area", "place", "density", "target"]
"""Why a tile is kept: an area of interest, a known airport or port, what is in it, a ship at sea."""


@dataclass(frozen=True)
class Screening:
    """What is dense in a scene; made by `screen`.

    Attributes:
        density: (h, w) float32, 0 to 1 per cell; 0 where a cell has no data.
        valid: (h, w) bool, at least half of the cell has data.
        targets: (h, w) bool, isolated bright targets on dark, even ground.
        water: (h, w) bool, open water; None where nothing in the scene tells it from land.
        cell_px: Side of a cell in pixels.
        settings: What decides.
        wanted: Areas of interest and known places, or None.
    """

    density: NDArray[np.float32]
    valid: NDArray[np.bool_]
    targets: NDArray[np.bool_]
    water: NDArray[np.bool_] | None
    cell_px: int
    settings: ScreeningSettings
    wanted: AreasOfInterest | None

    def density_of(self, top: int, left: int, height: int, width: int) -> float:
        """Return the density of a window: what its densest tenth (`screening.min_share`) at least has.

        Args:
            top: First row in scene pixels; the window may overhang the scene.
            left: First column.
            height: Rows.
            width: Columns.

        Returns:
            0 to 1; 0 for a window without data.
        """
        cells = self._cells(top, left, height, width)
        values = np.sort(self.density[cells][self.valid[cells]])
        if not len(values):
            return 0.0
        return float(values[-max(1, round(self.settings.min_share * len(values)))])

    def water_fraction_of(self, top: int, left: int, height: int, width: int) -> float | None:
        """Return the share of open water in a window's valid cells; the arguments are those of `density_of`.

        Returns:
            0 to 1; None for a window without data, or where nothing in the scene tells water from land.
        """
        cells = self._cells(top, left, height, width)
        valid = self.valid[cells]
        if self.water is None or not valid.any():
            return None
        return float(self.water[cells][valid].mean())

    def reason(self, top: int, left: int, height: int, width: int) -> Reason | None:
        """Return why a window is worth keeping, None where it is sparse."""
        wanted = self.wanted.meets(top, left, height, width) if self.wanted else None
        if wanted:
            return wanted
        if self.density_of(top, left, height, width) >= self.settings.threshold:
            return "density"
        return "target" if self.targets[self._cells(top, left, height, width)].any() else None

    def dense(self, top: int, left: int, height: int, width: int) -> bool:
        """Return whether a window is worth keeping: it is dense, holds a target, or is asked for."""
        return self.reason(top, left, height, width) is not None

    def _cells(self, top: int, left: int, height: int, width: int) -> tuple[slice, slice]:
        """Return the cells that a window touches."""
        side = self.cell_px
        return (
            slice(max(top, 0) // side, max(-(-(top + height) // side), 0)),
            slice(max(left, 0) // side, max(-(-(left + width) // side), 0)),
        )


def screen(overview: Overview, settings: ScreeningSettings, to_lonlat: ToLonLat | None = None) -> Screening:
    """Find what is dense in a scene.

    Args:
        overview: Of the scene.
        settings: Thresholds, areas of interest, radius around places.
        to_lonlat: `Scene.to_lonlat`. None for a scene without coordinates: no area, no place is asked.

    Raises:
        SettingsError: The areas of interest cannot be read.
    """
    valid = overview.full()
    density, targets, water = np.zeros(valid.shape, np.float32), np.zeros(valid.shape, bool), None
    if valid.any():
        speckle_cv = speckle_cv_of(overview)
        density = density_of(measure(overview, speckle_cv))
        targets = isolated_targets(overview, density, speckle_cv, settings.threshold)
        water = water_cells(overview, density, speckle_cv, to_lonlat)
    wanted = None
    if to_lonlat is not None:
        height, width = (count * overview.cell_px for count in valid.shape)
        wanted = areas_of_interest(to_lonlat, height, width, settings)
    return Screening(density, valid, targets, water, overview.cell_px, settings, wanted)
