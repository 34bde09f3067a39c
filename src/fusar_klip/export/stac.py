"""STAC 1.1: a collection, a catalog for each scene, an item for each tile, and all items as stac-geoparquet.

    OUT/collection.json
    OUT/items.parquet                       the items that have coordinates, for queries
    OUT/<scene_id>/catalog.json
    OUT/<scene_id>/<tile_id>.json

Links are relative, and so are the hrefs of the tiles, which stay where they are: the export and the data set
are moved together.
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
from fusar_klip.export.samples import Sample, Samples, iso_time
from fusar_klip.export.stac_item import (
    ASSET,
    ASSET_FIELDS,
    PREFIX,
    STAC_VERSION,
    file_facts,
    stac_item,
)
from fusar_klip.files import write_json
from fusar_klip.progress import track

_GEOPARQUET_CHUNK = 4096
_ROOT = {"rel": "root", "href": "../collection.json", "type": "application/json"}
_SUMMARIES = {
    "platform": "platform",
    **{f"{PREFIX}{column}": column for column in ("band", "polarization", "mode", "product_type")},
    **{f"{PREFIX}{column}": column for column in ("scale", "split", "scene_type", "landform", "country")},
}


def write_stac(samples: Samples, folder: Path, out: Path) -> None:
    """Write the collection into `folder`; its hrefs hold once it is at `out`."""
    extent = Extent()
    scenes = samples.distinct("scene_id")
    items = _write_scenes(samples, scenes, folder, out, extent)
    assets = _card(samples.dataset, out)
    if _write_geoparquet(items, folder):
        assets["items"] = {
            "href": "./items.parquet",
            "type": "application/vnd.apache.parquet",
            "title": "The items that have coordinates; their hrefs are relative to this file",
            "roles": ["collection-mirror"],
        }
    name = samples.dataset.resolve().name
    collection = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "id": name,
        "title": name,
        "description": f"{samples.count()} SAR tiles of {len(scenes)} scenes, made by fusar-klip build.",
        "license": "other",
        "keywords": ["SAR", "synthetic aperture radar"],
        "extent": extent.to_dict(),
        "summaries": {key: v for key, column in _SUMMARIES.items() if (v := samples.distinct(column))},
        "item_assets": {ASSET: ASSET_FIELDS},
        "assets": assets,
        "links": [
            {**_ROOT, "href": "./collection.json"},
            *({"rel": "child", "href": f"./{s}/catalog.json", "type": "application/json"} for s in scenes),
        ],
    }
    write_json(folder / "collection.json", collection)


def _card(dataset: Path, out: Path) -> dict[str, Any]:
    """Return the data card and its map as the collection's assets."""
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
    """The box and the time that hold all tiles seen so far."""

    def __init__(self) -> None:
        self._boxes: list[tuple[float, float, float, float]] = []
        self._times: list[datetime] = []

    def add(self, sample: Sample) -> None:
        """Widen by one tile."""
        if sample.footprint is not None:
            west, south, east, north = zip(*self._boxes, sample.footprint.bounds, strict=True)
            self._boxes = [(min(west), min(south), max(east), max(north))]
        if time := sample.row["acquired"]:
            times = (*self._times, time)
            self._times = [min(times), max(times)]

    def to_dict(self) -> dict[str, Any]:
        """Return STAC's extent: the whole world, and open ends, where nothing is known."""
        box = self._boxes[0] if self._boxes else (-180.0, -90.0, 180.0, 90.0)
        times = [iso_time(time) for time in self._times] if self._times else [None, None]
        return {"spatial": {"bbox": [list(box)]}, "temporal": {"interval": [times]}}


def _write_scenes(
    samples: Samples, scenes: list[str], folder: Path, out: Path, extent: Extent
) -> Iterator[dict[str, Any]]:
    """Write items and catalogs scene by scene; yield the items as seen from the collection's folder."""
    files = {s["scene_id"]: s["file"] for s in read_manifest(samples.dataset).get("scenes", [])}
    dataset = os.path.relpath(samples.dataset.resolve(), out)
    name = samples.dataset.resolve().name
    tiles = (sample for scene in scenes for sample in samples(scene_id=scene))
    tracked = track(tiles, "Exporting items", samples.count())
    for scene, of_scene in groupby(tracked, lambda sample: str(sample.row["scene_id"])):
        (folder / scene).mkdir()
        links = [_ROOT, {**_ROOT, "rel": "parent"}]
        for sample, facts in samples.with_files(of_scene, file_facts):
            extent.add(sample)
            href = f"{dataset}/{sample.row['path']}"
            item = stac_item(sample, facts, f"../{href}", name)
            content = json.dumps(item, ensure_ascii=False)
            (folder / scene / f"{sample.tile_id}.json").write_text(content, encoding="utf-8")
            links.append({"rel": "item", "href": f"./{sample.tile_id}.json", "type": "application/geo+json"})
            item["assets"][ASSET]["href"] = href
            item["links"] = [{**_ROOT, "rel": "collection", "href": "./collection.json"}]
            yield item
        description = f"The tiles of {files.get(scene, scene)}."
        catalog = {"type": "Catalog", "id": scene, "stac_version": STAC_VERSION, "description": description}
        write_json(folder / scene / "catalog.json", {**catalog, "links": links})


def _write_geoparquet(items: Iterator[dict[str, Any]], folder: Path) -> bool:
    """Write `items.parquet`, of the items that have coordinates, and say whether there are any."""
    placed = (item for item in items if "bbox" in item)
    first = next(placed, None)
    if first is None:
        return False
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        table = parse_stac_items_to_arrow(
            chain([first], placed), _GEOPARQUET_CHUNK, schema="ChunksToDisk", tmpdir=scratch
        )
        to_parquet(table, folder / "items.parquet", compression="zstd")
    return True
