"""Throughput and memory of `describe` with a language model, compared with a sequential loop.

A mock server in its own process (the one of the tests) answers every request after 100 ms. The sequential
loop asks for one tile after the other with the official client; `describe` keeps 64 requests in flight.
Pictures have 512 px, the mode is `single`, the measurements are made beforehand. Memory is the peak of the
describing process, for a small and a large data set; it should not grow.

    python perf/describe.py [--tiles 1000 20000] [--concurrency 64] [--latency 0.1]
"""

import argparse
import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from shapely.geometry import box

from fusar_klip.catalog import SCALES, TILE_SCHEMA, write_manifest, write_tiles
from fusar_klip.files import sha256, write_json
from fusar_klip.texts import DescribeSettings, describe
from fusar_klip.texts.measure.evidence_store import ensure_evidence

SERVER = Path(__file__).parents[1] / "tests" / "misbehaving_server.py"
SIDE_PX = 512
PYRAMID_TILES = 21  # a large tile, four medium and sixteen small ones


def pyramid(number: int) -> Iterator[tuple[str, str | None, str, int]]:
    """Yield (tile_id, parent_id, scale, which picture) of one large tile and all inside it."""
    name = f"F{number:06d}"
    yield f"{name}_L", None, SCALES[0], 0
    for i in range(4):
        yield f"{name}_M{i}", f"{name}_L", SCALES[1], 1 + i
        for j in range(4):
            yield f"{name}_S{i}{j}", f"{name}_M{i}", SCALES[2], 5 + 4 * i + j


def make_dataset(folder: Path, pictures: Path, pyramids: int) -> Path:
    """Write a catalog of so many pyramids; they share their 21 pictures."""
    folder.mkdir()
    (folder / "tiles").symlink_to(pictures, target_is_directory=True)
    rows = []
    for number in range(pyramids):
        for tile_id, parent_id, scale, picture in pyramid(number):
            known = dict.fromkeys(TILE_SCHEMA.names) | {
                "tile_id": tile_id,
                "scene_id": "scene",
                "ground_id": "ground",
                "scale": scale,
                "parent_id": parent_id,
                "path": f"tiles/{picture}.tif",
                "platform": "Gaofen-3",
                "band": "C",
                "gsd_m": 1.0,
                "extent_m": float(SIDE_PX),
                "width": SIDE_PX,
                "height": SIDE_PX,
                "crs": "EPSG:32611",
                "transform": [1.0, 0.0, 380_000.0, 0.0, -1.0, 3_735_000.0],
                "lon": -118.25,
                "lat": 33.745,
                "place": "San Pedro",
                "country": "United States",
                "split": "train",
                "valid_fraction": 1.0,
                "kept": True,
                "geometry": box(-118.26, 33.74, -118.24, 33.75),
            }
            rows.append(known)
    write_tiles(folder, gpd.GeoDataFrame(rows, crs="EPSG:4326"))
    write_manifest(folder, {"version": 1})
    return folder


def draw_pictures(folder: Path) -> None:
    """Write 21 tiles of speckle over water and land."""
    folder.mkdir()
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "width": SIDE_PX, "height": SIDE_PX}
    profile |= {"crs": "EPSG:32611", "transform": Affine(1, 0, 380_000, 0, -1, 3_735_000)}
    for number in range(PYRAMID_TILES):
        generator = np.random.default_rng(number)
        level = np.where(np.arange(SIDE_PX) < SIDE_PX // 2, 25.0, 90.0)
        pixels = np.clip(level * np.sqrt(generator.gamma(3.0, 1 / 3.0, (SIDE_PX, SIDE_PX))), 1, 255)
        with rasterio.open(folder / f"{number}.tif", "w", **profile) as file:
            file.write(pixels.astype(np.uint8), 1)


def copy_evidence(one: Path, dataset: Path, pyramids: int) -> None:
    """Give a data set the evidence of one measured pyramid, so that nothing is measured in the timed run."""
    (measured,) = (one / "cache" / "evidence").glob("*.sqlite")
    digest = sha256(dataset / "tiles.parquet")[:16]
    path = dataset / "cache" / "evidence" / f"{measured.stem.rsplit('_', 1)[0]}_{digest}.sqlite"
    path.parent.mkdir(parents=True)
    shutil.copy(measured, path)
    with closing(sqlite3.connect(path)) as store, store:
        for number in range(1, pyramids):
            store.execute(
                "INSERT INTO tiles (tile_id, parent_id, context) SELECT replace(tile_id, 'F000000', :name), "
                "replace(parent_id, 'F000000', :name), replace(context, 'F000000', :name) FROM tiles "
                "WHERE place <= :pyramid ORDER BY place",
                {"name": f"F{number:06d}", "pyramid": PYRAMID_TILES},
            )


@contextmanager
def server(latency_s: float) -> Iterator[str]:
    """Run the server in its own process; yield its address."""
    command = [sys.executable, str(SERVER), "--latency", str(latency_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def plain(dataset: Path, url: str, tiles: int) -> float:
    """Ask about tiles one after the other, as a script would; return tiles a second."""
    import openai

    from fusar_klip.texts.hcot.answers import Answer, read_answer
    from fusar_klip.texts.hcot.prompts import first_request
    from fusar_klip.texts.tile_images import tile_png

    client = openai.OpenAI(base_url=url, api_key="none")
    store = ensure_evidence(dataset)
    answers: dict[str, dict[str, str]] = {}
    started = time.perf_counter()
    for _, (tile_id, parent_id) in zip(range(tiles), store.graph(), strict=False):
        context = store.context(tile_id)
        request = first_request(context, "single", answers.get(parent_id or ""))
        png = base64.b64encode(tile_png(dataset / context.path, SIDE_PX, False, context.gsd_m)).decode()
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}
        messages: list[Any] = [
            {"role": "system", "content": request.system},
            {"role": "user", "content": [{"type": "text", "text": request.user}, picture]},
        ]
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": request.schema}}
        reply = client.chat.completions.create(model="m", messages=messages, response_format=wanted)
        answer = read_answer(reply.choices[0].message.content or "", context)
        assert isinstance(answer, Answer)
        answers[tile_id] = answer.fields
    seconds = time.perf_counter() - started
    store.close()
    client.close()
    return tiles / seconds


def ours(dataset: Path, url: str, concurrency: int) -> dict[str, float]:
    """Describe a data set; return tiles a second and the peak of memory in MB."""
    settings = DescribeSettings(provider="openai", model="m", base_url=url, concurrency=concurrency)
    started = time.perf_counter()
    tiles = describe(dataset, settings).tiles
    seconds = time.perf_counter() - started
    # Not `ru_maxrss`, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    peak_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return {"tiles": tiles, "tiles_a_second": tiles / seconds, "peak_mb": peak_mb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", default=[1000, 20_000])
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.1, help="of the server, in seconds")
    parser.add_argument("--out", type=Path, default=Path("perf/describe.json"))
    parser.add_argument("--run", nargs=2, metavar=("DATASET", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:  # in a process of its own, so that its memory is its own
        print(json.dumps(ours(Path(options.run[0]), options.run[1], options.concurrency)))
        return
    results = []
    with tempfile.TemporaryDirectory() as name, server(options.latency) as url:
        folder = Path(name)
        draw_pictures(folder / "pictures")
        one = make_dataset(folder / "one", folder / "pictures", 1)
        ensure_evidence(one).close()
        sequential = plain(one, url, PYRAMID_TILES)
        print("| what | tiles | tiles/s | ratio | peak MB |\n|---|---|---|---|---|")
        print(f"| plain loop | {PYRAMID_TILES} | {sequential:.1f} | 1 | |", flush=True)
        for tiles in options.tiles:
            pyramids = -(-tiles // PYRAMID_TILES)
            dataset = make_dataset(folder / f"of_{tiles}", folder / "pictures", pyramids)
            copy_evidence(one, dataset, pyramids)
            command = [sys.executable, __file__, "--run", str(dataset), url]
            command += ["--concurrency", str(options.concurrency)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result = json.loads(done.stdout)
            rate = result["tiles_a_second"]
            print(
                f"| describe, {options.concurrency} at a time | {result['tiles']} | {rate:.1f} | "
                f"{rate / sequential:.1f} | {result['peak_mb']:.0f} |",
                flush=True,
            )
            results.append(result)
    measured = {"plain_tiles_a_second": sequential, "describe": results}
    write_json(options.out, {"latency_s": options.latency, "cpus": os.cpu_count(), **measured})


if __name__ == "__main__":
    main()
