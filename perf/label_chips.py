"""SAR-ACD and MSTAR as a data set with texts from their labels, and a check of sentences by the labels.

Used by `scio_noise.py --truth labels`, and to pretrain a model that is then evaluated on both data sets: real
images with known truth, and five sentences each. Each chip is a tile. Chips that are in the test part of any
split of the suites are in the test split. `FACTS` holds the differences between classes; lengths are from the
data sheets of the types, in metres.

    python perf/label_chips.py DATASET [--data ../shared/data]
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
from PIL import Image
from shapely import box

from fusar_klip.benchmark.tasks.classification import read_classification
from fusar_klip.benchmark.tasks.probes import KnnRow
from fusar_klip.catalog import TEXT_SCHEMA, TILE_SCHEMA, write_manifest, write_texts, write_tiles
from fusar_klip.datasets.registry import ClassificationReader
from fusar_klip.finetune.resized_images import central_part

# A stated length contradicts the class from this relative difference on.
_MAX_LENGTH_ERROR = 0.15
SETS: Sequence[tuple[ClassificationReader, str, Sequence[str]]] = (
    ("sar_acd", "cls_sar_acd", ("grouped", "paper")),
    ("mstar", "cls_mstar", ("17_to_15_deg",)),
)
"""Reader, folder, and splits in the suites of each data set."""
CENTRE = {"cls_sar_acd": 1.0, "cls_mstar": 0.5}
"""Share of a chip's width and height that is kept: MSTAR's vehicles are in the centre of much grass."""
_APRON, _FIELD = "on the paved apron of an airport", "on open ground with grass, its shadow behind it"
_JET, _TANK = "two engines under swept wings", "tracked, with a turret and a long gun"


@dataclass(frozen=True)
class Facts:
    """The content of a class's texts.

    Attributes:
        category: The type.
        length_m: Its length.
        feature: Its visible features.
        environment: Its surroundings.
        count: The number of targets.
    """

    category: str
    length_m: int
    feature: str
    environment: str
    count: str

    @property
    def sentences(self) -> dict[str, str]:
        """The texts by field."""
        return {
            "Count": self.count,
            "Feature": self.feature,
            "Size": f"about {self.length_m} m long",
            "Category": self.category,
            "Environment": self.environment,
        }

    def contradicts(self, field: str, task: str, text: str) -> bool | None:
        """Return whether a sentence of that field is false; None if the label cannot decide."""
        agrees = _letters(text) == _letters(self.sentences[field])
        if agrees or field != "Size":
            return not agrees
        numbers = [int(word) for word in text.split() if word.isdigit()]
        if not numbers:
            return None
        return abs(numbers[0] - self.length_m) > _MAX_LENGTH_ERROR * self.length_m


def _letters(text: str) -> str:
    """Return the lower-case letters and digits alone: the decoder's vocabulary distinguishes nothing else."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


def _aircraft(category: str, length_m: int, feature: str = _JET) -> Facts:
    return Facts(f"airliner, type {category}", length_m, feature, _APRON, "one aircraft")


def _vehicle(category: str, length_m: int, feature: str) -> Facts:
    return Facts(category, length_m, feature, _FIELD, "one vehicle")


FACTS: Mapping[str, Facts] = {
    "A220": _aircraft("Airbus A220", 37),
    "A320321": _aircraft("Airbus A320 or A321", 41),
    "A330": _aircraft("Airbus A330", 61),
    "ARJ21": _aircraft("Comac ARJ21", 33, "two engines at the tail, swept wings"),
    "Boeing737": _aircraft("Boeing 737", 38),
    "Boeing787": _aircraft("Boeing 787", 60),
    "2S1": _vehicle("2S1 howitzer", 7, "tracked, with a turret and a short gun"),
    "BMP2": _vehicle("BMP-2 infantry fighting vehicle", 7, "tracked, with a small turret"),
    "BRDM2": _vehicle("BRDM-2 scout car", 6, "four wheels, with a small turret"),
    "BTR60": _vehicle("BTR-60 troop carrier", 8, "eight wheels, with a small turret"),
    "BTR70": _vehicle("BTR-70 troop carrier", 8, "eight wheels, with a small turret"),
    "D7": _vehicle("D7 bulldozer", 4, "tracked, with a blade in front"),
    "T62": _vehicle("T-62 battle tank", 9, _TANK),
    "T72": _vehicle("T-72 battle tank", 10, _TANK),
    "ZIL131": _vehicle("ZIL-131 truck", 7, "six wheels, with a cab and a bed"),
    "ZSU234": _vehicle("ZSU-23-4 anti-aircraft gun", 7, "tracked, with a wide turret and a radar dish"),
}


def write_label_chips(dataset: Path, data: Path) -> Mapping[str, Facts]:
    """Write the data set with its texts, v000, if it does not exist; return each tile's facts.

    Args:
        dataset: Folder to write; its tiles are the chips, MSTAR's cropped to their centre.
        data: The data folder with `cls_sar_acd` and `cls_mstar`.

    Raises:
        DatasetError: One of the two data sets is missing.
    """
    tiles, texts = [], []
    truth: dict[str, Facts] = {}
    for reader, folder, splits in SETS:
        path = (data / folder).resolve()
        by_split = [
            read_classification(
                KnnRow(task="knn", dataset=folder, reader=reader, path=folder, split=split), path
            ).images
            for split in splits
        ]
        tested = {image.name for images in by_split for image in images if image.part == "test"}
        for image in by_split[0]:
            facts = FACTS[image.label]
            tile_id = f"{folder}_{image.name}".replace("/", "_")
            truth[tile_id] = facts
            chip = dataset / "tiles" / folder / image.name
            if not chip.exists():
                chip.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(central_part(image.file, CENTRE[folder])).save(chip, quality=95)
            tiles.append(_tile(tile_id, folder, f"tiles/{folder}/{image.name}", chip, image.name in tested))
            texts += [
                {
                    "tile_id": tile_id,
                    "task": "ground_target",
                    "field": field,
                    "text": text,
                    "source": "label",
                    "prompt_version": "1",
                    "verdict": "original",
                }
                for field, text in facts.sentences.items()
            ]
    if not (dataset / "texts" / "v000.parquet").is_file():
        footprints = [box(0, 0, 1, 1)] * len(tiles)
        write_tiles(dataset, gpd.GeoDataFrame(pd.DataFrame(tiles), geometry=footprints, crs="EPSG:4326"))
        rows = pd.DataFrame(texts).reindex(columns=TEXT_SCHEMA.names)
        write_texts(dataset, "v000", rows, parent=None, maker={"verb": "label_chips"})
        write_manifest(dataset, {"tiles": len(tiles)})
    return truth


def _tile(tile_id: str, folder: str, path: str, file: Path, is_test: bool) -> dict[str, object]:
    with Image.open(file) as image:
        width, height = image.size
    row: dict[str, object] = dict.fromkeys(TILE_SCHEMA.names)
    # A few of the training chips are for validation.
    is_val = np.random.default_rng(list(tile_id.encode())).random() < 0.05
    split = "test" if is_test else "val" if is_val else "train"
    return row | {
        "tile_id": tile_id,
        "scene_id": folder,
        "ground_id": tile_id,
        "scale": "small",
        "path": path,
        "width": width,
        "height": height,
        "scene_type": folder,
        "split": split,
        "valid_fraction": 1.0,
        "kept": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dataset", type=Path, help="folder to write")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data")
    options = parser.parse_args()
    print(f"{len(write_label_chips(options.dataset, options.data))} chips in {options.dataset}")


if __name__ == "__main__":
    main()
