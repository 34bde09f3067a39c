"""The registry of SAR products: which rasters a path holds, and what their metadata states.

`find_sources` is the interface. It opens rasters only to list their bands, and reads no pixels.

A product family is a module beside this one with a function `sources`, and an entry of `PRODUCTS`.
"""

from pathlib import Path
from typing import Protocol

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene.products import gaofen3, gdal_folder, sentinel1, sicd
from fusar_klip.tiles.scene.products.plain import plain_source
from fusar_klip.tiles.scene.products.source import SceneFacts, Source
from fusar_klip.tiles.settings import SceneSettings

__all__ = ["PRODUCTS", "ProductReader", "SceneFacts", "Source", "find_sources"]


class ProductReader(Protocol):
    """Reads the metadata of one product family."""

    def __call__(self, path: Path, *, calibrated: bool) -> list[Source] | None:
        """Return the rasters of a product, one per polarization; None where `path` is no such product.

        Args:
            path: An absolute path that exists: a folder, an archive, a raster or a metadata file.
            calibrated: Also read the look-up tables to sigma0, where products have them.

        Raises:
            SceneError: `path` is such a product, and it is damaged or incomplete.
        """


PRODUCTS: dict[str, ProductReader] = {
    "sentinel1": sentinel1.sources,
    "sicd": sicd.sources,
    "gaofen3": gaofen3.sources,
}
"""The product families; the first that knows a path reads it. `gdal_folder` reads all other folders, and
`plain` all other files."""


def find_sources(path: Path, settings: SceneSettings) -> list[Source]:
    """Return the rasters of a product: one for each polarization.

    Args:
        path: A raster; a product's folder, zip or metadata file.
        settings: `polarization` chooses one of several, `calibration` requests look-up tables.

    Raises:
        SceneError: The path does not exist or holds no known product, its metadata is damaged, it has no such
            polarization, or it has no look-up table although calibration is requested.
    """
    calibrated = settings.calibration == "sigma0"
    try:
        if not path.exists():
            raise SceneError(f"no such file or folder: {path}")
        path = path.absolute()  # the name of a product is that of its folder, which "." hides
        found = _read(path, calibrated)
    except OSError as error:
        raise SceneError(f"{path} cannot be read ({error.strerror}): correct its permissions") from error
    sources = _wanted(found, path, settings.polarization)
    if calibrated and any(source.calibration is None for source in sources):
        raise SceneError(
            f"{path} has no sigma0 look-up table, which whole Sentinel-1 SAFE products have: leave "
            "scene.calibration out"
        )
    return sources


def _read(path: Path, calibrated: bool) -> list[Source]:
    for sources_of in PRODUCTS.values():
        if sources := sources_of(path, calibrated=calibrated):
            return sources
    return gdal_folder.folder_sources(path) if path.is_dir() else [plain_source(path)]


def _wanted(found: list[Source], path: Path, polarization: str | None) -> list[Source]:
    # The setting may contradict a polarization that only a file's name states, but not a product's metadata.
    by_name_only = len(found) == 1 and found[0].kind is None
    if polarization is None or by_name_only or found[0].facts.polarization is None:
        return found
    wanted = [source for source in found if (source.facts.polarization or "") == polarization.upper()]
    if not wanted:
        there = ", ".join(sorted({source.facts.polarization or source.name for source in found}))
        raise SceneError(
            f"{path.name} has no polarization {polarization}: set scene.polarization to one of {there}"
        )
    return wanted
