"""Sentinel-1 products: SAFE folders, their zips, and the folders of AWS's mirror.

Reads the annotation of each measurement (Sentinel-1 Product Specification, S1-RS-MDA-52-7441). Products of
bursts (IW and EW SLC) are not read: their bursts have to be joined first.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from fusar_klip.errors import SceneError
from fusar_klip.geo.platforms import facts_of_name
from fusar_klip.tiles.scene.calibration import Calibration, calibration_of
from fusar_klip.tiles.scene.products.metadata import (
    MAX_METADATA_BYTES,
    incidence,
    number_of,
    parse_json,
    parse_xml,
    positive,
    read_bytes,
    text_of,
    time_of,
)
from fusar_klip.tiles.scene.products.source import SceneFacts, Source

MANIFEST = "manifest.safe"
PRODUCT_INFO = "productInfo.json"
# RuntimeError: encrypted, or a compression or version of zip that Python has not. The rest: damage.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
)
_IMAGE = re.compile(r"\.tiff?$", re.IGNORECASE)
_INFORMATION = "imageAnnotation/imageInformation"
_PROCESSING = "imageAnnotation/processingInformation/swathProcParamsList/swathProcParams"


@dataclass(frozen=True)
class _Product:
    """The files of a product, in a folder or in a zip.

    Attributes:
        path: What the user named.
        root: The product's folder: on disk, or the path inside of the zip.
        names: Paths of all files, relative to `root`, with slashes.
        archive: The zip, if it is one.
    """

    path: Path
    root: PurePosixPath
    names: tuple[str, ...]
    archive: Path | None = None

    def read(self, name: str) -> bytes:
        if self.archive is None:
            return read_bytes(Path(self.root / name))
        try:
            with zipfile.ZipFile(self.archive) as archive:
                member = str(self.root / name)
                if archive.getinfo(member).file_size > MAX_METADATA_BYTES:
                    raise SceneError(
                        f"{member} of {self.archive.name} is larger than any product's metadata: "
                        "get the product again"
                    )
                return archive.read(member)
        except _ZIP_ERRORS as error:
            raise SceneError(
                f"{name} cannot be read out of {self.archive.name} ({error}): get the product again, or "
                "unpack it and give the folder"
            ) from error

    def raster(self, name: str) -> str:
        """Return the path by which GDAL opens a file."""
        if self.archive is None:
            return str(self.root / name)
        return f"/vsizip/{{{self.archive.resolve()}}}/{self.root / name}"

    def content(self, name: str) -> Path:
        """Return the file that holds a file's content."""
        return self.archive or Path(self.root / name)

    @property
    def name(self) -> str:
        """Return the product's own name, such as S1A_IW_GRDH_1SDV_..._FD5B."""
        folder = self.root.name or (self.archive or self.path).name
        return re.sub(r"\.(safe|zip)$", "", folder, flags=re.IGNORECASE)


def sources(path: Path, *, calibrated: bool) -> list[Source] | None:
    """Return the measurements of a product's folder, zip, manifest or single raster; see `ProductReader`."""
    if path.is_dir():
        is_product = any((path / name).exists() for name in (MANIFEST, PRODUCT_INFO))
        return folder_sources(path, path, calibrated=calibrated) if is_product else None
    if path.name in (MANIFEST, PRODUCT_INFO):
        return folder_sources(path.parent, path, calibrated=calibrated)
    if path.suffix.lower() == ".zip":
        return zip_sources(path, calibrated=calibrated)
    if folder := product_folder_of(path):
        whole = folder_sources(folder, path, calibrated=calibrated)
        return [source for source in whole if Path(source.raster) == path] or None
    return None


def zip_sources(path: Path, *, calibrated: bool) -> list[Source]:
    """Return the measurements of a zipped SAFE product, without unpacking it.

    Args:
        path: The zip.
        calibrated: Read the look-up tables to sigma0.

    Raises:
        SceneError: It is no zip, holds no product or several, or its metadata is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except _ZIP_ERRORS as error:
        raise SceneError(f"{path} is no whole zip ({error}): get it again") from error
    roots = [PurePosixPath(name).parent for name in names if PurePosixPath(name).name == MANIFEST]
    if len(roots) != 1:
        raise SceneError(
            f"{path} holds {len(roots)} Sentinel-1 products (a {MANIFEST} each), and one is read: "
            "unpack it and give the folder of the product"
        )
    inside = [str(PurePosixPath(n).relative_to(roots[0])) for n in names if _within(n, roots[0])]
    return _sources(_Product(path, roots[0], tuple(sorted(inside)), archive=path), calibrated)


def folder_sources(folder: Path, path: Path, *, calibrated: bool) -> list[Source]:
    """Return the measurements of a SAFE folder, or of a folder with a productInfo.json.

    Args:
        folder: The product's folder.
        path: What the user named: the folder, or a file in it.
        calibrated: Read the look-up tables to sigma0.

    Raises:
        SceneError: There is no measurement, it is a product of bursts, or its metadata is damaged.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = tuple(file.relative_to(folder).as_posix() for file in files)
    return _sources(_Product(path, PurePosixPath(folder.as_posix()), names), calibrated)


def product_folder_of(file: Path) -> Path | None:
    """Return the product folder that a raster lies in, as measurement/x.tiff or beside productInfo.json."""
    if (file.parent / PRODUCT_INFO).is_file():
        return file.parent
    if file.parent.name == "measurement" and (file.parent.parent / MANIFEST).is_file():
        return file.parent.parent
    return None


def _within(name: str, root: PurePosixPath) -> bool:
    return root in PurePosixPath(name).parents


def _sources(product: _Product, calibrated: bool) -> list[Source]:
    in_place = [n for n in product.names if _IMAGE.search(n) and n.startswith("measurement/")]
    # AWS's mirror keeps measurement/ too, but what people cut out of it often lies flat.
    measurements = in_place or [n for n in product.names if _IMAGE.search(n) and "/" not in n]
    if not measurements:
        raise SceneError(f"{product.path} has no measurement/*.tiff: get the product again, it is not whole")
    whole = _product_facts(product)
    return [_source(product, name, whole, calibrated) for name in measurements]


def _source(product: _Product, measurement: str, whole: SceneFacts, calibrated: bool) -> Source:
    stem = PurePosixPath(measurement).stem
    named = facts_of_name(stem)
    facts, gsd_m = SceneFacts(), None
    if annotation := _beside(product.names, "annotation", stem):
        root = parse_xml(product.read(annotation), f"{annotation} of {product.name}")
        _refuse_bursts(root, product)
        facts, gsd_m = _annotated(root, annotation)
    # The product's name tells the resolution too (GRDH), which annotation and manifest (GRD) do not.
    facts = replace(facts, product_type=whole.product_type or facts.product_type)
    tells_all = named.platform is not None and named.acquired is not None
    polarization = facts.polarization or named.polarization
    return Source(
        path=product.path,
        raster=product.raster(measurement),
        name=stem if tells_all else f"{product.name}_{polarization or stem}",
        files=(product.content(measurement),),
        facts=facts.completed_by(SceneFacts(polarization=named.polarization)).completed_by(whole),
        kind="complex" if facts.product_type == "SLC" else "amplitude",
        gsd_m=gsd_m,
        calibration=_calibration(product, stem) if calibrated else None,
    )


def _beside(names: Sequence[str], folder: str, stem: str) -> str | None:
    """Return the XML that belongs to a measurement; "-cog" marks only the recompressed measurement."""
    plain = stem.removesuffix("-cog")
    return next((n for n in (f"{folder}/{stem}.xml", f"{folder}/{plain}.xml") if n in names), None)


def _calibration(product: _Product, stem: str) -> Calibration | None:
    table = _beside(product.names, "annotation/calibration", f"calibration-{stem}")
    if table is None:
        return None
    name = f"{table} of {product.name}"
    return calibration_of(parse_xml(product.read(table), name), name)


def _product_facts(product: _Product) -> SceneFacts:
    """Gather what holds of the whole product: manifest or productInfo.json, then the product's name."""
    named = facts_of_name(product.name)
    of_name = SceneFacts(
        platform="Sentinel-1",
        band="C",
        mode=named.mode,
        product_type=named.product_type,
        look_side="right",  # the antenna is fixed to the right of the flight direction
        acquired=named.acquired,
    )
    if MANIFEST in product.names:
        name = f"{MANIFEST} of {product.name}"
        root = parse_xml(product.read(MANIFEST), name)
        family = text_of(root, ".//platform/familyName")
        if family is not None and not family.upper().startswith("SENTINEL-1"):
            raise SceneError(
                f"{product.path} is a product of {family}, and only Sentinel-1's SAFE is read: "
                "give its rasters themselves"
            )
        manifest = SceneFacts(
            mode=text_of(root, ".//instrumentMode/mode"),
            orbit_direction=_direction(text_of(root, ".//orbitProperties/pass")),
            acquired=time_of(text_of(root, ".//acquisitionPeriod/startTime"), f"startTime of {name}"),
        )
        return manifest.completed_by(of_name)
    if PRODUCT_INFO in product.names:
        return _info_facts(product).completed_by(of_name)
    return of_name


def _info_facts(product: _Product) -> SceneFacts:
    name = f"{PRODUCT_INFO} of {product.name}"
    info = parse_json(product.read(PRODUCT_INFO), name)
    if not isinstance(info, dict):
        raise SceneError(f"{name} is no JSON object: get the product again")

    def said(key: str) -> str | None:
        value = info.get(key)
        return value if isinstance(value, str) and value else None

    named = facts_of_name(said("id") or "")
    acquired: datetime | None = time_of(said("startTime"), f"startTime of {name}")
    return SceneFacts(
        mode=said("mode") or named.mode,
        product_type=named.product_type or said("productType"),
        acquired=acquired or named.acquired,
    )


def _annotated(root: Element, name: str) -> tuple[SceneFacts, tuple[float, float] | None]:
    """Return the facts of an annotation, and its (azimuth, range) pixel spacing in metres."""
    looks = [
        positive(number_of(root, name, f"{_PROCESSING}/{d}Processing/numberOfLooks"), f"looks of {name}")
        for d in ("range", "azimuth")
    ]
    spacing = [
        positive(number_of(root, name, f"{_INFORMATION}/{d}PixelSpacing"), f"pixel spacing of {name}")
        for d in ("azimuth", "range")
    ]
    facts = SceneFacts(
        polarization=text_of(root, "adsHeader/polarisation"),
        mode=text_of(root, "adsHeader/mode"),
        product_type=text_of(root, "adsHeader/productType"),
        orbit_direction=_direction(text_of(root, "generalAnnotation/productInformation/pass")),
        incidence_deg=incidence(number_of(root, name, f"{_INFORMATION}/incidenceAngleMidSwath"), name),
        looks=looks[0] * looks[1] if looks[0] and looks[1] else None,
        acquired=time_of(text_of(root, "adsHeader/startTime"), f"startTime of {name}"),
    )
    return facts, (spacing[0], spacing[1]) if spacing[0] and spacing[1] else None


def _refuse_bursts(root: Element, product: _Product) -> None:
    if root.find("swathTiming/burstList/burst") is not None:
        raise SceneError(
            f"{product.path} is an SLC product of bursts, which overlap: give the GRD product of the same "
            "acquisition, or join the bursts first (TOPSAR deburst in SNAP)"
        )


def _direction(text: str | None) -> str | None:
    word = (text or "").casefold()
    return word if word in ("ascending", "descending") else None
