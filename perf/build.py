"""Speed and memory of `fusar-klip build`, compared in one run with a lower bound and a plain implementation.

- Lower bound (`floor`): GDAL's copy of the same pixels to uint8 (read, scale, write; tiled, DEFLATE, the same
  options), one row of blocks at a time. It writes each pixel once. A build writes each pixel three times,
  once per scale, and maps it by statistics that it has measured before. So the two are compared by CPU time
  per written pixel.
- Plain implementation (`plain`): one tile after the other, each read from its own window of the scene, mapped
  with numpy, written with rasterio, its features from scikit-image and scipy. The script checks that its
  tiles and features equal those of the build.

Every implementation runs in its own process, so that CPU time and peak memory are its own; both include child
processes. The compared build does not screen regions, since the plain implementation has no screening. The
stages are those of a second build, which screens.

    python perf/build.py [--size 20000] [--small 5000] [--workers 2] [--out perf/build.json]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

FLOOR_BLOCK_PX = 512
GEOTIFF = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}


def floor(scene: Path, out: Path, _workers: int) -> dict[str, Any]:
    """Copy the scene to uint8, as gdal_translate -ot Byte -scale does it."""
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    with rasterio.Env(GDAL_CACHEMAX=128 << 20), rasterio.open(scene) as source:
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "crs": source.crs}
        profile |= {"width": source.width, "height": source.height, "transform": source.transform, **GEOTIFF}
        with rasterio.open(out / "floor.tif", "w", **profile) as written:
            for row in range(0, source.height, FLOOR_BLOCK_PX):
                window = Window(0, row, source.width, min(FLOOR_BLOCK_PX, source.height - row))
                pixels = source.read(1, window=window)
                scaled = np.multiply(pixels, np.float32(0.3), dtype=np.float32)
                written.write(np.minimum(scaled, 255, out=scaled).astype(np.uint8), 1, window=window)
        return {"pixels": source.width * source.height}


def build(scene: Path, out: Path, workers: int, mode: str = "off") -> dict[str, Any]:
    """Build the data set."""
    from fusar_klip.tiles import BuildSettings
    from fusar_klip.tiles import build as run

    settings = BuildSettings.model_validate({"screening": {"mode": mode}})
    summary = run([scene], out, settings, workers=workers)
    return {"pixels": _written_pixels(out), **asdict(summary)}


def screened(scene: Path, out: Path, workers: int) -> dict[str, Any]:
    """Build the data set with regions screened."""
    return build(scene, out, workers, "mark")


def plain(scene: Path, out: Path, _workers: int) -> dict[str, Any]:
    """Cut the tiles that the data set beside `out` lists, one after the other, and measure their features."""
    import numpy as np
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    from fusar_klip.catalog import FEATURES, read_tiles

    dataset = out.with_name("build")
    tiles = read_tiles(dataset)
    with rasterio.open(scene) as raster:
        total = count = 0
        for _, window in raster.block_windows(1):
            values = raster.read(1, window=window)
            total, count = total + int(values.sum(dtype=np.int64)), count + int((values > 0).sum())
        threshold = np.float32(3.0 * total / count)
        worst = dict.fromkeys(FEATURES, 0.0)
        for tile in tiles.to_dict("records"):
            transform = Affine(*tile["transform"])
            col, row = (round(x) for x in ~raster.transform @ (transform.c, transform.f))
            window = Window(col, row, tile["width"], tile["height"])
            pixels = raster.read(1, window=window, boundless=True, fill_value=0)
            levels = 1 + np.rint(254 * np.clip(pixels / threshold, 0, 1))
            levels = np.where(pixels > 0, levels, 0).astype(np.uint8)
            profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "crs": raster.crs}
            profile |= {"width": tile["width"], "height": tile["height"], "transform": transform, **GEOTIFF}
            with rasterio.open(out / Path(tile["path"]).name, "w", **profile) as written:
                written.write(levels, 1)
            for name, value in _plain_features(levels).items():
                worst[name] = max(worst[name], abs(value - tile[name]) / max(1.0, abs(value)))
    return {"tiles": len(tiles), "worst_feature": max(worst.values()), "by_feature": worst}


def _plain_features(levels: Any) -> dict[str, float]:
    """Compute the features with numpy and scipy, and with scikit-image for the GLCM."""
    import numpy as np
    from scipy import stats
    from skimage.feature import graycomatrix, graycoprops

    valid = levels[levels > 0].astype(np.float64)
    share = np.bincount(levels[levels > 0], minlength=256) / valid.size
    low, high = np.percentile(valid, [1, 99], method="inverted_cdf")
    found = {
        "mean": valid.mean(),
        "std": valid.std(),
        "cv": valid.std() / valid.mean(),
        "skewness": stats.skew(valid),
        "kurtosis": stats.kurtosis(valid),
        "entropy": stats.entropy(share, base=2),
        "dynamic_range": high - low,
        "enl": (valid**2).mean() ** 2 / (valid**2).var(),
        "nodata_fraction": 1 - valid.size / levels.size,
    }
    found["edge_density"], found["striping"] = _edge_density(levels), _striping(levels)
    # No data gets its own level, which is cut off.
    binned = np.where(levels > 0, (levels.astype(int) - 1) * 32 // 255, 32).astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    pairs = graycomatrix(binned, [1, 2, 4], angles, levels=33, symmetric=True)[:32, :32].astype(np.float64)
    pairs /= pairs.sum(axis=(0, 1))
    for name in ("contrast", "dissimilarity", "homogeneity", "energy", "correlation"):
        found[f"glcm_{name}"] = graycoprops(pairs, name).mean()
    found["glcm_entropy"] = stats.entropy(pairs.reshape(32 * 32, -1), base=2).mean()
    return {name: float(value) for name, value in found.items()}


def _edge_density(levels: Any) -> float:
    """Return the share of pairs of neighbouring cells of 8 x 8 px whose means differ by 1.5 or more."""
    import numpy as np
    from skimage.measure import block_reduce

    whole = levels[: levels.shape[0] // 8 * 8, : levels.shape[1] // 8 * 8]
    total, count = block_reduce(whole, 8, np.sum), block_reduce(whole > 0, 8, np.sum)
    with np.errstate(invalid="ignore"):
        means = np.where(count >= 32, total / count, np.nan)
    ratios = [
        np.maximum(a, b) / np.minimum(a, b)
        for a, b in ((means[1:], means[:-1]), (means[:, 1:], means[:, :-1]))
    ]
    steps = np.concatenate([ratio[np.isfinite(ratio)] for ratio in ratios])
    return float((steps >= 1.5).mean())


def _striping(levels: Any) -> float:
    """Return the share of the differences between lines that is constant along the lines."""
    import numpy as np

    shares = []
    for turned in (levels.astype(np.float64), levels.T.astype(np.float64)):
        both = (turned[1:] > 0) & (turned[:-1] > 0)
        difference = np.where(both, np.diff(turned, axis=0), 0)
        counted = both.sum(axis=1) >= len(turned) / 2
        count, common = both.sum(axis=1)[counted], difference.sum(axis=1)[counted]
        energy = (difference[counted] ** 2).sum()
        if counted.any():
            shares.append((common**2 / count).sum() / energy if energy else 0.0)
    return max(shares)


def _written_pixels(dataset: Path) -> int:
    from fusar_klip.catalog import read_tiles

    tiles = read_tiles(dataset, ["width", "height"])
    return int((tiles["width"].astype("int64") * tiles["height"]).sum())


WAYS: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    "floor": floor,
    "build": build,
    "screened": screened,
    "plain": plain,
}


def measured(way: str, scene: Path, out: Path, workers: int) -> dict[str, Any]:
    """Run one implementation in its own process; return its results, its times and its peak memory."""
    out.mkdir(parents=True)
    command = [sys.executable, __file__, "--way", way, "--scene", str(scene), "--workers", str(workers)]
    output = subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(output)  # type: ignore[no-any-return]


def run_way(way: str, scene: Path, out: Path, workers: int) -> None:
    """Print the JSON that `measured` reads; the times begin after the imports."""
    import fusar_klip.tiles  # noqa: F401

    before, started = _processor_seconds(), time.perf_counter()
    results = WAYS[way](scene, out, workers)
    results["wall_s"] = time.perf_counter() - started
    results["cpu_s"] = _processor_seconds() - before
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    results["peak_mib"] = sum(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024
    print(json.dumps(results))


def _processor_seconds() -> float:
    used = [resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def same_tiles(ours: Path, theirs: Path) -> int:
    """Check that both implementations wrote the same pixels; return the number of tiles."""
    import rasterio

    paths = sorted(ours.glob("tiles/*/*.tif"))
    for path in paths:
        with rasterio.open(path) as mine, rasterio.open(theirs / path.name) as plain_one:
            assert (mine.read(1) == plain_one.read(1)).all(), path.name
            assert mine.transform == plain_one.transform, path.name
    return len(paths)


def compare(size: int, small: int, workers: int, folder: Path) -> dict[str, Any]:
    """Simulate the scenes, run all implementations, and return the measurements."""
    results: dict[str, Any] = {"size": size, "small": small, "workers": workers}
    scenes = {}
    for side in (small, size):
        made = folder / f"scenes_{side}"
        # In its own process: a child process inherits the peak memory of its parent.
        options = ["--scenes", "1", "--size", str(side), "--platform", "Gaofen-3"]
        command = [sys.executable, "-c", "from fusar_klip.cli import main; main()", "simulate", str(made)]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        (scenes[side],) = made.glob("*.tif")
    (folder / str(size)).mkdir()
    for way in WAYS:
        results[way] = measured(way, scenes[size], folder / str(size) / way, workers)
    results["same_tiles"] = same_tiles(folder / str(size) / "build", folder / str(size) / "plain")
    results["small_peak_mib"] = measured(
        "screened", scenes[small], folder / str(small) / "screened", workers
    )["peak_mib"]
    stages = results["build"]["seconds"]
    ours = sum(stages[stage] for stage in ("decode", "histogram", "scratch", "map", "encode", "write"))
    per_pixel = {
        "floor": results["floor"]["cpu_s"] / results["floor"]["pixels"],
        "build": ours / results["build"]["pixels"],
    }
    results["ns_per_written_pixel"] = {way: seconds * 1e9 for way, seconds in per_pixel.items()}
    results["times_the_floor"] = per_pixel["build"] / per_pixel["floor"]
    results["times_the_plain_way"] = results["plain"]["wall_s"] / results["build"]["wall_s"]
    results["times_the_plain_way_per_core"] = results["plain"]["cpu_s"] / results["build"]["cpu_s"]
    return results


def table(results: dict[str, Any]) -> str:
    """Return the measurements as Markdown."""
    lines = [f"| {results['size']} px, {results['workers']} workers | wall s | CPU s | peak MiB |"]
    lines += ["|---|---|---|---|"]
    for way in WAYS:
        lines += ["| {} | {wall_s:.1f} | {cpu_s:.1f} | {peak_mib:.0f} |".format(way, **results[way])]
    lines += [
        "",
        f"| stage of the build ({results['build']['tiles']} tiles) | CPU s | share |",
        "|---|---|---|",
    ]
    stages = results["screened"]["seconds"]
    lines += [f"| {stage} | {s:.2f} | {s / sum(stages.values()):.0%} |" for stage, s in stages.items()]
    nanoseconds = results["ns_per_written_pixel"]
    lines += [
        "",
        f"- reading, mapping and writing: {nanoseconds['build']:.1f} ns per written pixel and core, "
        f"{results['times_the_floor']:.2f} times the lower bound's {nanoseconds['floor']:.1f} ns "
        "(target: 1.5)",
        f"- {results['times_the_plain_way']:.2f} times the plain implementation's throughput on "
        f"{results['workers']} workers, {results['times_the_plain_way_per_core']:.2f} times per core "
        "(target: at least 3)",
        f"- {results['same_tiles']} tiles equal to the plain implementation's, features within "
        f"{results['plain']['worst_feature']:.1e}",
        f"- peak memory {results['small_peak_mib']:.0f} MiB at {results['small']} px, "
        f"{results['screened']['peak_mib']:.0f} MiB at {results['size']} px",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000, help="side of the simulated scene in pixels")
    parser.add_argument("--small", type=int, default=5_000, help="side of the scene whose memory is compared")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("perf/build.json"))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        run_way(options.way, options.scene, options.out, options.workers)
        return
    from fusar_klip.files import write_json

    with tempfile.TemporaryDirectory() as folder:
        results = compare(options.size, options.small, options.workers, Path(folder))
    print(table(results))
    write_json(options.out, results)


if __name__ == "__main__":
    main()
