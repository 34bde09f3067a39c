"""Queries: texts, images, boxes, and errors."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image
from shapely import box

from fusar_klip.errors import SearchError
from fusar_klip.image_io import read_image
from fusar_klip.search import build_index, search


@pytest.fixture
def index(make_dataset, run, tmp_path):
    """Five tiles: two near the port, one across the antimeridian, one on land, one without coordinates."""
    footprints = [
        box(-118.25, 33.7, -118.2, 33.75),
        box(-118.3, 33.75, -118.25, 33.8),
        box(179.9, -17, 180.1, -16.9),
        box(10, 50, 10.1, 50.1),
        None,
    ]
    build_index(make_dataset([240, 180, 120, 60, 0], footprints), run, tmp_path / "index")
    return tmp_path / "index"


def ids(results):
    return [hit.tile_id for hit in results.hits]


def test_a_text_ranks_tiles_by_cosine(index, tmp_path):
    results = search(index, "brightness 180", top=3)
    assert ids(results) == ["t001", "t000", "t002"]
    assert [hit.rank for hit in results.hits] == [1, 2, 3]
    assert results.hits[0].score == pytest.approx(1)
    assert results.hits[1].score == pytest.approx(np.cos(60 / 255 * np.pi / 2))
    assert (results.searched, results.indexed) == (5, 5)


def test_a_hit_has_path_coordinates_scale_and_text(index, tmp_path):
    hit = search(index, "brightness 240", top=1).hits[0]
    assert hit.path == str(tmp_path / "dataset" / "tiles" / "scene" / "t000.tif")
    assert (hit.lon, hit.lat) == (pytest.approx(-118.225), pytest.approx(33.725))
    assert hit.scale == "small"
    assert "Water: the water of t000" in hit.text.splitlines()


def test_an_image_finds_itself_first(index, tmp_path):
    image = tmp_path / "dataset" / "tiles" / "scene" / "t002.tif"
    hit = search(index, str(image)).hits[0]
    assert (hit.tile_id, hit.score) == ("t002", pytest.approx(1))


def test_the_box_is_applied_before_the_search(index):
    # The two best tiles of all are outside the box; `top` results come from inside it.
    results = search(index, "brightness 240", bbox=(-180, -90, 60, 90), top=10)
    assert ids(results) == ["t000", "t001", "t002", "t003"]
    results = search(index, "brightness 240", bbox=(5, 45, 15, 55), top=1)
    assert (ids(results), results.searched, results.indexed) == (["t003"], 1, 5)
    assert results.bbox == [5, 45, 15, 55]


@pytest.mark.parametrize("bbox", [(179, -20, -179, -10), (-180, -20, -179.95, -10), (179.95, -20, 180, -10)])
def test_a_tile_across_the_antimeridian_is_found_from_both_sides(index, bbox):
    assert ids(search(index, "brightness 0", bbox=bbox)) == ["t002"]


def test_more_results_than_tiles_are_all_tiles(index):
    assert len(search(index, "brightness 1", top=1000).hits) == 5


def test_equal_scores_are_ordered_by_tile_id(make_dataset, run, tmp_path):
    build_index(make_dataset([7] * 40), run, tmp_path / "index")
    assert ids(search(tmp_path / "index", "brightness 7", top=40)) == [f"t{i:03d}" for i in range(40)]


def test_the_same_query_gives_the_same_answer(index):
    assert search(index, "brightness 99") == search(index, "brightness 99")


def test_nothing_indexed(run, tmp_path):
    with pytest.raises(SearchError, match=r"is not an index: .*fusar-klip index"):
        search(tmp_path / "nowhere", "ships")


def test_a_folder_that_is_no_index(run, tmp_path):
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(SearchError, match="is not an index"):
        search(tmp_path, "ships")


@pytest.mark.parametrize(
    ("query", "options", "reason"),
    [
        ("", {}, "query is empty"),
        ("  \n", {}, "query is empty"),
        ("ships", {"top": 0}, "--top must be at least 1"),
        ("ships", {"bbox": (0, 0, 1, 1)}, "none of the 5 indexed tiles"),
        ("ships", {"bbox": (0, 1, 1, 0)}, "S above N"),
        ("missing.PNG", {}, "no such image file: missing.PNG"),
    ],
)
def test_errors_are_one_sentence(index, query, options, reason):
    with pytest.raises(SearchError, match=reason) as raised:
        search(index, query, **options)
    assert "\n" not in str(raised.value)


def test_an_image_of_16_bits_gives_the_results_of_8_bits(index, tmp_path):
    deep = np.random.default_rng(0).rayleigh(3000, (40, 40)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "raw.tif")
    Image.fromarray(read_image(tmp_path / "raw.tif")).save(tmp_path / "mapped.png")
    raw, mapped = (search(index, str(tmp_path / name)) for name in ("raw.tif", "mapped.png"))
    assert ids(raw) == ids(mapped)


def test_a_missing_checkpoint(index, run):
    shutil.rmtree(run)
    with pytest.raises(SearchError, match="is missing: restore it"):
        search(index, "brightness 1")


@pytest.mark.parametrize("changed", ["model.safetensors", "preprocess.json", "tokenizer.json"])
def test_a_checkpoint_that_has_changed(index, run, changed):
    (run / changed).write_text("trained on")
    with pytest.raises(SearchError, match="has changed since"):
        search(index, "brightness 1")


def test_a_weights_file_and_a_randomly_initialised_model_are_checkpoints_too(
    make_dataset, run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(run / "model.safetensors", run / "best.safetensors")
    dataset = make_dataset([1, 2])
    for number, checkpoint in enumerate(["run/best.safetensors", "untrained:run"]):
        summary = build_index(dataset, checkpoint, tmp_path / f"index{number}")
        assert summary.checkpoint.endswith(str(tmp_path / checkpoint.removeprefix("untrained:")))
        assert search(tmp_path / f"index{number}", "brightness 1").hits[0].tile_id == "t000"


def test_a_warning_about_a_moved_or_changed_data_set(index, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        search(index, "brightness 1")
        assert not caplog.records
        (tmp_path / "dataset" / "dataset.json").write_text("{}")
        search(index, "brightness 1")
        assert "has changed since it was indexed" in caplog.text
        (tmp_path / "dataset").rename(tmp_path / "elsewhere")
        search(index, "brightness 1")
        assert "is missing" in caplog.text
