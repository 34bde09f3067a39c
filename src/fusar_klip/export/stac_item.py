"""A tile as a STAC 1.1 item.

The extensions sar, sat, view, proj, raster and file are used where the tile's catalog row has their required
fields. Every other non-null column becomes a property with the prefix "fusar_klip:".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from affine import Affine
from shapely.geometry.base import BaseGeometry

from fusar_klip.export.tile_reader import ExportedTile, iso_time
from fusar_klip.files import sha256

STAC_VERSION = "1.1.0"
EXTENSIONS: Mapping[str, str] = {
    "sar": "https://stac-extensions.github.io/sar/v1.0.0/schema.json",
    "sat": "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
    "view": "https://stac-extensions.github.io/view/v1.0.0/schema.json",
    "proj": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "file": "https://stac-extensions.github.io/file/v2.1.0/schema.json",
}
"""The versions that pystac implements."""
PREFIX = "fusar_klip:"
ASSET = "image"
UNKNOWN_TIME = ("1978-06-27T00:00:00Z", "2100-01-01T00:00:00Z")
"""STAC requires a time. For an unknown one: from the launch of the first civil SAR satellite (Seasat) on."""

_IN_OTHER_WORDS = ("tile_id", "path", "crs", "transform", "acquired")
_SAR_BANDS = ("P", "L", "S", "C", "X", "Ku", "K", "Ka")
_SAR_POLARIZATIONS = ("HH", "VV", "HV", "VH")
_SHA256_MULTIHASH = "1220"  # code 0x12, followed by 0x20 bytes


@dataclass(frozen=True)
class FileInfo:
    """A file's size in bytes, and its SHA-256 in hexadecimal digits."""

    size: int
    digest: str


def file_info(path: Path) -> FileInfo:
    """Return the size and the SHA-256 of a file."""
    return FileInfo(path.stat().st_size, sha256(path))


def stac_item(tile: ExportedTile, info: FileInfo, href: str, collection: str) -> dict[str, Any]:
    """Return the STAC item of a tile whose image is at `href`; the collection is one folder above."""
    extensions = {
        "sar": _sar(tile.row),
        "sat": _sat(tile.row),
        "view": _view(tile.row),
        "proj": _proj(tile.row),
    }
    used = [*(name for name, fields in extensions.items() if fields), "raster", "file"]
    own = {PREFIX + k: v for k, v in tile.row.items() if v is not None and k not in _IN_OTHER_WORDS}
    properties = {**_common(tile), **own}
    for fields in extensions.values():
        properties |= fields
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EXTENSIONS[name] for name in used],
        "id": tile.tile_id,
        "collection": collection,
        "geometry": None,
        "properties": properties,
        "links": [
            {"rel": "root", "href": "../collection.json", "type": "application/json"},
            {"rel": "parent", "href": "./catalog.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
        ],
        "assets": {ASSET: {"href": href, **ASSET_FIELDS, **_asset(tile.row, info)}},
    }
    if tile.footprint is not None:
        item |= {"geometry": _geojson(tile.footprint), "bbox": bbox(tile.footprint)}
    return item


ASSET_FIELDS: Mapping[str, Any] = {
    "type": "image/tiff; application=geotiff",
    "title": "SAR amplitude, 8 bits, 0 = no data",
    "roles": ["data", "amplitude"],
}
"""Asset fields that all items share."""


def bbox(footprint: BaseGeometry) -> list[float]:
    """Return west, south, east, north in degrees; west > east if the footprint crosses the antimeridian."""
    west, south, east, north = footprint.bounds
    parts = [part.bounds for part in shapely.get_parts(footprint)]
    if len(parts) > 1 and (west, east) == (-180.0, 180.0):
        west = min(w for w, _, _, _ in parts if w > 0)
        east = max(e for _, _, e, _ in parts if e < 0)
    return [west, south, east, north]


def _common(tile: ExportedTile) -> dict[str, Any]:
    row = tile.row
    fields: dict[str, Any] = {"gsd": row["gsd_m"], "platform": row["platform"], "description": tile.text}
    fields = {name: value for name, value in fields.items() if value is not None}
    if row["acquired"] is not None:
        return {"datetime": iso_time(row["acquired"]), **fields}
    start, end = UNKNOWN_TIME
    return {"datetime": None, "start_datetime": start, "end_datetime": end, **fields}


def _sar(row: Mapping[str, Any]) -> dict[str, Any]:
    """Mode, band, polarization and product type are required; band and polarization are closed lists."""
    if not (row["mode"] and row["product_type"]):
        return {}
    if row["band"] not in _SAR_BANDS or row["polarization"] not in _SAR_POLARIZATIONS:
        return {}
    fields = {
        "sar:instrument_mode": row["mode"],
        "sar:frequency_band": row["band"],
        "sar:polarizations": [row["polarization"]],
        "sar:product_type": row["product_type"],
        "sar:looks_equivalent_number": row["looks"],
        "sar:observation_direction": row["look_side"],
    }
    return {name: value for name, value in fields.items() if value is not None}


def _sat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"sat:orbit_state": row["orbit_direction"]} if row["orbit_direction"] else {}


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    return {} if row["incidence_deg"] is None else {"view:incidence_angle": row["incidence_deg"]}


def _proj(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["crs"] is None:
        return {}
    epsg = row["crs"].startswith("EPSG:")
    corners = [Affine(*row["transform"]) @ (x, y) for x in (0, row["width"]) for y in (0, row["height"])]
    xs, ys = zip(*corners, strict=True)
    return {
        "proj:code": row["crs"] if epsg else None,
        **({} if epsg else {"proj:wkt2": row["crs"]}),
        "proj:shape": [row["height"], row["width"]],
        "proj:transform": row["transform"],
        "proj:bbox": [min(xs), min(ys), max(xs), max(ys)],
    }


def _asset(row: Mapping[str, Any], info: FileInfo) -> dict[str, Any]:
    statistics = {"mean": row["mean"], "stddev": row["std"], "valid_percent": 100 * row["valid_fraction"]}
    band = {
        "data_type": "uint8",
        "nodata": 0,
        "sampling": "area",
        "spatial_resolution": row["gsd_m"],
        "statistics": {name: value for name, value in statistics.items() if value is not None},
    }
    return {
        "raster:bands": [{name: value for name, value in band.items() if value is not None}],
        "file:size": info.size,
        "file:checksum": _SHA256_MULTIHASH + info.digest,
    }


def _geojson(footprint: BaseGeometry) -> dict[str, Any]:
    """Return GeoJSON whose outer rings run counter-clockwise (RFC 7946)."""
    geometry: dict[str, Any] = shapely.geometry.mapping(shapely.orient_polygons(footprint))
    return geometry
