"""Annotations into template sentences: placed in the right tile, sized on the ground, honest where silent."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from fusar_klip.catalog import FIELDS
from fusar_klip.errors import SettingsError
from fusar_klip.texts.template import (
    NOT_ANNOTATED,
    Annotation,
    TileFrame,
    compose_template,
    scene_of_file,
    template_texts,
)

MakeDataset = Callable[..., Path]
GSD_M = 3.0
TO_GLOBE = Transformer.from_crs(32611, 4326, always_xy=True)


def feature(
    row: float, col: float, length_m: float, width_m: float, **properties: object
) -> dict[str, object]:
    """Return an upright rectangle around a pixel of the scene as a GeoJSON feature."""
    x, y = 380_000 + col * GSD_M, 3_735_000 - row * GSD_M
    corners = [(x + i * width_m / 2, y + j * length_m / 2) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    ring = [list(TO_GLOBE.transform(*corner)) for corner in [*corners, corners[0]]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def write(path: Path, *features: dict[str, object]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> Path:
    pixels = np.full((100, 100), 50, np.uint8)
    return make_dataset(
        {
            "scene_hash_L_0000_0000": (np.full((200, 200), 50, np.uint8), "large", None, 0, 0),
            "scene_hash_S_0000_0000": (pixels, "small", "scene_hash_L_0000_0000", 0, 0),
            "scene_hash_S_0001_0001": (pixels, "small", "scene_hash_L_0000_0000", 100, 100),
        }
    )


def test_geojson_is_placed_in_the_tiles_that_hold_it(dataset: Path, tmp_path: Path) -> None:
    truth = write(
        tmp_path / "any.geojson",
        feature(20, 30, 90, 15, category="ship", type="tanker", state="anchored"),
        feature(80, 90, 60, 12, category="ship", type="tug"),
        feature(150, 150, 30, 28, category="aircraft", type="A320"),
    )
    texts = {text.tile_id: text for text in template_texts(dataset, truth)}
    large, first, last = (
        texts[f"scene_hash_{part}"] for part in ("L_0000_0000", "S_0000_0000", "S_0001_0001")
    )
    assert large.task == first.task == "marine_target"
    assert last.task == "ground_target"
    assert large.fields["Count"] == "There are two ships and one aircraft in this SAR image."
    assert first.fields["Count"] == "There are two ships in this SAR image."
    assert first.fields["Location"] == "One in the upper left and one in the lower right."
    assert first.fields["Size"] == "About 60 to 90 m long, 10 to 15 m wide."
    assert first.fields["Category"] == "One tanker and one tug."
    assert first.fields["Region"] == "One anchored."
    assert last.fields["Category"] == "One A320."
    assert last.fields["Location"] == "One aircraft in the centre."


def test_annotations_that_lie_elsewhere_are_said(dataset: Path, tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "far.geojson", feature(5_000, 5_000, 90, 15, category="ship"))
    with pytest.raises(SettingsError, match="lies in a tile"):
        list(template_texts(dataset, elsewhere))


def test_a_file_named_as_a_scene_belongs_to_that_scene_alone() -> None:
    tiles = [TileFrame("t", scene, 9, 9, None, None, None) for scene in ("port_01_aa11", "port_02_bb22")]
    assert scene_of_file(tiles, "port_02") == "port_02_bb22"
    assert scene_of_file(tiles, "port") is None


def test_coco_boxes_of_a_tile(dataset: Path, tmp_path: Path) -> None:
    coco = {
        "images": [{"id": 7, "file_name": "scene_hash_S_0000_0000.tif"}],
        "categories": [{"id": 1, "name": "Ship"}],
        "annotations": [{"image_id": 7, "category_id": 1, "bbox": [40, 40, 20, 10]}],
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(coco))
    texts = {text.tile_id: text for text in template_texts(dataset, path)}
    boxed = texts.pop("scene_hash_S_0000_0000")
    assert boxed.fields["Count"] == "There is one ship in this SAR image."
    assert boxed.fields["Size"] == "About 60 m long."
    assert {text.task for text in texts.values()} == {"terrain"}
    coco["annotations"][0]["category_id"] = 9  # type: ignore[index]
    path.write_text(json.dumps(coco))
    with pytest.raises(SettingsError, match="no valid COCO"):
        list(template_texts(dataset, path))


@pytest.mark.parametrize("content", ["", "{", '{"type": "FeatureCollection"', "a,b\n1,2\n"])
def test_what_is_no_geojson_is_said(dataset: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.geojson"
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"broken\.geojson"):
        list(template_texts(dataset, path))


def test_missing_annotations_are_said(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is missing"):
        list(template_texts(dataset, tmp_path / "nowhere.geojson"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"holds no \*\.geojson"):
        list(template_texts(dataset, tmp_path / "empty"))


def test_a_tile_without_annotations_says_so_in_every_field() -> None:
    text = compose_template("tile", [], 10, 10)
    assert text.task == "terrain"
    assert text.fields.pop("Terrain") == "No annotated object in this SAR image."
    assert set(text.fields.values()) == {f"{NOT_ANNOTATED.capitalize()}."}


words = st.text(st.characters(codec="utf-8"), max_size=12)
annotations = st.builds(
    Annotation,
    row=st.floats(0, 99.9),
    col=st.floats(0, 99.9),
    category=words,
    kind=st.none() | words,
    state=st.none() | words,
    length_m=st.none() | st.floats(0, 1e4),
    width_m=st.none() | st.floats(0, 1e4),
)


@given(st.lists(annotations, max_size=12))
def test_any_annotations_make_eight_sentences(given_: list[Annotation]) -> None:
    text = compose_template("tile", given_, 100, 100)
    assert tuple(text.fields) == FIELDS[text.task]
    assert all(sentence.endswith(".") for sentence in text.fields.values())
