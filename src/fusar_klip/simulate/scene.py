"""One simulated scene: a theme at a real place, imaged block by block into a GeoTIFF and its land cover."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import Window as RasterWindow

from fusar_klip.files import replaced
from fusar_klip.geo.gazetteer import Place, places
from fusar_klip.geo.platforms import Platform
from fusar_klip.simulate.imaging import CLUTTER_REACH_PX, PointScatterers, Sensor
from fusar_klip.simulate.layout import SceneLayout
from fusar_klip.simulate.noise import Window
from fusar_klip.simulate.projection import Geometry, project
from fusar_klip.simulate.surfaces import LAND_COVER, SurfaceMap
from fusar_klip.simulate.themes import PLACE_KINDS, Theme, compose

BLOCK_PX = 1024
_TILE_PX = 512
# What each stream of random numbers is for; part of its seed.
_PLACE, _LAYOUT, _SPECKLE, _PHASE = range(4)
_MAX_LATITUDE = 70.0  # few airports and ports lie beyond, and UTM's spacing strays there
_COVER_COLOURS = {
    0: (0, 0, 0), 1: (34, 94, 168), 2: (214, 196, 110), 3: (170, 214, 120), 4: (28, 110, 50),
    5: (200, 60, 50), 6: (110, 110, 110), 7: (180, 180, 190), 8: (140, 90, 160), 9: (190, 160, 130),
}  # fmt: skip


@dataclass(frozen=True)
class SimulatedScene:
    """A scene that depends on its seed, number, size, platform and theme only.

    Attributes:
        seed: Of the simulation.
        number: Of the scene in the simulation, from 0.
        size: Side of the image in pixels.
        platform: What images it.
        theme: What lies at its centre.
    """

    seed: int
    number: int
    size: int
    platform: Platform
    theme: Theme

    @cached_property
    def place(self) -> Place:
        """The real airport, port or city at the scene's centre."""
        known = [p for p in places(PLACE_KINDS[self.theme]) if abs(p.lat) < _MAX_LATITUDE]
        return known[int(self._rng(_PLACE).integers(len(known)))]

    @cached_property
    def stem(self) -> str:
        """Name of the scene's files: platform, number, and the place's code or name."""
        place = self.place.code or self.place.name
        return f"{_slug(self.platform.name)}_{self.number:03d}_{_slug(place) or self.theme}"

    @cached_property
    def epsg(self) -> int:
        """EPSG code of the WGS84 UTM zone of the centre."""
        zone = min(60, int((self.place.lon + 180) // 6) + 1)
        return (32600 if self.place.lat >= 0 else 32700) + zone

    @cached_property
    def orbit_direction(self) -> Literal["ascending", "descending"]:
        """The flight direction; with the look side, it gives the direction of the radar."""
        return "ascending" if self._rng(_PLACE, 1).random() < 0.5 else "descending"

    @cached_property
    def geometry(self) -> Geometry:
        """The radar's view of the scene."""
        looks_east = (self.orbit_direction == "ascending") == (self.platform.look_side == "right")
        return Geometry(self.platform.incidence_deg, self.platform.gsd_m, looks_east)

    @cached_property
    def layout(self) -> SceneLayout:
        """The positions of areas, targets and scatterers."""
        return compose(self.theme, self._rng(_LAYOUT), self.extent_m, self.geometry)

    @property
    def extent_m(self) -> float:
        """Side of the image on the ground."""
        return self.size * self.platform.gsd_m

    @cached_property
    def transform(self) -> Affine:
        """From (column, row) of pixel corners to UTM metres; corners lie on multiples of the spacing."""
        gsd = self.platform.gsd_m
        to_utm = Transformer.from_crs(4326, self.epsg, always_xy=True)
        east, north = to_utm.transform(self.place.lon, self.place.lat)
        left = round(east / gsd - self.size / 2) * gsd
        top = round(north / gsd + self.size / 2) * gsd
        return Affine(gsd, 0, left, 0, -gsd, top)

    @cached_property
    def tags(self) -> dict[str, str]:
        """The GeoTIFF tags with the scene's metadata."""
        platform = self.platform
        start = datetime(2021, 1, 1, tzinfo=UTC)
        minutes = int(self._rng(_PLACE, 2).integers(4 * 365 * 24 * 60))
        return {
            "PLATFORM": platform.name,
            "BAND": platform.band,
            "POLARIZATION": platform.polarization,
            "MODE": platform.mode,
            "PRODUCT_TYPE": platform.product_type,
            "ORBIT_DIRECTION": self.orbit_direction,
            "LOOK_SIDE": platform.look_side,
            "INCIDENCE_DEG": str(platform.incidence_deg),
            "LOOKS": str(platform.looks),
            "ACQUIRED": (start + timedelta(minutes=minutes)).isoformat(),
            "SIMULATED": "fusar-klip",
        }

    def render(self, window: Window) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        """Return amplitude, (H, W) uint16 from 1, and land cover, (H, W) uint8, of a window of the scene."""
        geometry = self.geometry
        near, far = geometry.shadow_reach_px, geometry.layover_reach_px
        grown = window.grown(CLUTTER_REACH_PX)
        left, right = (near, far) if geometry.looks_east else (far, near)
        source = Window(grown.row, grown.col - left, grown.height, left + grown.width + right)
        ground = self._terrain.paint(source)
        # Seen from the radar, range grows with the column.
        flip = slice(None) if geometry.looks_east else slice(None, None, -1)
        parts = (ground.sigma, ground.height_m, ground.facing, ground.strength)
        sigma, height, facing, strength = (np.ascontiguousarray(part[:, flip]) for part in parts)
        grid = source.row + np.arange(source.height), (source.col + np.arange(source.width))[flip]
        seen = project(sigma, height, facing, strength, grid, geometry)[:, flip]
        sigma = seen[:, left : left + grown.width]
        inner = CLUTTER_REACH_PX
        cover = ground.cover[inner:-inner, left + inner : left + inner + window.width]
        return self._sensor.image(sigma, self._scatterers, window), cover

    def write(self, image: Path, cover: Path, on_block: Callable[[], None] = lambda: None) -> None:
        """Image the scene into two GeoTIFFs, holding one block in memory at a time.

        Raises:
            OSError: The disk is full, or the folder cannot be written; no half file is left.
        """
        with ExitStack() as stack:
            image_file = stack.enter_context(replaced(image))
            cover_file = stack.enter_context(replaced(cover))
            amplitude = stack.enter_context(rasterio.open(image_file, "w", **self._profile("uint16")))
            classes = stack.enter_context(rasterio.open(cover_file, "w", **self._profile("uint8")))
            amplitude.update_tags(**self.tags)
            classes.update_tags(**{f"CLASS_{code}": name for code, name in LAND_COVER.items()})
            classes.write_colormap(1, _COVER_COLOURS)
            for window in self.blocks():
                pixels, kinds = self.render(window)
                at = RasterWindow(window.col, window.row, window.width, window.height)
                amplitude.write(pixels, 1, window=at)
                classes.write(kinds, 1, window=at)
                on_block()

    def blocks(self) -> Iterator[Window]:
        """Yield the windows that cover the scene, row by row."""
        for row in range(0, self.size, BLOCK_PX):
            for col in range(0, self.size, BLOCK_PX):
                yield Window(row, col, min(BLOCK_PX, self.size - row), min(BLOCK_PX, self.size - col))

    @cached_property
    def _terrain(self) -> SurfaceMap:
        half = self.extent_m / 2
        seed = int(self._rng(_LAYOUT, 1).integers(2**31))
        return SurfaceMap(self.layout.areas, self.platform, seed, (-half, -half))

    @cached_property
    def _sensor(self) -> Sensor:
        return Sensor(self.platform, (self.seed, self.number, _SPECKLE))

    @cached_property
    def _scatterers(self) -> PointScatterers:
        x, y, rcs_m2 = self.layout.scatterers().T
        gsd, half = self.platform.gsd_m, self.extent_m / 2
        phase = self._rng(_PHASE).uniform(0, 2 * np.pi, x.size)
        # A cross-section in square metres spreads over the pixel's ground.
        amplitude = np.sqrt(rcs_m2) / gsd * np.exp(1j * phase)
        return PointScatterers((y + half) / gsd, (x + half) / gsd, amplitude)

    def _profile(self, dtype: str) -> dict[str, Any]:
        return {
            "driver": "GTiff", "width": self.size, "height": self.size, "count": 1, "dtype": dtype,
            "crs": f"EPSG:{self.epsg}", "transform": self.transform, "nodata": 0, "tiled": True,
            "blockxsize": _TILE_PX, "blockysize": _TILE_PX, "compress": "DEFLATE", "predictor": 2,
            "BIGTIFF": "IF_SAFER",
        }  # fmt: skip

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, self.number, *purpose]))


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "", plain)
