"""STAC 1.1: one collection, a catalog per scene, an item per tile, and all items as stac-geoparquet.

    OUT/collection.json
    OUT/items.parquet                       the items that have coordinates, for queries
    OUT/<scene_id>/catalog.json
    OUT/<scene_id>/<tile_id>.json

Links and the hrefs of the tiles are relative, and the tiles are not copied: move the export and the data set
together.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

from fusar_klip.catalog import read_manifest
from fusar_klip.export.stac_item import (
    ASSET,
    ASSET_FIELDS,
    PREFIX,
    STAC_VERSION,
    file_info,
    stac_item,
)
from fusar_klip.export.tile_reader import ExportedTile, TileReader, iso_time
from fusar_klip.files import write_json
from fusar_klip.progress import track

_GEOPARQUET_CHUNK = 4096
_ROOT = {"rel": "root", "href": "../collection.json", "type": "application/json"}
_SUMMARIES = {
    "platform": "platform",
    **{f"{PREFIX}{column}": column for column in ("band", "polarization", "mode", "product_type")},
    **{f"{PREFIX}{column}": column for column in ("scale", "split", "scene_type", "landform", "country")},
}


def write_stac(reader: TileReader, folder: Path, out: Path) -> None:
    """Write the collection into `folder`. Its hrefs are relative to `out`, its final path."""
    extent = Extent()
    scenes = reader.distinct("scene_id")
    items = _write_scenes(reader, scenes, folder, out, extent)
    assets = _card_assets(reader.dataset, out)
    if _write_geoparquet(items, folder):
        assets["items"] = {
            "href": "./items.parquet",
            "type": "application/vnd.apache.parquet",
            "title": "The items that have coordinates; their hrefs are relative to this file",
            "roles": ["collection-mirror"],
        }
    name = reader.dataset.resolve().name
    collection = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "id": name,
        "title": name,
        "description": f"{reader.count()} SAR tiles of {len(scenes)} scenes, made by fusar-klip build.",
        "license": "other",
        "keywords": ["SAR", "synthetic aperture radar"],
        "extent": extent.to_dict(),
        "summaries": {key: v for key, column in _SUMMARIES.items() if (v := reader.distinct(column))},
        "item_assets": {ASSET: ASSET_FIELDS},
        "assets": assets,
        "links": [
            {**_ROOT, "href": "./collection.json"},
            *({"rel": "child", "href": f"./{s}/catalog.json", "type": "application/json"} for s in scenes),
        ],
    }
    write_json(folder / "collection.json", collection)


def _card_assets(dataset: Path, out: Path) -> dict[str, Any]:
    """Return the data card and the map of the scenes as assets of the collection."""
    assets = {
        "card": ("dataset.md", "text/markdown", "Data card", "metadata"),
        "thumbnail": ("dataset.png", "image/png", "Map of the scenes", "thumbnail"),
    }
    folder = os.path.relpath(dataset.resolve(), out)
    return {
        name: {"href": f"{folder}/{file}", "type": media_type, "title": title, "roles": [role]}
        for name, (file, media_type, title, role) in assets.items()
        if (dataset / file).exists()
    }


class Extent:
    """The bounding box and the time interval of all tiles added so far."""

    def __init__(self) -> None:
        self._boxes: list[tuple[float, float, float, float]] = []
        self._times: list[datetime] = []

    def add(self, tile: ExportedTile) -> None:
        """Extend the box and the interval by one tile."""
        if tile.footprint is not None:
            west, south, east, north = zip(*self._boxes, tile.footprint.bounds, strict=True)
            self._boxes = [(min(west), min(south), max(east), max(north))]
        if time := tile.row["acquired"]:
            times = (*self._times, time)
            self._times = [min(times), max(times)]

    def to_dict(self) -> dict[str, Any]:
        """Return the STAC extent: the whole world if no footprint is known, open ends if no time is."""
        box = self._boxes[0] if self._boxes else (-180.0, -90.0, 180.0, 90.0)
        times = [iso_time(time) for time in self._times] if self._times else [None, None]
        return {"spatial": {"bbox": [list(box)]}, "temporal": {"interval": [times]}}


def _write_scenes(
    reader: TileReader, scenes: list[str], folder: Path, out: Path, extent: Extent
) -> Iterator[dict[str, Any]]:
    """Write items and catalogs scene by scene; yield items with hrefs relative to the collection."""
    files = {s["scene_id"]: s["file"] for s in read_manifest(reader.dataset).get("scenes", [])}
    dataset = os.path.relpath(reader.dataset.resolve(), out)
    name = reader.dataset.resolve().name
    tiles = (tile for scene in scenes for tile in reader.tiles(scene_id=scene))
    tracked = track(tiles, "Exporting items", reader.count())
    for scene, scene_tiles in groupby(tracked, lambda tile: str(tile.row["scene_id"])):
        (folder / scene).mkdir()
        links = [_ROOT, {**_ROOT, "rel": "parent"}]
        for tile, info in reader.with_files(scene_tiles, file_info):
            extent.add(tile)
            href = f"{dataset}/{tile.row['path']}"
            item = stac_item(tile, info, f"../{href}", name)
            content = json.dumps(item, ensure_ascii=False)
            (folder / scene / f"{tile.tile_id}.json").write_text(content, encoding="utf-8")
            links.append({"rel": "item", "href": f"./{tile.tile_id}.json", "type": "application/geo+json"})
            item["assets"][ASSET]["href"] = href
            item["links"] = [{**_ROOT, "rel": "collection", "href": "./collection.json"}]
            yield item
        description = f"The tiles of {files.get(scene, scene)}."
        catalog = {"type": "Catalog", "id": scene, "stac_version": STAC_VERSION, "description": description}
        write_json(folder / scene / "catalog.json", {**catalog, "links": links})


def _write_geoparquet(items: Iterator[dict[str, Any]], folder: Path) -> bool:
    """Write `items.parquet` with the items that have coordinates; return whether there are any."""
    georeferenced = (item for item in items if "bbox" in item)
    first = next(georeferenced, None)
    if first is None:
        return False
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        table = parse_stac_items_to_arrow(
            chain([first], georeferenced), _GEOPARQUET_CHUNK, schema="ChunksToDisk", tmpdir=scratch
        )
        to_parquet(table, folder / "items.parquet", compression="zstd")
    return True
