"""A data set of striped tiles without texts: what a tower without words can learn, and nothing else."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
from PIL import Image
from shapely import box

from fusar_klip import catalog


def stripes(rng: np.random.Generator, side: int, kinds: int | None) -> np.ndarray:
    """Return (side, side) uint8, 1 to 255: waves of a random direction, length and phase, or kind."""
    angle, length, phase = rng.uniform(0, np.pi), rng.uniform(10, 24), rng.uniform(0, 2 * np.pi)
    if kinds:
        angle, length, phase = np.pi * rng.integers(kinds) / kinds, 20.0, 0.0
    y, x = np.mgrid[:side, :side]
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length + phase)
    return (120 + 100 * wave + rng.normal(0, 3, wave.shape)).clip(1, 255).astype(np.uint8)


def write_stripes(dataset: Path, count: int, *, side: int = 32, kinds: int | None = None) -> Path:
    """Write `count` tiles, every sixth for validation; tile 0 has no data in its upper half."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        pixels = stripes(rng, side, kinds)
        if number == 0:
            pixels[: side // 2] = 0
        path = dataset / "tiles" / "scene" / f"tile{number:04d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        row: dict[str, object] = dict.fromkeys(catalog.TILE_SCHEMA.names)
        rows.append(
            row
            | {
                "tile_id": path.stem,
                "scene_id": "scene",
                "ground_id": path.stem,
                "scale": "small",
                "path": str(path.relative_to(dataset)),
                "width": side,
                "height": side,
                "gsd_m": 10.0,
                "split": "val" if number % 6 == 5 else "train",
                "valid_fraction": 1.0,
                "kept": True,
            }
        )
    frame = gpd.GeoDataFrame(pd.DataFrame(rows), geometry=[box(0, 0, 1, 1)] * count, crs="EPSG:4326")
    catalog.write_tiles(dataset, frame)
    catalog.write_manifest(dataset, {"tiles": count})
    return dataset
