"""Pictures for requests: what the tile shows, at the wanted size, the same bytes each time."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fusar_klip.errors import DatasetError
from fusar_klip.texts.tile_images import bar_length_m, tile_png

MakeDataset = Callable[..., Path]


def opened(png: bytes) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "L")
    return np.asarray(image)


@pytest.fixture
def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(1, 256, (200, 200)).astype(np.uint8)


@pytest.fixture
def path(make_dataset: MakeDataset, noise: NDArray[np.uint8]) -> Path:
    return make_dataset({"t": (noise, "large", None, 0, 0)}) / "tiles" / "t.tif"


def test_at_its_own_size_a_tile_is_untouched(path: Path, noise: NDArray[np.uint8]) -> None:
    assert (opened(tile_png(path, 200, False, 3.0)) == noise).all()


def test_smaller_is_the_mean_of_areas(path: Path, noise: NDArray[np.uint8]) -> None:
    small = opened(tile_png(path, 100, False, 3.0)).astype(float)
    means = noise.reshape(100, 2, 100, 2).mean(axis=(1, 3))
    assert abs(small - means).max() <= 1


def test_larger_repeats_pixels(path: Path, noise: NDArray[np.uint8]) -> None:
    assert (opened(tile_png(path, 400, False, 3.0)) == noise.repeat(2, 0).repeat(2, 1)).all()


def test_no_data_stays_black(make_dataset: MakeDataset, noise: NDArray[np.uint8]) -> None:
    noise[:, 100:] = 0
    path = make_dataset({"t": (noise, "large", None, 0, 0)}) / "tiles" / "t.tif"
    assert (opened(tile_png(path, 100, False, 3.0))[:, 50:] == 0).all()


def test_the_same_tile_gives_the_same_bytes(path: Path) -> None:
    assert tile_png(path, 128, True, 3.0) == tile_png(path, 128, True, 3.0)


def test_a_long_tile_keeps_its_shape(make_dataset: MakeDataset, noise: NDArray[np.uint8]) -> None:
    path = make_dataset({"t": (noise[:50], "large", None, 0, 0)}) / "tiles" / "t.tif"
    assert opened(tile_png(path, 100, False, 3.0)).shape == (25, 100)


@pytest.mark.parametrize("side_px", [100, 200, 512])
def test_the_scale_bar_has_the_length_that_it_says(path: Path, side_px: int) -> None:
    plain, marked = (opened(tile_png(path, side_px, bar, 3.0)) for bar in (False, True))
    assert (marked[:side_px] == plain).all()  # no pixel of the tile is covered
    strip = marked[side_px:]
    middle = strip[len(strip) // 2]
    bar_px = int(np.argmin(middle[np.argmax(middle == 255) :] == 255))
    assert bar_px * 600 / side_px == pytest.approx(bar_length_m(600), abs=600 / side_px)
    assert (strip[:, bar_px + 10 :] > 0).any()  # the label


def test_without_a_spacing_there_is_no_bar(path: Path) -> None:
    assert tile_png(path, 128, True, None) == tile_png(path, 128, False, None)


@pytest.mark.parametrize(
    ("width_m", "bar_m"), [(256, 50), (512, 100), (1024, 200), (8200, 2000), (40_000, 10_000)]
)
def test_the_bar_is_a_round_length(width_m: float, bar_m: float) -> None:
    assert bar_length_m(width_m) == bar_m


def test_a_tile_that_cannot_be_read_says_how_to_fix_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="build its data set again"):
        tile_png(tmp_path / "none.tif", 128, False, None)
