"""Real tiles with the texts that `measure` wrote of them: docs/images/texts_los_angeles_1.jpg to _4.jpg.

24 tiles of all three scales of the Sentinel-1 scene of Los Angeles: airports, ports, city, hills, coast and
sea. The places were chosen on the map, before the texts were read; each stands for the kept tile of its scale
whose centre is nearest.

    python examples/text_sheet.py out/los_angeles/dataset docs/images/texts_los_angeles

The data set is that of examples/los_angeles.sh.
"""

import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from fusar_klip.catalog import read_texts, read_tiles

PLACES = [
    ("Los Angeles airport", "large", -118.408, 33.9425),
    ("Los Angeles airport", "medium", -118.408, 33.9425),
    ("Los Angeles airport", "small", -118.408, 33.9425),
    ("Long Beach airport", "small", -118.152, 33.818),
    ("Hawthorne airport", "small", -118.335, 33.923),
    ("Torrance, houses", "small", -118.340, 33.803),
    ("Ports of Los Angeles and Long Beach", "large", -118.24, 33.75),
    ("Port of Los Angeles", "medium", -118.265, 33.745),
    ("Port of Long Beach", "medium", -118.215, 33.755),
    ("Pier 400", "small", -118.250, 33.735),
    ("Long Beach, Middle Harbor", "small", -118.215, 33.755),
    ("San Pedro, West Basin", "small", -118.277, 33.757),
    ("Long Beach, outer harbour", "medium", -118.19, 33.74),
    ("Anchorage off Pier J", "small", -118.18, 33.735),
    ("Sea off Seal Beach", "medium", -118.15, 33.71),
    ("Santa Monica, coast", "medium", -118.50, 34.01),
    ("Marina del Rey", "small", -118.45, 33.975),
    ("Redondo Beach", "small", -118.395, 33.845),
    ("Downtown Los Angeles", "medium", -118.25, 34.05),
    ("Downtown Los Angeles", "small", -118.25, 34.05),
    ("Vernon, industry", "small", -118.21, 34.00),
    ("West Los Angeles and its mountains", "large", -118.45, 34.07),
    ("Santa Monica Mountains", "medium", -118.47, 34.11),
    ("Palos Verdes hills", "small", -118.35, 33.76),
]
PER_SHEET, COLUMNS = 6, 3
TILE_PX, GAP_PX, LINE_PX, TEXT_CHARS = 400, 14, 16, 66


def nearest_tile(tiles: pd.DataFrame, scale: str, lon: float, lat: float) -> dict[str, Any]:
    """Return the tile of a scale whose centre is nearest, among those of at least 90 % data."""
    of_scale = tiles[(tiles["scale"] == scale) & (tiles["valid_fraction"] > 0.9)]
    east = (of_scale["lon"] - lon) * np.cos(np.radians(lat))
    nearest = int(np.argmin(np.hypot(east, of_scale["lat"] - lat)))
    return {str(name): value for name, value in of_scale.iloc[nearest].items()}


def panel(dataset: Path, title: str, tile: dict[str, Any], fields: dict[str, str]) -> Image.Image:
    """Draw a tile, its name and scale, and its eight sentences below it."""
    lines = [f"{title} ({tile['scale']}, {tile['extent_m'] / 1000:.1f} km)", tile["tile_id"][-11:]]
    for field, text in fields.items():
        lines += textwrap.wrap(f"{field}: {text}", TEXT_CHARS, subsequent_indent="   ")
    drawn = Image.new("L", (TILE_PX, TILE_PX + (len(lines) + 1) * LINE_PX), 255)
    with Image.open(dataset / tile["path"]) as file:
        drawn.paste(file.convert("L").resize((TILE_PX, TILE_PX), Image.Resampling.BOX))
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(12)
    for number, line in enumerate(lines):
        draw.text((2, TILE_PX + 4 + number * LINE_PX), line, fill=0, font=font)
    return drawn


def main(dataset: Path, out: str) -> None:
    tiles = read_tiles(dataset)
    tiles = tiles[tiles["kept"] & tiles["scene_id"].str.contains("LosAngeles")]
    texts = read_texts(dataset)
    panels = []
    for title, scale, lon, lat in PLACES:
        tile = nearest_tile(tiles, scale, lon, lat)
        said = texts[texts["tile_id"] == tile["tile_id"]]
        panels.append(panel(dataset, title, tile, dict(zip(said["field"], said["text"], strict=True))))
    for sheet in range(len(panels) // PER_SHEET):
        chosen = panels[sheet * PER_SHEET : (sheet + 1) * PER_SHEET]
        rows = [chosen[start : start + COLUMNS] for start in range(0, PER_SHEET, COLUMNS)]
        heights = [max(image.height for image in row) for row in rows]
        drawn = Image.new("L", (COLUMNS * (TILE_PX + GAP_PX), sum(heights)), 255)
        for number, row in enumerate(rows):
            for column, image in enumerate(row):
                drawn.paste(image, (column * (TILE_PX + GAP_PX), sum(heights[:number])))
        drawn.save(f"{out}_{sheet + 1}.jpg", quality=72)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
