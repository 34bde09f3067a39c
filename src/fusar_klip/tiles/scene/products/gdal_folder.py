"""Folders of products that GDAL's own drivers know: RADARSAT-2, TerraSAR-X, ENVISAT, ALOS, COSMO-SkyMed.

Facts are those of the products' names; geometry and pixels are what GDAL's driver gives.
"""

import re
import warnings
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from fusar_klip.errors import SceneError
from fusar_klip.geo.platforms import facts_of_name
from fusar_klip.tiles.scene.products.plain import facts_named
from fusar_klip.tiles.scene.products.source import SceneFacts, Source

# What to give to GDAL, in this order: the document of a product that GDAL opens as a whole (the RS2 and TSX
# drivers), else one raster for each polarization.
_DOCUMENTS = re.compile(r"(product|t[sd]x1_sar__.*|paz1_sar__.*)\.xml$", re.IGNORECASE)
_RASTERS = re.compile(r"(.*\.(n1|e1|e2|h5|ntf|nitf|tiff?)|IMG-.*|.*-slc-.*)$", re.IGNORECASE)
_IMAGES = re.compile(r"\.(tiff?|cos|ntf)$", re.IGNORECASE)
_NOT_SCENES = re.compile(r"(thumb|browse|quick|preview|mask|composite|incidence)", re.IGNORECASE)


def folder_sources(folder: Path) -> list[Source]:
    """Return what a folder without a layout of our own holds.

    Raises:
        SceneError: GDAL opens nothing in it, or its rasters are no polarizations of one product.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    for document in (file for file in files if _DOCUMENTS.fullmatch(file.name)):
        if sources := _document_sources(folder, document):
            return sources
    rasters = [f for f in files if _RASTERS.fullmatch(f.name) and not _NOT_SCENES.search(f.stem)]
    sources = [_raster_source(folder, raster) for raster in rasters if _opens(raster)]
    polarizations = {source.facts.polarization for source in sources}
    if not sources:
        raise SceneError(
            f"{folder} holds no product that is known and no raster: give the folder of a product, or rasters"
        )
    if len(sources) > 1 and (len(polarizations) < len(sources) or None in polarizations):
        raise SceneError(
            f"{folder} holds {len(sources)} rasters, which are no polarizations of one product: give the "
            f"rasters themselves, for example {sources[0].raster}"
        )
    return sources


def _document_sources(folder: Path, document: Path) -> list[Source]:
    """Return one source a band of the dataset behind a document; [] where GDAL does not open it."""
    try:
        with _opened(document) as raster:
            bands = [(raster.tags(i).get("POLARIMETRIC_INTERP"), i) for i in raster.indexes]
            is_complex = raster.dtypes[0].startswith("complex")
    except RasterioError:
        return []
    # What GDAL tells of a TSX product's files is the document alone.
    images = [
        f for f in sorted(folder.rglob("*")) if _IMAGES.search(f.name) and not _NOT_SCENES.search(f.stem)
    ]
    named = _named(folder, document)
    sources = []
    for polarization, index in bands:
        facts = SceneFacts(polarization=polarization).completed_by(named)
        own = [f for f in images if polarization and re.search(rf"_{polarization}(_|\.|$)", f.name, re.I)]
        sources.append(
            Source(
                path=folder,
                raster=str(document),
                name=f"{folder.name}_{facts.polarization or index}" if len(bands) > 1 else folder.name,
                files=tuple(own or images or [document]),
                facts=facts,
                kind="complex" if is_complex else None,
                bands=(index,),
            )
        )
    return sources


def _raster_source(folder: Path, raster: Path) -> Source:
    return Source(
        path=folder if len(list(folder.iterdir())) > 1 else raster,
        raster=str(raster),
        name=raster.stem if raster.suffix else raster.name,
        files=(raster,),
        facts=_named(folder, raster),
    )


def _named(folder: Path, file: Path) -> SceneFacts:
    """Return what the file's and then the folder's name say."""
    of_folder = facts_named(facts_of_name(folder.resolve().name))
    return facts_named(facts_of_name(file.stem)).completed_by(of_folder)


def _opens(file: Path) -> bool:
    try:
        with _opened(file):
            return True
    except RasterioError:
        return False


def _opened(file: Path) -> DatasetReader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(file)
