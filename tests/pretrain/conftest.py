"""A small data set made by hand: blobs of light, and texts that say where they are."""

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
from fusar_klip.config import validate_settings
from fusar_klip.pretrain import PretrainSettings

NANO = {
    "image_size": 32,
    "patch_size": 8,
    "image_width": 32,
    "image_depth": 1,
    "image_heads": 2,
    "text_width": 32,
    "text_depth": 1,
    "text_heads": 2,
    "embed_dim": 16,
    "max_tokens": 64,
}

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
def _one_thread() -> Iterator[None]:
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


@pytest.fixture(scope="session")
def nano_settings() -> Callable[..., PretrainSettings]:
    """Settings of a model that learns in seconds; keywords replace top-level keys."""

    def make(**changes: object) -> PretrainSettings:
        values: dict[str, object] = {
            "model": "tiny",
            "architecture": NANO,
            "texts": {"vocab_size": 256},
            "contrast": {"queue": 50, "momentum": 0.9},
            "optimizer": {"lr": 2e-3, "warmup_steps": 5},
            "batch_size": 8,
            "epochs": 2,
            "log_every": 1,
            "validate_every": 4,
            "save_every": 3,
            "device": "cpu",
        }
        return validate_settings(PretrainSettings, values | changes)

    return make
