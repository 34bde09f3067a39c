"""All real SAR scenes of the test data as `build` reads, places and maps them, on one sheet.

Each picture is a scene after geocoding and its 8-bit mapping, with what was found out of its file. Real data
lies in FUSAR_KLIP_DATA, which is ../shared/data by default.

    python examples/scenes_sheet.py docs/images/real_scenes.jpg
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from fusar_klip.tiles.scene.radiometry import IDENTITY, AmplitudeHistogram, fit_mapping
from fusar_klip.tiles.scene.scene import Scene, crs_name, open_scenes
from fusar_klip.tiles.settings import MappingSettings, SceneSettings

GEO = Path(os.environ.get("FUSAR_KLIP_DATA", Path(__file__).parents[2] / "shared" / "data")) / "geo"
BANDS = {"Spain_7370579_S1Hand": ("VV", "VH")}
NOT_SCENES = ("Label", "masked")
PICTURE_PX = 360
LEGEND_PX = 64
COLUMNS = 4


def scenes() -> Iterator[Scene]:
    files = [*GEO.rglob("*.tif"), *GEO.rglob("*.tiff")]
    for path in sorted(files):
        if any(word in path.name for word in NOT_SCENES):
            continue
        for band in BANDS.get(path.stem, (None,)):
            yield from open_scenes(path, SceneSettings(polarization=band))


def picture(scene: Scene) -> Image.Image:
    with scene.reader() as reader:
        amplitude = reader.read(0, 0, scene.height, scene.width)
    histogram = AmplitudeHistogram.empty(scene.dtype)
    histogram.add(amplitude)
    mapping = IDENTITY if scene.eight_bit else fit_mapping(histogram, MappingSettings())
    image = Image.fromarray(mapping.levels(amplitude))
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    return image


def legend(scene: Scene) -> str:
    facts = scene.facts
    sensor = " ".join(str(v) for v in (facts.platform, facts.band, facts.polarization) if v) or "not known"
    placed = f"placed by {scene.geocoding.method}" if scene.geocoding else "its own grid"
    what = f"{scene.kind}, {scene.gsd_m:.3g} m, {crs_name(scene.crs) if scene.crs else 'no CRS'}"
    return f"{scene.path.name[:46]}\n{sensor}\n{what}\n{placed}"


def main() -> None:
    found = list(scenes())
    rows = -(-len(found) // COLUMNS)
    cell = PICTURE_PX + 12
    sheet = Image.new("L", (COLUMNS * cell, rows * (cell + LEGEND_PX)), 255)
    draw = ImageDraw.Draw(sheet)
    for place, scene in enumerate(found):
        row, col = divmod(place, COLUMNS)
        left, top = col * cell, row * (cell + LEGEND_PX)
        sheet.paste(picture(scene), (left + 6, top + 6))
        draw.multiline_text((left + 8, top + cell), legend(scene), fill=0)
    sheet.save(Path(sys.argv[1]), quality=80)
    print(f"{len(found)} scenes in {sys.argv[1]}")


if __name__ == "__main__":
    main()
