"""Fixtures of all tests: no network, no hub, and the folder of the real data."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

# Before anything imports transformers or huggingface_hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family == socket.AF_UNIX or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1")
        ):
            return connect(self, address)
        raise OSError(f"a test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real SAR data; skips the test where it is missing."""
    folder = Path(os.environ.get("FUSAR_KLIP_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "geo").is_dir():
        pytest.skip(f"no real data at {folder}: set FUSAR_KLIP_DATA")
    return folder


@pytest.fixture
def write_scene(tmp_path: Path) -> Callable[..., Path]:
    """Write pixels (H, W) or (bands, H, W) as a GeoTIFF in UTM zone 11N at Los Angeles; return its path."""

    def write(
        pixels: NDArray[np.generic],
        name: str = "scene.tif",
        *,
        gsd_m: float = 10.0,
        crs: str | None = "EPSG:32611",
        transform: Affine | None = None,
        **profile: object,
    ) -> Path:
        bands = pixels if pixels.ndim == 3 else pixels[np.newaxis]
        descriptions = profile.pop("descriptions", None)
        tags = profile.pop("tags", {})
        transform = transform or Affine(gsd_m, 0, 380_000, 0, -gsd_m, 3_735_000)
        path = tmp_path / name
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=bands.shape[0],
            height=bands.shape[1],
            width=bands.shape[2],
            dtype=bands.dtype,
            crs=crs,
            transform=transform,
            **profile,
        ) as raster:
            raster.write(bands)
            raster.update_tags(**tags)
            if descriptions:
                raster.descriptions = descriptions
        return path

    return write


@pytest.fixture
def speckle() -> Callable[..., NDArray[np.uint16]]:
    """Return (H, W) uint16 amplitude of one look, mean about `mean`; never 0."""

    def make(height: int, width: int, mean: float = 300.0, seed: int = 0) -> NDArray[np.uint16]:
        generator = np.random.default_rng(seed)
        amplitude = generator.rayleigh(mean / np.sqrt(np.pi / 2), (height, width))
        return np.clip(np.rint(amplitude), 1, 65_535).astype(np.uint16)

    return make
