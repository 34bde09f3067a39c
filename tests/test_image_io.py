"""Image files of any depth as 8-bit grey."""

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

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def write(path: Path, values: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, values, **{"photometric": "minisblack", **options})  # type: ignore[arg-type]
    return path


def test_eight_bits_pass_as_they_are(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(GREY).save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name), GREY)
    for mode in ("RGB", "RGBA", "P"):
        Image.fromarray(GREY).convert(mode).save(tmp_path / f"{mode}.png")
        assert np.array_equal(read_image(tmp_path / f"{mode}.png"), GREY)


@given(arrays(np.uint16, (4, 5), elements=st.integers(0, 60_000)), st.integers(1, 50))
def test_a_scale_does_not_matter_to_deep_pictures(values: np.ndarray, scale: int) -> None:
    """Sensors differ in their calibration; the same ground is as bright in all of them."""
    one, other = (
        to_single_channel(Image.fromarray(values.astype(np.float32) * factor)) for factor in (1, scale)
    )
    assert one.dtype == np.uint8
    assert np.abs(one.astype(int) - other).max() <= 1
    assert np.array_equal(one > 0, values > 0)
    if values.any():
        # What is three times as bright as the mean of what is there, and more, is white.
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
    grey = read_image(write(tmp_path / "a.tif", amplitude.astype(kind), **options))
    expected = 1 + np.rint(254 * np.minimum(amplitude / (3 * amplitude.mean()), 1))
    assert np.abs(grey - expected).max() <= 1


def test_the_first_band_is_read_wherever_it_stands(tmp_path: Path) -> None:
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
def test_what_is_no_data_is_black_and_does_not_count(
    tmp_path: Path, kind: str, decibels: bool, mark: float
) -> None:
    amplitude = np.random.default_rng(0).rayleigh(100, (30, 10)).round() + 1
    whole = 20 * np.log10(amplitude / 1e4) if decibels else amplitude
    expected = read_image(write(tmp_path / "whole.tif", whole.astype(kind)))
    padded = np.full((80, 10), float(mark))
    padded[:30] = whole
    grey = read_image(write(tmp_path / "a.tif", padded.astype(kind)))
    assert not grey[30:].any()
    assert np.abs(grey[:30].astype(int) - expected).max() <= 1
    assert grey[:30].all()


def test_an_image_without_data_is_black(tmp_path: Path) -> None:
    assert not read_image(write(tmp_path / "a.tif", np.full((2, 2), np.nan, np.float32))).any()


def test_bad_files_are_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no tiff")
    (tmp_path / "text.png").write_text("no image")
    for name, said in (
        ("broken.tif", r"no image that can be read.*: replace or remove it"),
        ("text.png", r"no image that can be read: replace or remove it"),
        ("missing.tif", r"no image at .*: give the path"),
        ("missing.png", r"no image at .*: give the path"),
    ):
        for read in (read_image, image_size):
            with pytest.raises(DatasetError, match=said) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
