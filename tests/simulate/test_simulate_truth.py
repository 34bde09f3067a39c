"""The truth agrees with the pixels, and its two forms with each other."""

import numpy as np
import pytest
from pyproj import Transformer
from shapely.geometry import shape

from fusar_klip.geo.platforms import PLATFORMS
from fusar_klip.simulate.noise import Window
from fusar_klip.simulate.scene import SimulatedScene
from fusar_klip.simulate.themes import Theme
from fusar_klip.simulate.truth import coco, geojson


@pytest.mark.parametrize(
    ("platform", "theme", "category"), [("Gaofen-3", "airport", 2), ("Hongtu-1", "coast", 1)]
)
def test_targets_are_brighter_than_what_is_around_them(platform: str, theme: Theme, category: int) -> None:
    scene = SimulatedScene(2, 0, 1400, PLATFORMS[platform], theme)
    image = scene.render(Window(0, 0, 1400, 1400))[0].astype(float)
    boxes = [a["bbox"] for a in coco(scene)["annotations"] if a["category_id"] == category]
    assert len(boxes) >= 3
    brighter = 0
    for left, top, width, height in boxes:
        c0, r0, c1, r1 = int(left), int(top), int(left + width) + 1, int(top + height) + 1
        inside = image[r0:r1, c0:c1]
        around = image[max(r0 - 20, 0) : r1 + 20, max(c0 - 20, 0) : c1 + 20]
        brighter += np.percentile(inside, 95) > 2 * np.median(around)
    assert brighter >= 0.85 * len(boxes)


@pytest.mark.parametrize("seed", range(3))
def test_geojson_and_boxes_agree_within_half_a_pixel(seed: int) -> None:
    scene = SimulatedScene(seed, 1, 2000, PLATFORMS["Gaofen-3"], "harbour")
    boxes, polygons = coco(scene)["annotations"], geojson(scene)["features"]
    assert len(boxes) == len(polygons) > 0
    to_utm = Transformer.from_crs(4326, scene.epsg, always_xy=True)
    for annotation, feature in zip(boxes, polygons, strict=True):
        assert feature["properties"]["id"] == annotation["id"]
        assert feature["properties"]["type"] == annotation["type"]
        outline = shape(feature["geometry"])
        assert outline.exterior.is_ccw
        corners = [~scene.transform @ to_utm.transform(*corner) for corner in outline.exterior.coords]
        (left, top), (right, bottom) = np.min(corners, axis=0), np.max(corners, axis=0)
        found = np.array([left, top, right - left, bottom - top])
        np.testing.assert_allclose(found, annotation["bbox"], atol=0.5)
        assert left >= -0.01
        assert right <= scene.size + 0.01


def test_no_aircraft_at_ten_metres() -> None:
    scene = SimulatedScene(0, 0, 1000, PLATFORMS["Sentinel-1"], "airport")
    assert any(target.category == "aircraft" for target in scene.layout.targets)
    assert all(annotation["category_id"] == 1 for annotation in coco(scene)["annotations"])


def test_lengths_are_those_of_the_types() -> None:
    scene = SimulatedScene(4, 0, 2000, PLATFORMS["Gaofen-3"], "airport")
    lengths = {a["type"]: a["length_m"] for a in coco(scene)["annotations"]}
    assert len(lengths) >= 2
    assert lengths.items() <= {
        "Boeing 737": 39.5, "A320": 37.6, "A220": 38.7, "ARJ21": 33.5, "A330": 63.7, "Boeing 787": 62.8,
        "Boeing 747": 70.7,
    }.items()  # fmt: skip


def test_water_is_dark_and_towns_are_bright() -> None:
    scene = SimulatedScene(0, 0, 800, PLATFORMS["Hongtu-1"], "harbour")
    image, cover = scene.render(Window(0, 0, 800, 800))
    power = image.astype(float) ** 2
    assert (cover == 1).mean() > 0.05
    # The median, since ships and the layover of cranes lie over water too.
    assert np.median(power[cover == 5]) > 4 * np.median(power[cover == 1])
