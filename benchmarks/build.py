"""Time of `build` against the plain way of cutting the same tiles, side by side in one run.

The plain way reads, maps and writes each tile of each scale by itself, one after the other: what a script
of rasterio windows does. `build` reads each pixel once for all three scales, in threads. Both write the
same tiles.

    python benchmarks/build.py [--size 4096] [--workers 2] [--out benchmarks/build.json]
"""

import argparse
import tempfile
import time
from pathlib import Path

import rasterio
from affine import Affine
from rasterio.windows import Window

from fusar_klip.catalog import read_tiles
from fusar_klip.files import write_json
from fusar_klip.simulate import simulate
from fusar_klip.tiles import build
from fusar_klip.tiles.radiometry import amplitude_statistics, fit_mapping
from fusar_klip.tiles.settings import MappingSettings


def plain(scene: Path, dataset: Path, out: Path) -> None:
    """Cut the tiles that `dataset` lists, each from its own window of the scene."""
    with rasterio.open(scene) as raster:
        windows = (raster.read(1, window=window) for _, window in raster.block_windows(1))
        mapping = fit_mapping(amplitude_statistics(w.astype("float32") for w in windows), MappingSettings())
        for tile in read_tiles(dataset).to_dict("records"):
            transform = Affine(*tile["transform"])
            col, row = (round(x) for x in ~raster.transform @ (transform.c, transform.f))
            window = Window(col, row, tile["width"], tile["height"])
            pixels = raster.read(1, window=window, boundless=True, fill_value=0)
            profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "crs": raster.crs}
            profile |= {"width": tile["width"], "height": tile["height"], "transform": transform}
            profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
            path = out / Path(tile["path"]).name
            with rasterio.open(path, "w", **profile) as written:
                written.write(mapping.apply(pixels.astype("float32")), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="side of the simulated scene in pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/build.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scenes, dataset, tiles = (Path(folder) / name for name in ("scenes", "dataset", "tiles"))
        simulate(scenes, scenes=1, size=options.size, platforms=["Gaofen-3"])
        (scene,) = scenes.glob("*.tif")
        tiles.mkdir()
        started = time.perf_counter()
        count = build([scene], dataset, workers=options.workers).tiles
        ours = time.perf_counter() - started
        started = time.perf_counter()
        plain(scene, dataset, tiles)
        theirs = time.perf_counter() - started
    print(f"| {options.size} px, {count} tiles | seconds | ratio |\n|---|---|---|")
    print(f"| plain | {theirs:.1f} | 1 |")
    print(f"| build, {options.workers} workers | {ours:.1f} | {theirs / ours:.2f} |")
    seconds = {"build_s": ours, "plain_s": theirs, "ratio": theirs / ours}
    write_json(options.out, {"size": options.size, "tiles": count, **seconds})


if __name__ == "__main__":
    main()
