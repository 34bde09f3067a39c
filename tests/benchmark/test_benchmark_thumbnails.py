"""Pictures for reports and language models, of images of any depth."""

import io
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from fusar_klip.benchmark.report.thumbnails import decode, thumbnail
from fusar_klip.benchmark.tasks.llm_vqa import encode_image
from fusar_klip.image_io import read_image


def test_pictures_of_any_depth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    amplitude = rng.rayleigh(300, (30, 20))
    tifffile.imwrite(tmp_path / "uint16.tif", amplitude.astype(np.uint16))
    tifffile.imwrite(tmp_path / "db.tif", np.stack([20 * np.log10(amplitude / 1e4)] * 2).astype(np.float32))
    tifffile.imwrite(tmp_path / "complex.tif", (amplitude * 1j).astype(np.complex64))
    Image.fromarray(amplitude.astype(np.uint16)).save(tmp_path / "uint16.png")
    grey = read_image(tmp_path / "uint16.tif")
    # Rayleigh amplitudes: a third of 255 on average, a little less for what is cut off.
    assert 75 < grey.mean() < 87
    # Pictures for reports and language models are mapped alike: converted as they are they would be white.
    for file in ("uint16.tif", "db.tif", "complex.tif", "uint16.png"):
        shown = np.asarray(decode(thumbnail(tmp_path / file)))
        assert np.abs(shown.astype(int) - grey.astype(int)).max() <= 1
        asked = Image.open(io.BytesIO(encode_image(tmp_path / file, 512).png))
        assert np.array_equal(np.asarray(asked), shown)
