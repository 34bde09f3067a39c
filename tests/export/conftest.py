"""A small data set with the special cases of exports."""

from datetime import UTC, datetime
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from pyproj import CRS
from rasterio.transform import Affine
from shapely.geometry import MultiPolygon, box

from fusar_klip import catalog

SIZE = 24
UTM = Affine(10, 0, 380_000, 0, -10, 3_735_000)
LOCAL_CRS = CRS("+proj=laea +lat_0=12 +lon_0=34 +datum=WGS84").to_wkt()
KNOWN = {
    "platform": "Sentinel-1",
    "band": "C",
    "polarization": "VH",
    "mode": "IW",
    "product_type": "GRDH",
    "orbit_direction": "descending",
    "look_side": "right",
    "incidence_deg": 38.5,
    "looks": 4.4,
    "acquired": datetime(2020, 11, 7, 13, 52, 41, tzinfo=UTC),
}
PLACED = {"crs": "EPSG:32611", "transform": list(UTM)[:6], "lon": -118.3, "lat": 33.75, "gsd_m": 10.0}


def tile_row(tile_id: str, scene_id: str, **values: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(catalog.TILE_SCHEMA.names)
    row |= {"tile_id": tile_id, "scene_id": scene_id, "ground_id": tile_id, "scale": "large"}
    row |= {"path": f"tiles/{scene_id}/{tile_id}.tif", "width": SIZE, "height": SIZE, "split": "train"}
    return row | {"valid_fraction": 1.0, "kept": True} | values


FIJI = {"crs": LOCAL_CRS, "lon": 180.0, "lat": -16.95, "platform": "Umbra"}
LA = KNOWN | PLACED
TILES = [
    tile_row("la.x_L_0", "la.x", **LA, place="Los Ángeles | 洛杉矶", mean=90.0, std=40.0),
    tile_row("la.x_L_1", "la.x", **LA, split="test", enl=np.inf),
    tile_row("la.x_L_2", "la.x", **LA, kept=False),
    tile_row("fiji_L_0", "fiji", **PLACED | FIJI),
    tile_row("chips_L_0", "chips", split="val"),
]
FOOTPRINTS = [
    box(-118.4, 33.7, -118.2, 33.8),
    box(-118.2, 33.7, -118.0, 33.8),
    box(-118.0, 33.7, -117.8, 33.8),
    MultiPolygon([box(179.9, -17, 180, -16.9), box(-180, -17, -179.9, -16.9)]),
    None,
]


def write_dataset(folder: Path) -> Path:
    for number, row in enumerate(TILES):
        path = folder / str(row["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
        located = {"crs": row["crs"], "transform": UTM}
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": SIZE, "width": SIZE}
        with rasterio.open(path, "w", **profile, **located, nodata=0, compress="deflate") as raster:
            raster.write(levels, 1)
    catalog.write_tiles(folder, gpd.GeoDataFrame(TILES, geometry=FOOTPRINTS, crs="EPSG:4326"))
    scenes = [{"scene_id": s, "file": f"{s}.tif"} for s in ("chips", "fiji", "la.x")]
    catalog.write_manifest(folder, {"format_version": 1, "tiles": len(TILES), "scenes": scenes})
    return folder


def write_texts(folder: Path, version: str, word: str) -> None:
    lines = [
        {"tile_id": tile_id, "task": "terrain", "field": field, "text": f"{word} {field} of {tile_id}"}
        for tile_id in ("la.x_L_0", "la.x_L_1", "fiji_L_0")
        for field in catalog.FIELDS["terrain"]
    ]
    texts = pd.DataFrame(lines).assign(source="measure", prompt_version="1", verdict="original")
    texts.loc[texts["field"] == "Road", "verdict"] = "noise"
    texts = texts.assign(delta_itc=None, delta_itm=None, itm_score=None, previous=None)
    catalog.write_texts(folder, version, texts, parent=None, maker={})


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Five tiles of three scenes, one across the antimeridian, one without coordinates; texts for three."""
    folder = write_dataset(tmp_path / "my data")
    write_texts(folder, "v000", "old")
    write_texts(folder, "v001", "new")
    return folder


@pytest.fixture
def without_texts(tmp_path: Path) -> Path:
    """The same without texts."""
    return write_dataset(tmp_path / "plain")
