"""A data set of uniform tiles, and a model that embeds their brightness, as an image or as a text."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from shapely import box
from shapely.geometry.base import BaseGeometry

from fusar_klip import catalog, models
from fusar_klip.models import Preprocess

SIZE = 16


class BrightnessModel:
    """Embeds an image by its mean brightness, and "brightness B" as an image of that brightness."""

    preprocess = Preprocess(SIZE)

    def embed_image(self, images: Sequence[Path | NDArray[np.uint8]]) -> NDArray[np.float32]:
        means = [float(self.preprocess.resize(image).mean()) for image in images]
        return self._embed(np.array(means))

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._embed(np.array([float(text.split()[-1]) for text in texts]))

    def _embed(self, brightness: NDArray[np.float64]) -> NDArray[np.float32]:
        angle = brightness / 255 * np.pi / 2
        return np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1).astype(np.float32)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose model is a `BrightnessModel`."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("model.safetensors", "preprocess.json", "tokenizer.json"):
        (folder / name).write_text(name)
    monkeypatch.setattr(models, "load", lambda checkpoint: BrightnessModel())
    return folder


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set: one tile per brightness, with the footprint of the same index."""

    def make(
        brightness: Sequence[int],
        footprints: Sequence[BaseGeometry | None] | None = None,
        *,
        dropped: Sequence[int] = (),
        described: bool = True,
        name: str = "dataset",
    ) -> Path:
        dataset = tmp_path / name
        if footprints is None:
            footprints = [box(i, 10, i + 0.5, 10.5) for i in range(len(brightness))]
        rows = []
        for number, (value, footprint) in enumerate(zip(brightness, footprints, strict=True)):
            path = dataset / "tiles" / "scene" / f"t{number:03d}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32), value, np.uint8)).save(path)
            row = dict.fromkeys(catalog.TILE_SCHEMA.names)
            centre = None if footprint is None else footprint.centroid
            row |= {
                "tile_id": f"t{number:03d}",
                "scene_id": "scene",
                "ground_id": "ground",
                "scale": "small",
                "path": str(path.relative_to(dataset)),
                "gsd_m": 10.0,
                "width": 32,
                "height": 32,
                "lon": None if centre is None else centre.x,
                "lat": None if centre is None else centre.y,
                "acquired": pd.Timestamp("2020-11-07T13:51:00Z"),
                "split": "train",
                "valid_fraction": 1.0,
                "kept": number not in dropped,
            }
            rows.append(row)
        tiles = pd.DataFrame(rows, columns=catalog.TILE_SCHEMA.names)
        catalog.write_tiles(dataset, gpd.GeoDataFrame(tiles, geometry=list(footprints), crs="EPSG:4326"))
        digest = hashlib.sha256((dataset / "tiles.parquet").read_bytes()).hexdigest()
        catalog.write_manifest(dataset, {"version": 1, "tiles": digest})
        if described:
            _describe(dataset, [row["tile_id"] for row in rows])
        return dataset

    return make


def _describe(dataset: Path, tile_ids: Sequence[str]) -> None:
    rows = [
        dict.fromkeys(catalog.TEXT_SCHEMA.names)
        | {
            "tile_id": tile_id,
            "task": "terrain",
            "field": field,
            "text": f"the {field.lower()} of {tile_id}",
            "source": "test",
            "prompt_version": "1",
            "verdict": "original",
        }
        for tile_id in tile_ids
        for field in catalog.TERRAIN_FIELDS
    ]
    catalog.write_texts(dataset, "v000", pd.DataFrame(rows), parent=None, maker={"verb": "test"})
