"""Reading image files of any bit depth as 8-bit single-channel arrays."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from fusar_klip.errors import DatasetError
from fusar_klip.image_io import image_size, read_image, to_single_channel

LEVELS = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def write(path: Path, values: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, values, **{"photometric": "minisblack", **options})  # type: ignore[arg-type]
    return path


def test_8_bit_images_are_unchanged(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(LEVELS).save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name), LEVELS)
    for mode in ("RGB", "RGBA", "P"):
        Image.fromarray(LEVELS).convert(mode).save(tmp_path / f"{mode}.png")
        assert np.array_equal(read_image(tmp_path / f"{mode}.png"), LEVELS)


@given(arrays(np.uint16, (4, 5), elements=st.integers(0, 60_000)), st.integers(1, 50))
def test_deep_images_are_invariant_to_calibration(values: np.ndarray, scale: int) -> None:
    """Sensors differ in calibration; the same ground gets the same brightness from all of them."""
    one, other = (
        to_single_channel(Image.fromarray(values.astype(np.float32) * factor)) for factor in (1, scale)
    )
    assert one.dtype == np.uint8
    assert np.abs(one.astype(int) - other).max() <= 1
    assert np.array_equal(one > 0, values > 0)
    if values.any():
        # Three times the mean of the valid pixels, and more, is white.
        assert (one[values >= 3.01 * values[values > 0].mean()] == 255).all()


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "float32", "float64", "complex64"])
def test_every_kind_of_tiff_is_read(
    tmp_path: Path, kind: str, byteorder: str, compression: str | None
) -> None:
    amplitude = np.random.default_rng(0).rayleigh(100, (64, 48)).round()
    options = {"byteorder": byteorder, "compression": compression, "tile": (32, 32)}
    if compression and kind in ("float32", "uint16"):
        options["predictor"] = 3 if kind == "float32" else 2
    image = read_image(write(tmp_path / "a.tif", amplitude.astype(kind), **options))
    expected = 1 + np.rint(254 * np.minimum(amplitude / (3 * amplitude.mean()), 1))
    assert np.abs(image - expected).max() <= 1


def test_the_first_band_is_read_in_every_axis_order(tmp_path: Path) -> None:
    # Two polarisations, first or last; and more pages than an image is wide.
    deep = np.arange(1, 13, dtype=np.uint16).reshape(3, 4)
    expected = read_image(write(tmp_path / "one.tif", deep))
    for name, values, options in (
        ("first.tif", np.stack([deep, deep[::-1]]), {}),
        ("last.tif", np.stack([deep, deep[::-1]], -1), {"planarconfig": "contig"}),
        ("pages.tif", np.stack([deep, *[deep[::-1]] * 8]), {}),
    ):
        file = write(tmp_path / name, values, **options)
        assert np.array_equal(read_image(file), expected)
        assert image_size(file) == (3, 4)


@pytest.mark.parametrize(
    ("kind", "decibels", "mark"),
    [
        *[("float32", False, mark) for mark in (np.nan, np.inf, -9999, -32768, 0)],
        *[("float32", True, mark) for mark in (np.nan, -np.inf, -9999, -32768)],
        *[("int16", False, mark) for mark in (-9999, -32768, -1, 0)],
    ],
)
def test_no_data_is_black_and_not_in_the_mean(tmp_path: Path, kind: str, decibels: bool, mark: float) -> None:
    amplitude = np.random.default_rng(0).rayleigh(100, (30, 10)).round() + 1
    whole = 20 * np.log10(amplitude / 1e4) if decibels else amplitude
    expected = read_image(write(tmp_path / "whole.tif", whole.astype(kind)))
    padded = np.full((80, 10), float(mark))
    padded[:30] = whole
    image = read_image(write(tmp_path / "a.tif", padded.astype(kind)))
    assert not image[30:].any()
    assert np.abs(image[:30].astype(int) - expected).max() <= 1
    assert image[:30].all()


def test_an_image_without_data_is_black(tmp_path: Path) -> None:
    assert not read_image(write(tmp_path / "a.tif", np.full((2, 2), np.nan, np.float32))).any()


def test_bad_files_give_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no tiff")
    (tmp_path / "text.png").write_text("no image")
    for name, message in (
        ("broken.tif", r"not a readable image.*: replace or remove it"),
        ("text.png", r"not a readable image: replace or remove it"),
        ("missing.tif", r"no image at .*: give the path"),
        ("missing.png", r"no image at .*: give the path"),
    ):
        for read in (read_image, image_size):
            with pytest.raises(DatasetError, match=message) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
