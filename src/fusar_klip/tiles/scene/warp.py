"""Virtual warped rasters: GDAL's description of a warp as text.

GDAL reads such a text as a raster, and warps it window by window. Written here rather than left to
`rasterio.WarpedVRT`, which fits control points in degrees (and so tears at the antimeridian), chooses the
fit itself, and cannot be sent to another process.
"""

from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.rpc import RPC

from fusar_klip.tiles.scene.control_points import THIN_PLATE_SPLINE
from fusar_klip.tiles.scene.pixels import PixelFormat

BLOCK_ROWS = 512
BLOCK_COLS = 1024
"""Windows that a warped scene is read in: GDAL's interpolated positions differ by the window, up to an
eighth of a pixel, so the same windows are what makes the same bytes."""
_MAX_ERROR_PX = 0.125
_GDAL_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "uint64": "UInt64",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
    "complex64": "CFloat32",
    "complex128": "CFloat64",
}
_RESAMPLING = {"nearest": "NearestNeighbour", "bilinear": "Bilinear"}


def warped_raster(
    raster: str, pixels: PixelFormat, transformer: str, shape: tuple[int, int], resampling: str
) -> tuple[str, PixelFormat]:
    """Describe the warped bands of a raster.

    Args:
        raster: What GDAL opens.
        pixels: Its bands, type and no-data value.
        transformer: One of the `*_transformer` texts below.
        shape: Height and width of the map grid.
        resampling: "nearest" or "bilinear".

    Returns:
        The text that GDAL opens, and the format of its pixels: bands from 1, no data outside of the scene.
    """
    stored, nodata = pixels.stored, 0.0
    if pixels.zero_is_a_value:
        stored = "float64" if np.dtype(stored).itemsize > 4 or stored == "int32" else "float32"
        nodata = float("nan")
    dataset = Element("VRTDataset", rasterXSize=str(shape[1]), rasterYSize=str(shape[0]))
    dataset.set("subClass", "VRTWarpedDataset")
    for band in range(1, len(pixels.bands) + 1):
        element = SubElement(dataset, "VRTRasterBand", dataType=_GDAL_TYPES[stored], band=str(band))
        element.set("subClass", "VRTWarpedRasterBand")
        _text(element, "NoDataValue", nodata)
    _text(dataset, "BlockXSize", BLOCK_COLS)
    _text(dataset, "BlockYSize", BLOCK_ROWS)
    options = SubElement(dataset, "GDALWarpOptions")
    _text(options, "ResampleAlg", _RESAMPLING[resampling])
    _text(options, "WorkingDataType", _GDAL_TYPES[stored])
    for key, value in (("INIT_DEST", "NO_DATA"), ("UNIFIED_SRC_NODATA", "YES")):
        SubElement(options, "Option", name=key).text = value
    source = str(Path(raster).resolve()) if Path(raster).exists() else raster
    SubElement(options, "SourceDataset", relativeToVRT="0").text = source
    wrapped = SubElement(SubElement(options, "Transformer"), "ApproxTransformer")
    _text(wrapped, "MaxError", _MAX_ERROR_PX)
    SubElement(wrapped, "BaseTransformer").append(fromstring(transformer))
    if pixels.alpha:
        _text(options, "SrcAlphaBand", pixels.alpha)
    bands = SubElement(options, "BandList")
    for index, band in enumerate(pixels.bands, 1):
        mapping = SubElement(bands, "BandMapping", src=str(band), dst=str(index))
        # Bilinear means are taken over what is data only.
        absent = pixels.nodata if pixels.nodata is not None else nodata
        for end, number in (("Src", absent), ("Dst", nodata)):
            _text(mapping, f"{end}NoDataReal", number)
            _text(mapping, f"{end}NoDataImag", 0.0)
    # What is no data comes out as 0 or NaN, which need no telling; the mask was applied by the warp.
    warped = replace(
        pixels,
        bands=tuple(range(1, len(pixels.bands) + 1)),
        stored=stored,
        nodata=None,
        masked=False,
        alpha=None,
    )
    return tostring(dataset, encoding="unicode"), warped


def affine_transformer(transform: Affine, crs: CRS, centre_lon: float, grid: Affine, target: CRS) -> str:
    """Describe the way from a raster in degrees (`transform`, `crs`, about `centre_lon`) to the map grid."""
    root = Element("GenImgProjTransformer")
    _geotransforms(root, "Src", transform)
    _geotransforms(root, "Dst", grid)
    _reprojection(root, crs, target, centre_lon)
    return tostring(root, encoding="unicode")


def control_point_transformer(
    pixels: NDArray[np.float64], ground: NDArray[np.float64], order: int, grid: Affine
) -> str:
    """Describe the way by control points: (N, 2) columns and rows, (N, 2) coordinates in the grid's CRS."""
    root = Element("GenImgProjTransformer")
    spline = order == THIN_PLATE_SPLINE
    name = "TPSTransformer" if spline else "GCPTransformer"
    transformer = SubElement(SubElement(root, f"Src{name}"), name)
    if not spline:
        _text(transformer, "Order", order)
    _text(transformer, "Reversed", 0)
    points = SubElement(transformer, "GCPList")
    for number, ((col, row), (x, y)) in enumerate(zip(pixels.tolist(), ground.tolist(), strict=True), 1):
        point = {"Id": str(number), "Pixel": repr(col), "Line": repr(row), "X": repr(x), "Y": repr(y)}
        SubElement(points, "GCP", point)
    _geotransforms(root, "Dst", grid)
    return tostring(root, encoding="unicode")


def rpc_transformer(rpcs: RPC, height_m: float | None, dem: Path | None, grid: Affine, target: CRS) -> str:
    """Describe the way by rational polynomials at one height, or on a height model."""
    root = Element("GenImgProjTransformer")
    transformer = SubElement(SubElement(root, "SrcRPCTransformer"), "RPCTransformer")
    _text(transformer, "Reversed", 0)
    _text(transformer, "HeightOffset", height_m or 0.0)
    _text(transformer, "HeightScale", 1)
    if dem:
        _text(transformer, "DEMPath", str(dem.resolve()))
        _text(transformer, "DEMInterpolation", "bilinear")
    metadata = SubElement(transformer, "Metadata")
    for key, value in rpcs.to_gdal().items():
        SubElement(metadata, "MDI", key=key).text = value
    _geotransforms(root, "Dst", grid)
    _reprojection(root, CRS.from_epsg(4326), target, rpcs.long_off)
    return tostring(root, encoding="unicode")


def _geotransforms(root: Element, end: str, transform: Affine) -> None:
    for kind, affine in (("GeoTransform", transform), ("InvGeoTransform", ~transform)):
        _text(root, f"{end}{kind}", ",".join(repr(float(v)) for v in affine.to_gdal()))


def _reprojection(root: Element, start: CRS, end: CRS, centre_lon: float) -> None:
    reprojection = SubElement(SubElement(root, "ReprojectTransformer"), "ReprojectionTransformer")
    _text(reprojection, "SourceSRS", start.to_wkt())
    _text(reprojection, "TargetSRS", end.to_wkt())
    # Longitudes come back within half a turn of the scene, not of Greenwich.
    options = SubElement(reprojection, "Options")
    SubElement(options, "Option", key="CENTER_LONG").text = repr(float(centre_lon))


def _text(parent: Element, tag: str, value: object) -> None:
    SubElement(parent, tag).text = str(value)
