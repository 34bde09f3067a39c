"""A small data set for the tests of `pretrain` and `scio`: tiles with one bright blob, and texts about it.

Their `conftest.py` imports the fixtures.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from shapely import box

from fusar_klip import catalog

ROWS, COLUMNS, SIZES = ("north", "middle", "south"), ("west", "centre", "east"), ("small", "large")


def write_dataset(dataset: Path, count: int, seed: int = 0) -> Path:
    """Write `count` tiles of 40 x 40 px, one blob in each, and their texts; every sixth is for validation."""
    rng = np.random.default_rng(seed)
    tiles, texts = [], []
    for number in range(count):
        row, column, size = (int(rng.integers(n)) for n in (3, 3, 2))
        tile_id, split = f"tile{number:04d}", "val" if number % 6 == 5 else "train"
        pixels = rng.rayleigh(25, (40, 40)).clip(1, 255).astype(np.uint8)
        half = 2 + 3 * size
        y, x = 7 + 13 * row, 7 + 13 * column
        pixels[max(0, y - half) : y + half, max(0, x - half) : x + half] = 220
        path = dataset / "tiles" / "scene" / f"{tile_id}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        tiles.append(_tile_row(tile_id, split) | ({"gsd_m": 10.0} if number % 3 == 0 else {}))
        fields = {
            "Count": "1 bright target",
            "Location": f"{ROWS[row]} {COLUMNS[column]} of the tile",
            "Size": f"the target is {SIZES[size]}, {half * 2}.5 m long",
            "Region": "no other target is near",
        }
        texts += [
            {
                "tile_id": tile_id,
                "task": "marine_target",
                "field": field,
                "text": text,
                "source": "test",
                "prompt_version": "1",
                "verdict": "original",
            }
            for field, text in fields.items()
        ]
    frame = gpd.GeoDataFrame(pd.DataFrame(tiles), geometry=[box(0, 0, 1, 1)] * count, crs="EPSG:4326")
    catalog.write_tiles(dataset, frame)
    columns = pd.DataFrame(texts).reindex(columns=catalog.TEXT_SCHEMA.names)
    catalog.write_texts(dataset, "v000", columns, parent=None, maker={"verb": "test"})
    catalog.write_manifest(dataset, {"tiles": count})
    return dataset


def _tile_row(tile_id: str, split: str) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(catalog.TILE_SCHEMA.names)
    return row | {
        "tile_id": tile_id,
        "scene_id": "scene",
        "ground_id": tile_id,
        "scale": "small",
        "path": f"tiles/scene/{tile_id}.tif",
        "width": 40,
        "height": 40,
        "split": split,
        "valid_fraction": 1.0,
        "kept": True,
    }


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads in their last bit, and so do runs that are compared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def write_blobs() -> Callable[[Path, int], Path]:
    """Write a data set of a given number of tiles into a folder; return the folder."""
    return write_dataset


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 60 tiles, 50 of them for training; tests only read it."""
    return write_dataset(tmp_path_factory.mktemp("blobs"), 60)
