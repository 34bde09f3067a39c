"""Recall, precision and speed of near-duplicate detection, and the leakage of SAR-ACD's given split.

The script plants copies of distinct chips (flipped or rotated, shifted, with 5 % noise, cropped, amplified,
and all of these together) among the chips. It measures the recall over the planted copies and the precision
over all reported pairs. Distinct chips are MSTAR's (each another acquisition), and one chip of each group
that the detection finds in SAR-ACD at a much lower threshold: its precision there is not independent. Noise
is Gaussian with a standard deviation of 5 % of the 8-bit range; shifts are up to 4 pixels, and new pixels are
black.

    python perf/near_duplicates.py [--data ../shared/data] [--chips 200] [--seed 0]

With --check it reports the leakage of one data set's own split instead (any reader of docs/datasets.md):

    python perf/near_duplicates.py --check sar_acd ../shared/data/cls_sar_acd [--split-file split.csv]
"""

import argparse
import csv
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusar_klip.datasets.near_duplicates import (
    MIN_NOISY_SCORE,
    MIN_SCORE,
    LeakageReport,
    find_near_duplicates,
    group_ids,
    leakage,
)
from fusar_klip.datasets.registry import read_images
from fusar_klip.files import write_json
from fusar_klip.image_io import read_image

Chip = NDArray[np.uint8]
Change = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]

NOISE = 0.05 * 255
LOOSE = 0.72
"""Chips of SAR-ACD count as distinct where no pair reaches this score."""
SAR_ACD_CHIPS = 3032


def shifted(chip: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Shift by up to four pixels; new pixels are black."""
    down, right = rng.integers(-4, 5, 2)
    height, width = chip.shape
    moved = np.zeros_like(chip)
    moved[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = chip[
        max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]
    return moved


def cut(chip: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Keep 80 to 95 % of each side, anywhere."""
    sides = [max(24, int(length * rng.uniform(0.8, 0.95))) for length in chip.shape]
    top, left = (int(rng.integers(0, max(0, a - b) + 1)) for a, b in zip(chip.shape, sides, strict=True))
    return chip[top : top + sides[0], left : left + sides[1]]


def noisy(chip: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Add noise of 5 % of the range."""
    return chip + rng.normal(0, NOISE, chip.shape)


def amplified(chip: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Multiply by 0.6 to 1.6."""
    return chip * rng.uniform(0.6, 1.6)


PLANTS: dict[str, tuple[Change, ...]] = {
    "flips and turns": (),
    "5 % noise": (noisy,),
    "shift": (shifted,),
    "shift, 5 % noise": (shifted, noisy),
    "smaller crop": (cut,),
    "gain": (amplified,),
    "smaller crop, shift, gain, 5 % noise": (cut, shifted, amplified, noisy),
}
"""Each kind also flips and rotates by one of the eight symmetries, at random."""
TARGET_KINDS = ("flips and turns", "5 % noise", "shift", "shift, 5 % noise")
"""The kinds for which the detection has to reach a recall of 0.99."""


def planted(chip: Chip, changes: Sequence[Change], rng: np.random.Generator) -> Chip:
    """Return a changed copy."""
    changed = chip.astype(np.float64)
    for change in changes:
        changed = change(changed, rng)
    changed = np.rot90(changed[:, ::-1] if rng.random() < 0.5 else changed, int(rng.integers(4)))
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def planted_trial(name: str, files: Sequence[Path], seed: int) -> list[dict[str, Any]]:
    """Plant a copy of each kind of each chip, and measure how many are linked to their own chip."""
    rng = np.random.default_rng(seed)
    count = len(files)
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for kind, changes in enumerate(PLANTS.values()):
            for number, file in enumerate(files):
                copies.append(Path(folder) / f"{kind}_{number:05d}.png")
                Image.fromarray(planted(read_image(file), changes, rng)).save(copies[-1])
        started, cpu = time.perf_counter(), time.process_time()
        matches = find_near_duplicates([*files, *copies])
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    correct = [match for match in matches if match.first % count == match.second % count]
    linked = {match.second for match in correct if match.first < count}
    found = {
        kind: sum((number + 1) * count + index in linked for index in range(count))
        for number, kind in enumerate(PLANTS)
    }
    rows: list[dict[str, Any]] = [
        {"set": name, "planted": kind, "n": count, "recall": hits / count} for kind, hits in found.items()
    ]
    target_hits = sum(found[kind] for kind in TARGET_KINDS)
    rows.append(
        {
            "set": name,
            "planted": "flips, turns, noise, shifts",
            "n": count * len(TARGET_KINDS),
            "recall": target_hits / (count * len(TARGET_KINDS)),
            "precision": len(correct) / max(len(matches), 1),
            "seconds": seconds,
            "cpu_seconds": cpu,
        }
    )
    return rows


def duplicate_groups(files: Sequence[Path], min_score: float) -> NDArray[np.int64]:
    """Return the group of each file at a threshold."""
    return group_ids(len(files), find_near_duplicates(files, min_score=min_score))


def given_split(folder: Path) -> dict[str, Any]:
    """Compare what is found in SAR-ACD with the groups and the split of its split.csv."""
    with (folder / "split.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    found = duplicate_groups([folder / entry["file"] for entry in table], MIN_SCORE)
    given = np.array([entry["group"] for entry in table])
    same_given = np.triu(given[:, None] == given[None], 1)
    same_found = np.triu(found[:, None] == found[None], 1)
    test = np.array([entry["split"] == "test" for entry in table])
    classes = {(group, entry["class"]) for group, entry in zip(found.tolist(), table, strict=True)}
    of_class = Counter(group for group, _ in classes)
    return {
        "images": len(table),
        "given_groups": len(set(given.tolist())),
        "found_groups": len(set(found.tolist())),
        "largest_found_group": max(Counter(found.tolist()).values()),
        "given_pairs_found": float((same_given & same_found).sum() / same_given.sum()),
        "found_pairs_given": float((same_given & same_found).sum() / max(same_found.sum(), 1)),
        "test_images": int(test.sum()),
        "test_images_leaked": int(np.isin(found[test], found[~test]).sum()),
        "groups_of_several_classes": sum(number > 1 for number in of_class.values()),
    }


def speed(files: Sequence[Path], seed: int) -> dict[str, Any]:
    """Time SAR-ACD's published number of chips: the shared copy has fewer, so turned copies fill it up."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        extra = []
        for number in range(SAR_ACD_CHIPS - len(files)):
            extra.append(Path(folder) / f"{number}.png")
            Image.fromarray(planted(read_image(files[number]), (), rng)).save(extra[-1])
        started, cpu = time.perf_counter(), time.process_time()
        find_near_duplicates([*files, *extra])
        return {
            "chips": len(files) + len(extra),
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu,
        }


def checked(reader: str, path: Path, split_file: str) -> LeakageReport:
    """Return the leakage of a data set's own split."""
    images = read_images(reader, path, str(path), split_file)
    return leakage(images, find_near_duplicates([image.file for image in images]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data")
    parser.add_argument("--chips", type=int, default=200, help="distinct chips of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("perf/near_duplicates.json"))
    parser.add_argument("--check", nargs=2, metavar=("READER", "PATH"), help="report one split's leakage")
    parser.add_argument("--split-file", default="split.csv", help="for --check with class folders")
    options = parser.parse_args()
    if options.check:
        report = checked(options.check[0], Path(options.check[1]), options.split_file)
        print(f"{report.images} images in {report.groups} groups, the largest of {report.largest_group}")
        print(*(report.notes or ["No test image has a near-duplicate in the training part."]), sep="\n")
        return
    rng = np.random.default_rng(options.seed)
    aircraft = sorted((options.data / "cls_sar_acd" / "images").glob("*/*.jpg"))
    vehicles = sorted((options.data / "cls_mstar" / "train").glob("*/*.jpeg"))
    first_of_group = np.unique(duplicate_groups(aircraft, LOOSE), return_index=True)[1]
    distinct = {
        "MSTAR": [vehicles[i] for i in rng.permutation(len(vehicles))[: options.chips]],
        "SAR-ACD": [aircraft[i] for i in rng.permutation(first_of_group)[: options.chips]],
    }
    trials = [row for name, files in distinct.items() for row in planted_trial(name, files, options.seed)]
    print("| Set | planted | n | recall | precision | seconds (CPU) |\n|---|---|---|---|---|---|")
    for row in trials:
        precision = f"{row['precision']:.3f}" if "precision" in row else ""
        seconds = f"{row['seconds']:.1f} ({row['cpu_seconds']:.1f})" if "seconds" in row else ""
        head = f"| {row['set']} | {row['planted']} | {row['n']} | {row['recall']:.3f}"
        print(f"{head} | {precision} | {seconds} |")
    split = given_split(options.data / "cls_sar_acd")
    timing = speed(aircraft, options.seed)
    print(*(f"{key}: {value}" for key, value in (split | timing).items()), sep="\n")
    write_json(
        options.out,
        {
            "min_score": MIN_SCORE,
            "min_noisy_score": MIN_NOISY_SCORE,
            "planted": trials,
            "sar_acd_split": split,
            "speed": timing,
        },
    )


if __name__ == "__main__":
    main()
