"""Accuracy of the rule-based texts (`measure`), by the truth of simulated scenes and by HRSID's boxes.

The script simulates scenes with seeds that no threshold was tuned on, builds and describes them, and compares
each tile's fields with the truth. It prints the count table (exact, within one) and the accuracy of each
field that the truth can judge. The truth cannot judge Feature, Region, and the terrain fields other than
Terrain and Water. A tile's true ships are those whose centre lies in it. `measure` states that it does not
count ships that touch quays, so its Count is judged by the free ones (anchored, under way); a separate line
shows all ships. The three scales show the same ships: tiles are not independent.

    python perf/counts.py [--seeds 101 102 ...] [--scenes 4] [--size 2048] [--data ../shared/data]
"""

import argparse
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.windows import from_bounds

from fusar_klip.catalog import Task
from fusar_klip.files import write_json
from fusar_klip.simulate import simulate
from fusar_klip.simulate.surfaces import LAND_COVER
from fusar_klip.texts import measure_tile
from fusar_klip.texts.measure.measure_dataset import MeasuredTile, measure_dataset
from fusar_klip.texts.measure.tile_pyramid import CatalogTile
from fusar_klip.texts.phrases import number, region_of, regions_with_counts
from fusar_klip.texts.template import Annotation, annotations_by_tile, kept_tiles
from fusar_klip.tiles import build

FREE = ("anchored", "under way")
(WATER,) = (code for code, name in LAND_COVER.items() if name == "water")
SEEDS = [*range(101, 104), *range(201, 207), *range(301, 307), *range(401, 407)]
HRSID_GSD_M = 3.0  # the set says 1 to 7 m, and not which image has which
_NUMBERS = {number(count): count for count in range(200)}


def counted_in(text: str) -> int | None:
    """Return the number that a Count field starts with; None where a decoder has written another word."""
    return _NUMBERS.get(text.split()[0].lower())


def judged_fields(tile: MeasuredTile, ships: Sequence[Annotation]) -> dict[str, bool]:
    """Tell, for each field of a marine tile that the truth can judge, whether it is right."""
    height, width = tile.tile.height, tile.tile.width
    regions = [region_of(a.row, a.col, height, width) for a in ships]
    lengths = [a.length_m or 0.0 for a in ships]
    says = {field: text.lower() for field, text in tile.fields.items()}
    there = bool(ships)
    return {
        "Count": counted_in(tile.fields["Count"]) == len(ships),
        "Location": there and says["Location"].startswith(regions_with_counts(regions)),
        "Size": there and _sizes_right(says["Size"], lengths, tile.tile.gsd_m or 1.0),
        "Category": there and _classes(says["Category"]) == {_class(m) for m in lengths},
        "Distribution": there and _layout(says["Distribution"]) == min(len(ships), 3),
    }


def _sizes_right(text: str, lengths: Sequence[float], gsd_m: float) -> bool:
    """Least and greatest length are within a quarter or two pixels of the true ones."""
    stated = [float(n) for n in re.findall(r"\d+", text.partition(" long")[0])]
    pairs = ((stated[0], min(lengths)), (stated[-1], max(lengths)))
    return all(abs(length - true) <= max(0.25 * true, 2 * gsd_m) for length, true in pairs)


def _class(length_m: float) -> str:
    return "small" if length_m < 50 else "medium" if length_m < 180 else "large"


def _classes(text: str) -> set[str]:
    return {size for size in ("small", "medium", "large") if size in text.partition(" vessel")[0]}


def _layout(text: str) -> int:
    """Return 1 for a single target, 2 for a pair, 3 for more."""
    return 1 if text.startswith("single") else 2 if text.startswith("a pair") else 3


def stated_share(text: str, cover: str) -> float:
    """Return the share of a class of cover that a Terrain or Environment field gives."""
    if re.search(rf"\b{cover} throughout", text.lower()):
        return 1.0
    found = re.search(rf"(\d+)% {cover}", text.lower())
    return int(found.group(1)) / 100 if found else 0.0


def water_share(mask: Path, tile: CatalogTile) -> float | None:
    """Return the true share of water in a tile; None where the mask does not reach."""
    assert tile.transform is not None
    a, _, c, _, e, f = tile.transform
    bounds = (c, f + e * tile.height, c + a * tile.width, f)
    with rasterio.open(mask) as file:
        classes = file.read(1, window=from_bounds(*bounds, file.transform), boundless=True, fill_value=0)
    inside = classes[classes != 0]
    return float((inside == WATER).mean()) if inside.size else None


def measured_against_truth(
    folder: Path, seed: int, scenes: int, size: int, found: dict[str, list[float]]
) -> None:
    """Simulate, build and measure; add each tile's errors and judgements to `found`."""
    simulate(folder / "scenes", scenes=scenes, size=size, seed=seed)
    dataset = folder / "dataset"
    build(sorted((folder / "scenes").glob("*.tif")), dataset)
    truth = annotations_by_tile(dataset, kept_tiles(dataset), folder / "scenes" / "truth")
    for tile in (tile for pyramid in measure_dataset(dataset, 1) for tile in pyramid):
        ships = [a for a in truth.get(tile.tile.tile_id, []) if a.category == "ship"]
        free = [a for a in ships if a.state in FREE]
        count = 0
        if tile.task == "marine_target":
            stated = counted_in(tile.fields["Count"])
            assert stated is not None, "a measured Count begins with a number"
            count = stated
            found["free ships, tiles described as marine"].append(count - len(free))
            found["all ships, tiles described as marine"].append(count - len(ships))
            for field, right in judged_fields(tile, free).items():
                found[f"field:marine_target:{field}"].append(right)
        if free:
            found["free ships, every tile that shows one"].append(count - len(free))
        _judge_cover(folder / "scenes" / "truth", tile, found)


def _judge_cover(truth: Path, tile: MeasuredTile, found: dict[str, list[float]]) -> None:
    scene = tile.tile.scene_id.rpartition("_")[0]
    water = water_share(truth / f"{scene}_landcover.tif", tile.tile)
    if water is None:
        return
    field_of: dict[Task, str] = {
        "terrain": "Terrain",
        "marine_target": "Environment",
        "ground_target": "Environment",
    }
    field = field_of[tile.task]
    stated = stated_share(tile.fields[field], "open water")
    # Texts give shares in steps of 10 %, and omit those under 5 %.
    found[f"field:{tile.task}:{field} (water within 15 %)"].append(abs(stated - water) <= 0.15)
    if tile.task == "terrain":
        says_some = not tile.fields["Water"].lower().startswith("no open water")
        if not 0 < water < 0.05:
            found["field:terrain:Water (there or not)"].append(says_some == (water >= 0.05))


def hrsid_errors(folder: Path) -> Iterable[float]:
    """Yield counted minus annotated ships for each image of det_hrsid_ship."""
    truth = json.loads((folder / "annotations_coco.json").read_text(encoding="utf-8"))
    for image in truth["images"]:
        with Image.open(folder / "images" / image["file_name"]) as file:
            pixels = np.maximum(np.asarray(file.convert("L")), 1)  # 0 is dark sea there, not no data
        boxes = sum(a["image_id"] == image["id"] for a in truth["annotations"])
        yield len(measure_tile(pixels, HRSID_GSD_M).targets) - boxes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--scenes", type=int, default=4, help="scenes a seed; the four sensors in turn")
    parser.add_argument("--size", type=int, default=2048, help="side of a scene in pixels")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data")
    parser.add_argument("--out", type=Path, default=Path("perf/counts.json"))
    options = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            measured_against_truth(Path(folder), seed, options.scenes, options.size, found)
    if (options.data / "det_hrsid_ship").is_dir():
        found["det_hrsid_ship, its own boxes"] += hrsid_errors(options.data / "det_hrsid_ship")
    counts: list[dict[str, Any]] = []
    fields: list[dict[str, Any]] = []
    for name, values in found.items():
        n = len(values)
        if name.startswith("field:"):
            _, task, field = name.split(":")
            fields.append({"task": task, "field": field, "n": n, "right": sum(values) / n})
            continue
        exact, one = (sum(abs(error) <= most for error in values) / n for most in (0, 1))
        counts.append({"count": name, "n": n, "exact": exact, "within_one": one, "mean": sum(values) / n})
    print("| Count against | tiles | exact | within one | mean error |\n|---|---|---|---|---|")
    for row in counts:
        print("| {count} | {n} | {exact:.0%} | {within_one:.0%} | {mean:+.2f} |".format(**row))
    print("\n| Task | Field | tiles | right |\n|---|---|---|---|")
    for row in sorted(fields, key=lambda row: str(row["task"])):
        print("| {task} | {field} | {n} | {right:.0%} |".format(**row))
    write_json(options.out, {"seeds": options.seeds, "counts": counts, "fields": fields})


if __name__ == "__main__":
    main()
