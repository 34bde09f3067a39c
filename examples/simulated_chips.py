"""Cut simulated scenes into chips with boxes and land cover masks: a data set for language rows.

python examples/simulated_chips.py SIM DIR [SIDE]

SIM is what `fusar-klip simulate` wrote. Every fifth scene is the test part, so that no ground is in both.
split.csv names each chip's scene, so that intervals resample whole scenes.
DIR is read by `mask_folders` (land cover) and, DIR/boxes, by `coco` (ships and aircraft); both are simulated,
which results made from them have to say.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image

from fusar_klip.simulate.surfaces import LAND_COVER

# As `build` maps scenes to 8 bits: 255 at three times the scene's mean amplitude.
WHITE_AT_MEANS = 3.0
TEST_EVERY = 5


def main() -> None:
    simulated, out = Path(sys.argv[1]), Path(sys.argv[2])
    side = int(sys.argv[3]) if len(sys.argv) > 3 else 256
    tables: dict[str, dict[str, Any]] = {}
    split = {out: ["file,split,group"], out / "boxes": ["file,split,group"]}
    for number, scene in enumerate(json.loads((simulated / "simulation.json").read_text())["scenes"]):
        part = "test" if number % TEST_EVERY == TEST_EVERY - 1 else "train"
        with rasterio.open(simulated / scene["image"]) as file:
            amplitude = file.read(1).astype(np.float32)
        with rasterio.open(simulated / scene["land_cover"]) as file:
            cover = file.read(1)
        truth = json.loads((simulated / scene["coco"]).read_text())
        grey = np.minimum(amplitude * (255 / WHITE_AT_MEANS / amplitude.mean()), 255).astype(np.uint8)
        table = tables.setdefault(part, {"images": [], "annotations": [], "categories": truth["categories"]})
        for row, column in corners(grey, side):
            name = f"{Path(scene['image']).stem}_{row:05d}_{column:05d}.png"
            window = np.s_[row : row + side, column : column + side]
            write(out / part / "images" / name, grey[window])
            write(out / part / "masks" / name, cover[window])
            write(out / "boxes" / "images" / part / name, grey[window])
            split[out].append(f"{part}/images/{name},{part},{number}")
            split[out / "boxes"].append(f"images/{part}/{name},{part},{number}")
            add(table, name, truth["annotations"], row, column, side)
    lines = [f"{code},{'ignored' if code == 0 else kind}" for code, kind in LAND_COVER.items()]
    (out / "classes.csv").write_text("\n".join(["value,name", *lines]) + "\n")
    for folder, rows in split.items():
        (folder / "split.csv").write_text("\n".join(rows) + "\n")
    (out / "boxes" / "annotations").mkdir(parents=True, exist_ok=True)
    for part, table in tables.items():
        (out / "boxes" / "annotations" / f"{part}.json").write_text(json.dumps(table))
        print(f"{part}: {len(table['images'])} chips, {len(table['annotations'])} targets, simulated")


def corners(pixels: NDArray[np.uint8], side: int) -> Iterator[tuple[int, int]]:
    """Yield the upper left corner of each whole chip, (row, column)."""
    for row in range(0, pixels.shape[0] - side + 1, side):
        for column in range(0, pixels.shape[1] - side + 1, side):
            yield row, column


def write(file: Path, pixels: NDArray[np.uint8]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def add(
    table: dict[str, Any], name: str, truth: list[dict[str, Any]], row: int, column: int, side: int
) -> None:
    """Add a chip and the targets whose centre it holds, their boxes cut at its border."""
    number = len(table["images"])
    table["images"].append({"id": number, "file_name": name, "width": side, "height": side})
    for target in truth:
        x, y, width, height = target["bbox"]
        left, top = x - column, y - row
        if not (0 <= left + width / 2 < side and 0 <= top + height / 2 < side):
            continue
        x0, y0 = max(0.0, left), max(0.0, top)
        box = [x0, y0, min(side, left + width) - x0, min(side, top + height) - y0]
        found = {"id": len(table["annotations"]), "image_id": number, "bbox": box}
        table["annotations"].append({**found, "category_id": target["category_id"], "iscrowd": 0})


if __name__ == "__main__":
    main()
