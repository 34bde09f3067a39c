"""SICD and SIDD: complex and derived SAR images in NITF files (NGA.STND.0024 and .0025).

sarkit reads the metadata and projects a grid of image points to the ground; GDAL reads the pixels. Needs the
optional extra `sicd`. An image of several segments (above 10 GB) is not read.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from fusar_klip.errors import SceneError
from fusar_klip.geo.platforms import BANDS, band_of_frequency, facts_of_name
from fusar_klip.tiles.scene.products.metadata import (
    finite,
    incidence,
    number_of,
    parse_xml,
    positive,
    text_of,
    time_of,
)
from fusar_klip.tiles.scene.products.nitf import read_nitf
from fusar_klip.tiles.scene.products.source import SceneFacts, Source

_ROOT = re.compile(rb"<([a-zA-Z_]+:)?SI[CD]D[\s>]")
_GRID = 7
"""Points a side of the grid that is projected: a polynomial of third order needs ten of the 49."""
_log = logging.getLogger(__name__)


def sources(path: Path, *, calibrated: bool) -> list[Source] | None:
    """Return the image of a SICD or SIDD file; None for any other path. They have no look-up tables.

    Raises:
        SceneError: The file or its metadata is damaged, the extra is missing, or it has several images.
    """
    nitf = None if path.is_dir() else read_nitf(path)
    named = [document for document in (nitf.extensions if nitf else ()) if _ROOT.search(document)]
    if nitf is None or not named:
        return None
    root = parse_xml(named[0], f"the metadata of {path.name}")
    if root.tag not in ("SICD", "SIDD"):
        return None
    # A SIDD file may hold a legend and the SICD metadata of what it was made from.
    if nitf.images != 1:
        raise SceneError(
            f"{path} has {nitf.images} image segments, and one is read: convert it to a GeoTIFF with sarpy"
        )
    return [_sicd(path, root, named[0]) if root.tag == "SICD" else _sidd(path, root)]


def _sicd(path: Path, root: Element, document: bytes) -> Source:
    name = f"the SICD metadata of {path.name}"
    pixel_type = text_of(root, "ImageData/PixelType")
    table = None
    if pixel_type == "AMP8I_PHS8I":
        table = _amplitude_table(root, name)
    elif pixel_type not in ("RE32F_IM32F", "RE16I_IM16I"):
        raise SceneError(f"{path} has pixels of type {pixel_type}, which SICD does not know: get it again")
    low, high = (number_of(root, name, f"RadarCollection/TxFrequency/{end}") for end in ("Min", "Max"))
    polarization = text_of(root, "ImageFormation/TxRcvPolarizationProc") or ""
    velocity_z = number_of(root, name, "SCPCOA/ARPVel/Z")
    spacing = _spacing(root, name, "Grid/{}/SS")
    collector = text_of(root, "CollectionInfo/CollectorName") or ""
    platform = facts_of_name(collector).platform or facts_of_name(path.stem).platform
    return Source(
        path=path,
        raster=str(path),
        name=path.stem,
        files=(path,),
        facts=SceneFacts(
            platform=platform or collector or None,
            band=band_of_frequency((low + high) / 2e9) if low and high else BANDS.get(platform or ""),
            polarization=_pair(polarization),
            mode=text_of(root, "CollectionInfo/RadarMode/ModeID", "CollectionInfo/RadarMode/ModeType"),
            product_type="SICD",
            orbit_direction=_orbit_direction(velocity_z),
            look_side=_look_side(text_of(root, "SCPCOA/SideOfTrack")),
            incidence_deg=incidence(number_of(root, name, "SCPCOA/IncidenceAng"), name),
            looks=1.0,
            acquired=time_of(text_of(root, "Timeline/CollectStart"), f"CollectStart of {name}"),
        ),
        kind="amplitude" if table else "complex",
        bands=(1,) if table else (1, 2),
        amplitude_table=table,
        gcps=_projected(path, document) or _corners(root, name, _shape(path)),
        gsd_m=spacing,
    )


def _sidd(path: Path, root: Element) -> Source:
    name = f"the SIDD metadata of {path.name}"
    collection = next(root.iter("Collection"), root)
    graze = number_of(root, name, ".//Geometry/Graze", ".//GrazeAngle")
    sensor = text_of(collection, ".//SensorName") or ""
    transmit, receive = (text_of(root, f".//{end}Polarization") or "" for end in ("Tx", "Rcv"))
    spacing = _spacing(root, name, ".//Measurement//SampleSpacing/{}")
    platform = facts_of_name(sensor).platform or facts_of_name(path.stem).platform
    return Source(
        path=path,
        raster=str(path),
        name=path.stem,
        files=(path,),
        facts=SceneFacts(
            platform=platform or sensor or None,
            band=BANDS.get(platform or ""),
            polarization=_pair(f"{transmit}:{receive}"),
            mode=text_of(collection, ".//RadarMode/ModeID", ".//RadarMode/ModeType"),
            product_type="SIDD",
            incidence_deg=None if graze is None else incidence(90 - graze, name),
            acquired=time_of(text_of(collection, ".//CollectionDateTime"), f"CollectionDateTime of {name}"),
        ),
        kind="amplitude",
        bands=(1,),
        gcps=_corners(root, name, _shape(path)),
        gsd_m=spacing,
    )


def _spacing(root: Element, name: str, where: str) -> tuple[float, float] | None:
    """Return the (row, column) sample spacing in metres; `where` has {} for Row and Col."""
    row, col = (
        positive(number_of(root, name, where.format(d)), f"{d} spacing of {name}") for d in ("Row", "Col")
    )
    return (row, col) if row and col else None


def _shape(path: Path) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            raster = rasterio.open(path)
        with raster:
            return raster.height, raster.width
    except RasterioError as error:
        raise SceneError(f"{path} is no whole NITF file ({error}): get it again") from error


def _amplitude_table(root: Element, name: str) -> tuple[float, ...]:
    """Return the amplitude of each 8-bit value; the value itself where the file has no table."""
    table = [float(value) for value in range(256)]
    for entry in root.iterfind("ImageData/AmpTable/Amplitude"):
        index = finite(entry.get("index") or "", f"index of AmpTable of {name}")
        if index not in range(256):
            raise SceneError(f"AmpTable of {name} has the index {index:g}, outside of 0 to 255: get it again")
        table[int(index)] = finite(entry.text or "", f"AmpTable of {name}")
    if min(table) < 0:
        raise SceneError(f"AmpTable of {name} has a negative amplitude: get it again")
    return tuple(table)


def _projected(path: Path, document: bytes) -> tuple[GroundControlPoint, ...]:
    """Project a grid of image points to the height of the scene's centre; () where the metadata cannot.

    sarkit's own reader of NITF is left aside: it logs tracebacks of damaged headers.
    """
    sicd, wgs84, etree = _sarkit(path)
    with _doubtful_metadata(path):
        tree = etree.ElementTree(etree.fromstring(document))
        helper = sicd.XmlHelper(tree)
        shape = [helper.load(f"{{*}}ImageData/{{*}}Num{side}s") for side in ("Row", "Col")]
        first = [helper.load(f"{{*}}ImageData/{{*}}First{side}") for side in ("Row", "Col")]
        rows, cols = (np.linspace(0, count - 1, _GRID) for count in shape)
        grid = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)
        places = sicd.rowcol_to_xrowycol(tree, grid + first)
        height_m = helper.load("{*}GeoData/{*}SCP/{*}LLH/{*}HAE")
        ground, _, converged = sicd.image_to_constant_hae_surface(tree, places, height_m)
        lat, lon, hae = np.moveaxis(wgs84.cartesian_to_geodetic(ground), -1, 0)
        if converged and np.isfinite([lat, lon, hae]).all():
            return tuple(
                # SICD counts from the centre of the first pixel, GDAL from its corner.
                GroundControlPoint(row + 0.5, col + 0.5, x, y, z, id=f"{index}")
                for index, (row, col, x, y, z) in enumerate(np.column_stack([grid, lon, lat, hae]).tolist())
            )
    return ()


@contextmanager
def _doubtful_metadata(path: Path) -> Iterator[None]:
    """Take whatever the projection raises or warns of for metadata that it cannot use; the corners remain."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except (ArithmeticError, AttributeError, LookupError, SyntaxError, TypeError, ValueError) as error:
        _log.info("%s: no projection from its metadata (%s), its corner points serve", path.name, error)


def _sarkit(path: Path) -> list[ModuleType]:
    try:
        return [import_module(name) for name in ("sarkit.sicd", "sarkit.wgs84", "lxml.etree")]
    except ImportError as error:
        raise SceneError(
            f'{path} is a SICD file, which the extra "sicd" reads: pip install "fusar-klip[sicd]"'
        ) from error


def _corners(root: Element, name: str, shape: tuple[int, int]) -> tuple[GroundControlPoint, ...]:
    """Return the four image corner points: first row and first column, then clockwise.

    Raises:
        SceneError: They are not there.
    """
    corners = root.findall(".//ImageCorners/ICP") or root.findall(".//GeographicCoverage/Footprint/Vertex")
    by_index = {(corner.get("index") or "")[:1]: corner for corner in corners}
    last_row, last_col = shape[0] - 0.5, shape[1] - 0.5
    places = ((0.5, 0.5), (0.5, last_col), (last_row, last_col), (last_row, 0.5))
    points = []
    for index, (row, col) in enumerate(places, 1):
        corner: Any = by_index.get(str(index))
        lat = None if corner is None else number_of(corner, name, "Lat")
        lon = None if corner is None else number_of(corner, name, "Lon")
        if lat is None or lon is None or abs(lat) > 90 or abs(lon) > 360 or math.isnan(lat):
            raise SceneError(f"{name} does not place corner {index} of the image on the Earth: get it again")
        points.append(GroundControlPoint(row, col, lon, lat, id=f"{index}"))
    return tuple(points)


def _pair(polarization: str) -> str | None:
    """Return "VV" of "V:V"; None for circular and unknown ones."""
    pair = polarization.replace(":", "").upper()
    return pair if pair in ("HH", "HV", "VH", "VV") else None


def _orbit_direction(velocity_z: float | None) -> str | None:
    if not velocity_z:
        return None
    return "ascending" if velocity_z > 0 else "descending"


def _look_side(text: str | None) -> str | None:
    return {"R": "right", "L": "left"}.get(text or "")
