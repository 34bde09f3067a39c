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
from fusar_klip.pixels import image_size, read_grey, to_grey

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def test_eight_bits_pass_as_they_are(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(GREY).save(tmp_path / name)
        assert np.array_equal(read_grey(tmp_path / name), GREY)
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "colour.png")
    assert np.array_equal(read_grey(tmp_path / "colour.png"), GREY)
    # Two polarisations, which Pillow does not open.
    tifffile.imwrite(tmp_path / "bands.tif", np.stack([GREY, 255 - GREY]), photometric="minisblack")
    assert np.array_equal(read_grey(tmp_path / "bands.tif", band=1), 255 - GREY)


@given(arrays(np.uint16, (4, 5), elements=st.integers(0, 60_000)), st.integers(1, 50))
def test_a_scale_does_not_matter_to_deep_pictures(values: np.ndarray, scale: int) -> None:
    """Sensors differ in their calibration; the same ground is as bright in all of them."""
    one, other = (to_grey(Image.fromarray(values.astype(np.float32) * factor)) for factor in (1, scale))
    assert one.dtype == np.uint8
    assert np.abs(one.astype(int) - other).max() <= 1
    # What is three times as bright as the mean, and more, is white.
    assert (one[(values > 0) & (values >= 3.01 * values.mean())] == 255).all()


def test_what_is_not_finite_is_black(tmp_path: Path) -> None:
    values = np.array([[1, np.nan], [np.inf, 3]], np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values)
    grey = read_grey(tmp_path / "a.tif")
    assert grey.tolist() == [[round(255 / 6), 0], [0, round(255 * 3 / 6)]]
    tifffile.imwrite(tmp_path / "none.tif", np.full((2, 2), np.nan, np.float32))
    assert not read_grey(tmp_path / "none.tif").any()


def test_bad_files_are_told_in_one_sentence(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((2, 3, 4, 5), np.float32), photometric="minisblack")
    tifffile.imwrite(tmp_path / "two.tif", np.zeros((2, 8, 8), np.float32))
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no tiff")
    for name, band, said in (
        ("deep.tif", 0, r"4 dimensions: take one picture of it"),
        ("two.tif", 2, r"2 bands: band 2 is not among them"),
        ("broken.tif", 0, r"no image that can be read.*: replace or remove it"),
        ("missing.tif", 0, r"no image at .*: give the path"),
        ("missing.png", 0, r"no image at .*: give the path"),
    ):
        with pytest.raises(DatasetError, match=said) as caught:
            read_grey(tmp_path / name, band)
        assert "\n" not in str(caught.value)
    assert image_size(tmp_path / "two.tif") == (8, 8)
    with pytest.raises(DatasetError, match="no image at"):
        image_size(tmp_path / "missing.tif")
