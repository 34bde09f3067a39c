"""Real SAR beside simulated, on one sheet: docs/images/simulate_contact_sheet.jpg.

Real crops stand beside simulated ones of like ground, all mapped alike (black at 0, white at three times the
crop's mean amplitude). Real data lies in FUSAR_KLIP_DATA, which is
../shared/data by default.

    python examples/contact_sheet.py docs/images/simulate_contact_sheet.jpg
"""

import os
import sys
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rasterio.warp import transform
from rasterio.windows import Window as RasterWindow

from fusar_klip.geo.platforms import PLATFORMS
from fusar_klip.simulate.noise import Window
from fusar_klip.simulate.scene import SimulatedScene
from fusar_klip.simulate.themes import Theme
from fusar_klip.simulate.truth import visible_targets

CROP_PX = 400
MARGIN_PX = 26
DATA = Path(os.environ.get("FUSAR_KLIP_DATA", Path(__file__).parents[2] / "shared" / "data"))
LOS_ANGELES = DATA / "geo/S1A_IW_GRDH_VH_20201107T135241_LosAngeles_port_LAX_nodata.tif"

Crop = NDArray[np.float64]


def sentinel(lon: float, lat: float) -> Crop:
    with rasterio.open(LOS_ANGELES) as scene:
        (x,), (y,) = transform("EPSG:4326", scene.crs, [lon], [lat])
        row, col = scene.index(x, y)
        half = CROP_PX // 2
        window = RasterWindow(col - half, row - half, CROP_PX, CROP_PX)
        crop: Crop = scene.read(1, window=window).astype(float)
    return crop


def chip(path: str, left: int, top: int) -> Crop:
    pixels = np.asarray(Image.open(DATA / path).convert("L"), dtype=float)
    return pixels[top : top + CROP_PX, left : left + CROP_PX]


def simulated(platform: str, theme: Theme, seed: int, target: int | None = None) -> Crop:
    """Crop a 2048 px scene around its centre, or around one of its targets."""
    scene = SimulatedScene(seed, 0, 2048, PLATFORMS[platform], theme)
    x, y = 1024.0, 1024.0
    if target is not None:
        x, y = visible_targets(scene)[target][1].centroid.coords[0]
    left, top = (int(np.clip(v - CROP_PX / 2, 0, 2048 - CROP_PX)) for v in (x, y))
    return scene.render(Window(top, left, CROP_PX, CROP_PX))[0].astype(float)


AIRCRAFT = "det_sar_aircraft/images/0004360.jpg"
SHIPS = "det_hrsid_ship/images"
ROWS = [
    [
        ("real: Sentinel-1, Port of Los Angeles, 10 m", lambda: sentinel(-118.25, 33.745)),
        ("simulated: Sentinel-1 harbour", lambda: simulated("Sentinel-1", "harbour", 11)),
        ("real: Sentinel-1, LAX, 10 m", lambda: sentinel(-118.408, 33.9425)),
        ("simulated: Sentinel-1 airport", lambda: simulated("Sentinel-1", "airport", 12)),
    ],
    [
        ("real: SAR-AIRcraft-1.0, Gaofen-3, 1 m", lambda: chip(AIRCRAFT, 0, 0)),
        ("simulated: Gaofen-3 airport", lambda: simulated("Gaofen-3", "airport", 1, 3)),
        ("real: SAR-AIRcraft-1.0, Gaofen-3, 1 m", lambda: chip(AIRCRAFT, 0, 400)),
        ("simulated: Gaofen-3 airport", lambda: simulated("Gaofen-3", "airport", 7, -1)),
    ],
    [
        ("real: HRSID harbour, 1 to 7 m", lambda: chip(f"{SHIPS}/P0094_0_800_3000_3800.png", 0, 0)),
        ("simulated: Hongtu-1 harbour", lambda: simulated("Hongtu-1", "harbour", 3)),
        ("real: HRSID ship, 1 to 7 m", lambda: chip(f"{SHIPS}/P0015_4200_5000_6000_6800.jpg", 200, 200)),
        ("simulated: Hongtu-1 coast", lambda: simulated("Hongtu-1", "coast", 21, 0)),
    ],
    [
        ("real: Sentinel-1, Los Angeles, 10 m", lambda: sentinel(-118.25, 34.03)),
        ("simulated: Sentinel-1 city", lambda: simulated("Sentinel-1", "city", 5)),
        ("simulated: Hongtu-1 city", lambda: simulated("Hongtu-1", "city", 9)),
        ("simulated: Qilu-1 berth", lambda: simulated("Qilu-1", "harbour", 3, 0)),
    ],
]


def eight_bit(crop: Crop) -> Image.Image:
    white = 3.0 * crop[crop > 0].mean()
    return Image.fromarray(np.clip(crop / white * 255, 0, 255).astype(np.uint8))


def main(out: Path) -> None:
    side = CROP_PX + 8
    sheet = Image.new("L", (side * 4, (CROP_PX + MARGIN_PX) * len(ROWS)), 255)
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(ROWS):
        for c, (title, make) in enumerate(row):
            left, top = c * side, r * (CROP_PX + MARGIN_PX)
            draw.text((left + 4, top + 6), title, fill=0)
            sheet.paste(eight_bit(make()), (left, top + MARGIN_PX))  # type: ignore[no-untyped-call]
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, quality=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
