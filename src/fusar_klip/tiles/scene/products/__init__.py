"""SAR products on disk: what the path that a user names holds, and what its metadata says.

Opens rasters only to learn their bands; reads no pixels. `find_sources` is the whole interface.
"""

from pathlib import Path

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene.products import gaofen3 as level1a
from fusar_klip.tiles.scene.products import gdal_folder, rpc, sicd
from fusar_klip.tiles.scene.products import sentinel1 as safe
from fusar_klip.tiles.scene.products.plain import plain_source
from fusar_klip.tiles.scene.products.source import SceneFacts, Source
from fusar_klip.tiles.settings import SceneSettings

__all__ = ["SceneFacts", "Source", "find_sources"]


def find_sources(path: Path, settings: SceneSettings) -> list[Source]:
    """Return the rasters of a product: one for each polarization.

    Args:
        path: A raster; a product's folder, zip or metadata file.
        settings: `polarization` chooses among several, `calibration` asks for look-up tables.

    Raises:
        SceneError: There is nothing, nothing that is known, damaged metadata, no such polarization, or no
            look-up table though calibration is wanted.
    """
    calibrated = settings.calibration == "sigma0"
    try:
        if not path.exists():
            raise SceneError(f"no such file or folder: {path}")
        path = path.absolute()  # a product's name is its folder's, which "." does not tell
        found = _of_folder(path, calibrated) if path.is_dir() else _of_file(path, calibrated)
    except OSError as error:
        raise SceneError(f"{path} cannot be read ({error.strerror}): correct its permissions") from error
    sources = _wanted(found, path, settings.polarization)
    if calibrated and any(source.calibration is None for source in sources):
        raise SceneError(
            f"{path} has no sigma0 look-up table, which whole Sentinel-1 SAFE products have: leave "
            "scene.calibration out"
        )
    return sources


def _of_folder(folder: Path, calibrated: bool) -> list[Source]:
    names = {file.name for file in folder.iterdir()}
    if safe.MANIFEST in names or safe.PRODUCT_INFO in names:
        return safe.folder_sources(folder, folder, calibrated=calibrated)
    if any(name.lower().endswith((level1a.META, *rpc.SUFFIXES)) for name in names):
        return level1a.folder_sources(folder, folder)
    return gdal_folder.folder_sources(folder)


def _of_file(path: Path, calibrated: bool) -> list[Source]:
    if path.name in (safe.MANIFEST, safe.PRODUCT_INFO):
        return safe.folder_sources(path.parent, path, calibrated=calibrated)
    if path.name.lower().endswith(level1a.META):
        return level1a.folder_sources(path.parent, path)
    if path.suffix.lower() == ".zip":
        return safe.zip_sources(path, calibrated=calibrated)
    if folder := safe.product_folder_of(path):
        whole = safe.folder_sources(folder, path, calibrated=calibrated)
        if own := [source for source in whole if Path(source.raster) == path]:
            return own
    if images := sicd.sources(path):
        return images
    if rpc.find_rpc_file(path) or level1a.find_meta(path):
        return [level1a.raster_source(path, path)]
    return [plain_source(path)]


def _wanted(found: list[Source], path: Path, polarization: str | None) -> list[Source]:
    # What only a file's name says may be told otherwise; a product's metadata is not wrong about itself.
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
