"""A small data set of self-made tiles."""

from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry import box
from texts_synthetic import GSD_M

from fusar_klip.catalog import TILE_SCHEMA, write_manifest, write_tiles
from fusar_klip.texts import DescribeSettings
from misbehaving_server import KEY, Server
from tiny_llava import save_tiny_llava


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write tiles {tile_id: (pixels, scale, parent_id, row, col)} as a data set at Los Angeles."""

    def make(
        tiles: dict[str, tuple[NDArray[np.uint8], str, str | None, int, int]],
        *,
        gsd_m: float | None = GSD_M,
        lonlat: tuple[float, float] | None = (-118.25, 33.745),
        kept: bool = True,
    ) -> Path:
        dataset = tmp_path / "dataset"
        (dataset / "tiles").mkdir(parents=True)
        rows = []
        for tile_id, (pixels, scale, parent_id, row, col) in tiles.items():
            spacing = gsd_m or 1.0
            transform = Affine(spacing, 0, 380_000 + col * spacing, 0, -spacing, 3_735_000 - row * spacing)
            height, width = pixels.shape
            profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": height, "width": width}
            with rasterio.open(
                dataset / f"tiles/{tile_id}.tif", "w", crs="EPSG:32611", transform=transform, **profile
            ) as file:
                file.write(pixels, 1)
            known = dict.fromkeys(TILE_SCHEMA.names)
            known |= {
                "tile_id": tile_id,
                "scene_id": "scene",
                "ground_id": "ground",
                "scale": scale,
                "parent_id": parent_id,
                "path": f"tiles/{tile_id}.tif",
                "gsd_m": gsd_m,
                "width": width,
                "height": height,
                "crs": "EPSG:32611",
                "transform": list(transform)[:6],
                "lon": lonlat[0] if lonlat else None,
                "lat": lonlat[1] if lonlat else None,
                "place": "San Pedro" if lonlat else None,
                "country": "United States" if lonlat else None,
                "split": "train",
                "valid_fraction": float((pixels > 0).mean()),
                "kept": kept,
            }
            rows.append(known | {"geometry": box(-118.26, 33.74, -118.24, 33.75)})
        write_tiles(dataset, gpd.GeoDataFrame(rows, crs="EPSG:4326"))
        write_manifest(dataset, {"version": 1})
        return dataset

    return make


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server().running() as server:
        yield server


@pytest.fixture
def settings(server: Server) -> Callable[..., DescribeSettings]:
    """Make settings that ask `server`, without waits worth mentioning."""

    def make(**changes: object) -> DescribeSettings:
        known = {
            "provider": "openai",
            "model": "gpt-4.1",
            "base_url": server.url,
            "workers": 1,
            "concurrency": 4,
            "retry_wait_s": 0.01,
            "patience_s": 30.0,
            "batch_poll_s": 0.01,
        }
        return DescribeSettings.model_validate(known | changes)

    return make


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return save_tiny_llava(tmp_path_factory.mktemp("tiny-llava"))
