"""Whole products read to amplitude on a map grid: what `products` finds goes through the reader."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiles_products_synthetic as synthetic
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene.scene import Scene, open_scenes
from fusar_klip.tiles.settings import SceneSettings


def whole(scene: Scene) -> NDArray[np.generic]:
    with scene.reader() as reader:
        return reader.read(0, 0, scene.height, scene.width)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_safe_product_gives_a_scene_for_each_polarization(tmp_path: Path, zipped: bool) -> None:
    safe = synthetic.write_safe(tmp_path)
    path = synthetic.zip_folder(safe, tmp_path / "product.zip") if zipped else safe
    scenes = open_scenes(path, SceneSettings())
    assert [scene.facts.polarization for scene in scenes] == ["VH", "VV"]
    assert len({scene.scene_id for scene in scenes}) == 2
    for scene in scenes:
        assert (scene.facts.platform, scene.dtype, scene.kind) == ("Sentinel-1", "uint16", "amplitude")
        assert scene.geocoding is not None
        assert scene.geocoding.method == "gcps"
        assert (whole(scene) > 0).mean() > 0.4
    (vv,) = open_scenes(path, SceneSettings(polarization="VV", calibration="sigma0"))
    plain = whole(scenes[1])
    calibrated = whole(vv)
    valid = plain > 0
    assert ((calibrated > 0) == valid).all()
    ratio = plain[valid] / calibrated[valid]  # A_sigma of the made table
    assert 299 < ratio.min() < ratio.max() < 371


def test_level_1a_is_placed_by_its_rpcs_and_refused_without(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        folder = synthetic.write_level1a(tmp_path)
    scenes = open_scenes(folder, SceneSettings())
    assert {scene.kind for scene in scenes} == {"complex"}
    for scene in scenes:
        assert scene.geocoding is not None
        assert scene.geocoding.method == "rpcs"
        assert scene.geocoding.terrain_corrected is False
        assert (whole(scene) > 0).mean() > 0.5
    for rpc in folder.glob("*.rp[bc]"):
        rpc.unlink()
    with pytest.raises(SceneError, match=r"its \.rpc file, or cut it by pixels with --set scene\.gsd_m="):
        open_scenes(folder, SceneSettings())


@pytest.mark.parametrize("pixel_type", ["RE32F_IM32F", "RE16I_IM16I", "AMP8I_PHS8I"])
def test_sicd_pixels_become_amplitude(tmp_path: Path, pixel_type: str) -> None:
    sicd = pytest.importorskip("sarkit.sicd", reason='needs the extra "sicd"')
    pixels: NDArray[Any] = np.zeros(
        (synthetic.HEIGHT, synthetic.WIDTH), sicd.PIXEL_TYPES[pixel_type]["dtype"]
    )
    if pixels.dtype.names is None:
        pixels[:] = 30 - 40j
    else:
        for name, value in zip(pixels.dtype.names, (30, 40), strict=True):
            pixels[name] = value
    path = synthetic.write_sicd(tmp_path / "a.nitf", pixels, pixel_type, synthetic.sicd_xml(pixel_type))
    (scene,) = open_scenes(path, SceneSettings())
    assert scene.geocoding is not None
    assert scene.geocoding.method == "gcps"
    picture = whole(scene)
    assert picture.dtype == scene.dtype == "float32"
    assert set(np.unique(picture)) == {0.0, 30.0 if pixel_type == "AMP8I_PHS8I" else 50.0}
    assert scene.gsd_m == pytest.approx(np.sqrt(0.5 * 0.7), rel=0.5)  # slant-plane spacing, on the ground
