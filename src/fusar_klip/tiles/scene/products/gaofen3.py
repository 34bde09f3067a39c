"""Gaofen-3, Qilu-1 and other products of the same layout: TIFF + .rpc or .rpb + *.meta.xml in a folder.

Level 1A holds complex pixels on the slant plane, two 16-bit bands (real, imaginary) each polarization, placed
by RPCs. Levels 1B and 2 are amplitude. The layout as senbox-org/s1tbx reads it (io/gaofen3).
"""

import re
from pathlib import Path
from xml.etree.ElementTree import Element

import rasterio
from rasterio.errors import RasterioError
from rasterio.rpc import RPC

from fusar_klip.errors import SceneError
from fusar_klip.geo.platforms import BANDS, band_of_frequency, facts_of_name
from fusar_klip.tiles.scene.products.metadata import (
    finite,
    incidence,
    number_of,
    parse_xml,
    positive,
    read_bytes,
    text_of,
    time_of,
)
from fusar_klip.tiles.scene.products.rpc import SUFFIXES, find_rpc_file, read_rpc
from fusar_klip.tiles.scene.products.source import SceneFacts, Source

META = ".meta.xml"
_IMAGE_SUFFIXES = (".tif", ".tiff")
_NOT_SCENES = re.compile(r"(thumb|browse|quick|preview|mask|incidence)", re.IGNORECASE)
_FAR_DEG = 2.0
"""No scene of these platforms is that far from its own centre: an RPC beyond is another scene's."""


def sources(path: Path, *, calibrated: bool) -> list[Source] | None:
    """Return the TIFFs of a product's folder or meta.xml, or a single one; None for any other path.

    They have no look-up tables.

    Raises:
        SceneError: There is no TIFF, or RPC or metadata are damaged or another scene's.
    """
    if path.is_dir():
        is_product = any(file.name.lower().endswith((META, *SUFFIXES)) for file in path.iterdir())
        return folder_sources(path, path) if is_product else None
    if path.name.lower().endswith(META):
        return folder_sources(path.parent, path)
    if find_rpc_file(path) or find_meta(path):
        return [raster_source(path, path)]
    return None


def folder_sources(folder: Path, path: Path) -> list[Source]:
    """Return one source for each TIFF of the product's folder.

    Args:
        folder: The product's folder.
        path: What the user named: the folder, or its meta.xml.

    Raises:
        SceneError: There is no TIFF, or RPC or metadata are damaged or another scene's.
    """
    rasters = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in _IMAGE_SUFFIXES and not _NOT_SCENES.search(file.stem)
    ]
    if not rasters:
        raise SceneError(f"{path} has a product's metadata, and no TIFF beside it: put the TIFF there")
    return [raster_source(raster, path) for raster in rasters]


def find_meta(raster: Path) -> Path | None:
    """Return the meta.xml of a raster: the one of its stem, else the only one of its folder."""
    there = sorted(f for f in raster.parent.iterdir() if f.name.lower().endswith(META))
    own = [f for f in there if f.name[: -len(META)].casefold() == raster.stem.casefold()]
    if own or len(there) != 1:
        return own[0] if own else None
    # The only meta.xml of a folder with several products' rasters is not everyone's.
    return there[0] if _same_product(there[0].name[: -len(META)], raster.stem) else None


def raster_source(raster: Path, path: Path) -> Source:
    """Return the source of one TIFF with its RPC and metadata.

    Raises:
        SceneError: They are damaged, or another scene's.
    """
    rpc_file, meta = find_rpc_file(raster), find_meta(raster)
    rpcs = read_rpc(rpc_file) if rpc_file else None
    named = facts_of_name(raster.stem)
    facts = SceneFacts(
        platform=named.platform,
        band=named.band,
        polarization=named.polarization,
        mode=named.mode,
        product_type=named.product_type,
        acquired=named.acquired,
    )
    gsd_m = None
    if meta:
        root = parse_xml(read_bytes(meta), meta.name)
        if rpcs and rpc_file:
            _refuse_foreign_rpc(rpcs, root, rpc_file, meta)
        facts = _facts(root, meta).completed_by(facts)
        gsd_m = _spacing(root, meta.name)
    bands = _bands(raster, facts)
    return Source(
        path=path,
        raster=str(raster),
        name=raster.stem,
        files=(raster,),
        facts=facts,
        kind="complex" if bands else None,
        bands=bands,
        rpcs=rpcs,
        gsd_m=gsd_m,
    )


def _same_product(meta_stem: str, raster_stem: str) -> bool:
    """Tell whether the names differ in polarization only: ..._L1A_HHHV_L1000 and ..._L1A_HV_L1000."""
    polarizations = re.compile(r"_[hv]{2,8}(?=_|$)")
    return polarizations.sub("", meta_stem.casefold()) == polarizations.sub("", raster_stem.casefold())


def _bands(raster: Path, facts: SceneFacts) -> tuple[int, int] | None:
    """Return the bands of the real and the imaginary part, if these are the raster's bands."""
    try:
        with rasterio.open(raster) as opened:
            pair = opened.count == 2 and opened.dtypes[0] in ("int16", "int32", "float32")
    except RasterioError as error:
        raise SceneError(
            f"{raster} is no raster that GDAL can read: get the product again, it is not whole"
        ) from error
    complex_level = facts.product_type in ("SLC", "L1A")
    return (1, 2) if pair and complex_level else None


def _facts(root: Element, meta: Path) -> SceneFacts:
    name = meta.name
    platform = facts_of_name(text_of(root, "satellite", ".//satellite", ".//satelliteName") or "").platform
    frequency_ghz = number_of(root, name, "sensor/RadarCenterFrequency", ".//RadarCenterFrequency")
    process = "processinfo"
    near, far = (
        number_of(root, name, f"{process}/incidenceAngle{end}Range", f".//incidenceAngle{end}Range")
        for end in ("Near", "Far")
    )
    looks = [
        positive(number_of(root, name, f"{process}/Multilook{d}", f".//Multilook{d}"), f"looks of {name}")
        for d in ("Range", "Azimuth")
    ]
    polar_mode = text_of(root, "sensor/polarParams/polar/polarMode", ".//polarMode") or ""
    band = band_of_frequency(frequency_ghz) if frequency_ghz else BANDS.get(platform or "")
    level = text_of(root, "productinfo/productLevel", ".//productLevel")
    if level:  # "1A", "L1A" and "LEVEL1A" are all written
        level = re.sub("^(LEVEL|L)?", "L", level.upper(), count=1)
    return SceneFacts(
        platform=platform,
        band=band,
        # Of a product with several polarizations only the file's name tells which one it is.
        polarization=polar_mode.upper() if re.fullmatch(r"[HV]{2}", polar_mode.upper()) else None,
        mode=text_of(root, "sensor/imagingMode", ".//imagingMode"),
        product_type=text_of(root, "productinfo/productType", ".//productType") or level,
        orbit_direction=_direction(text_of(root, "Direction", ".//Direction")),
        look_side=_look_side(text_of(root, "sensor/lookDirection", ".//lookDirection")),
        incidence_deg=incidence(_centre_incidence(root, meta, near, far), name),
        looks=looks[0] * looks[1] if looks[0] and looks[1] else None,
        acquired=time_of(
            text_of(root, "imageinfo/imagingTime/start", ".//imagingTime/start"), f"imagingTime of {name}"
        ),
    )


def _centre_incidence(root: Element, meta: Path, near: float | None, far: float | None) -> float | None:
    """Return the incidence at the middle column by the incidence.xml, else the mean of near and far range."""
    listing = meta.with_name(f"{meta.name[: -len(META)]}.incidence.xml")
    if listing.is_file():
        angles = [a.text or "" for a in parse_xml(read_bytes(listing), listing.name).iter("incidenceValue")]
        if angles:
            return finite(angles[len(angles) // 2].strip(), f"incidenceValue of {listing.name}")
    return (near + far) / 2 if near is not None and far is not None else None


def _spacing(root: Element, name: str) -> tuple[float, float] | None:
    """Return the (row, column) pixel spacing in metres."""
    along = [
        positive(number_of(root, name, f"imageinfo/{side}space", f".//{side}space"), f"{side}space of {name}")
        for side in ("height", "width")
    ]
    return (along[0], along[1]) if along[0] and along[1] else None


def _refuse_foreign_rpc(rpcs: RPC, root: Element, rpc_file: Path, meta: Path) -> None:
    lat = number_of(root, meta.name, "imageinfo/center/latitude", ".//center/latitude")
    lon = number_of(root, meta.name, "imageinfo/center/longitude", ".//center/longitude")
    if lat is None or lon is None:
        return
    lon_apart = abs((rpcs.long_off - lon + 180) % 360 - 180)
    if abs(rpcs.lat_off - lat) > _FAR_DEG + rpcs.lat_scale or lon_apart > _FAR_DEG + rpcs.long_scale:
        raise SceneError(
            f"{rpc_file.name} is centred at latitude {rpcs.lat_off:.2f}, longitude {rpcs.long_off:.2f}, and "
            f"{meta.name} at {lat:.2f}, {lon:.2f}: put the RPC file of this scene there"
        )


def _direction(text: str | None) -> str | None:
    start = (text or "").upper()[:3]
    return {"ASC": "ascending", "DEC": "descending", "DES": "descending"}.get(start)


def _look_side(text: str | None) -> str | None:
    return {"R": "right", "L": "left"}.get((text or "").upper()[:1])
