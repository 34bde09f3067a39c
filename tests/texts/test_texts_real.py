"""Counts against the real boxes of HRSID, and what is said of the real port; `-s` prints the figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusar_klip.texts import measure_tile

HRSID_GSD_M = 3.0  # the set says 1 to 7 m, and not which image has which


@pytest.mark.real_data
def test_ships_of_hrsid_are_counted(real_data: Path) -> None:
    folder = real_data / "det_hrsid_ship"
    truth = json.loads((folder / "annotations_coco.json").read_text())
    errors = []
    for image in truth["images"]:
        with Image.open(folder / "images" / image["file_name"]) as file:
            pixels = np.maximum(np.asarray(file.convert("L")), 1)  # 0 is dark sea there, not no data
        boxes = sum(a["image_id"] == image["id"] for a in truth["annotations"])
        errors.append(abs(len(measure_tile(pixels, HRSID_GSD_M).targets) - boxes))
    exact, within_one = (sum(e <= most for e in errors) for most in (0, 1))
    print(f"HRSID: exact {exact}, within one {within_one}, of {len(errors)} images")
    assert exact >= 0.7 * len(errors)
    assert within_one >= 0.9 * len(errors)
