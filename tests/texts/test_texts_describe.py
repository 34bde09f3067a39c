"""The verb: a data set in, its first text version out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from texts_synthetic import city, sea_with_ships

from fusar_klip.catalog import (
    FIELDS,
    read_footprints,
    read_text_metadata,
    read_texts,
    text_versions,
    write_tiles,
)
from fusar_klip.errors import DatasetError
from fusar_klip.texts import DescribeSettings, describe

MakeDataset = Callable[..., Path]


@pytest.fixture
def family() -> dict[str, tuple]:
    """A coastal tile of 400 pixels with two ships, and two of the tiles inside it."""
    large = sea_with_ships([(80, 80, 150, 24, 0), (300, 100, 150, 24, 90)])
    large[:, 240:] = city()[:, 240:]
    return {
        "scene_L": (large, "large", None, 0, 0),
        "scene_M_sea": (large[:200, :200], "medium", "scene_L", 0, 0),
        "scene_M_city": (large[200:, 200:], "medium", "scene_L", 200, 200),
    }


def test_describes_every_kept_tile(make_dataset: MakeDataset, family: dict[str, tuple]) -> None:
    dataset = make_dataset(family)
    summary = describe(dataset, DescribeSettings(workers=1))
    texts = read_texts(dataset)
    assert summary.tiles == 3
    assert summary.texts == len(texts) == 24
    for _, rows in texts.groupby("tile_id"):
        assert tuple(rows["field"]) == FIELDS[rows["task"].iloc[0]]
    assert set(texts["source"]) == {"measure"}
    assert set(texts["prompt_version"]) == {"measure-4"}
    assert set(texts["verdict"]) == {"original"}
    assert read_text_metadata(dataset, "v000")["maker"]["provider"] == "measure"
    said = texts.set_index(["tile_id", "field"])["text"]
    assert said["scene_L", "Count"] == "Two ships; ships touching quays not counted."
    assert said["scene_M_sea", "Count"] == "One ship."
    assert summary.by_task == {"marine_target": 2, "terrain": 1}
    assert "within open water" in said["scene_M_city", "Layout"]
    assert "within" not in said["scene_M_sea", "Environment"]


def test_a_kept_tile_reads_the_same_when_the_sea_around_it_is_not_kept(
    make_dataset: MakeDataset, family: dict[str, tuple]
) -> None:
    dataset = make_dataset(family)
    every = Path(describe(dataset, DescribeSettings(workers=1)).path)
    before = read_texts(dataset).query("tile_id == 'scene_M_city'")["text"].tolist()
    every.unlink()
    tiles = read_footprints(dataset)
    write_tiles(dataset, tiles.assign(kept=tiles["tile_id"] == "scene_M_city"))
    assert describe(dataset, DescribeSettings(workers=1)).tiles == 1
    assert read_texts(dataset)["text"].tolist() == before


def test_the_same_bytes_with_any_number_of_workers(
    make_dataset: MakeDataset, family: dict[str, tuple]
) -> None:
    family["other_L"] = (city(seed=5), "large", None, 0, 400)
    dataset = make_dataset(family)
    written = []
    for workers in (1, 2):
        path = Path(describe(dataset, DescribeSettings(workers=workers)).path)
        written.append(path.read_bytes())
        path.unlink()
    assert written[0] == written[1]


def test_a_tile_of_unknown_place_and_spacing(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"t": (city(), "small", None, 0, 0)}, gsd_m=None, lonlat=None)
    describe(dataset, DescribeSettings(workers=1))
    said = read_texts(dataset).set_index("field")["text"]
    assert "not known" in said["Location"]


def test_a_child_without_its_parent_is_described(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"t": (city(), "small", "gone", 0, 0)})
    assert describe(dataset, DescribeSettings(workers=1)).tiles == 1


def test_the_same_texts_are_no_new_version(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"t": (city(), "small", None, 0, 0)})
    path = Path(describe(dataset, DescribeSettings(workers=1)).path)
    before = path.read_bytes()
    assert describe(dataset, DescribeSettings(workers=1)).version == "v000"
    assert path.read_bytes() == before
    assert text_versions(dataset) == ["v000"]


def test_other_texts_are_the_next_version(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"t": (city(), "small", None, 0, 0), "u": (city(seed=2), "small", None, 0, 400)})
    tiles = read_footprints(dataset)
    write_tiles(dataset, tiles.assign(kept=tiles["tile_id"] == "t"))
    before = Path(describe(dataset, DescribeSettings(workers=1)).path).read_bytes()
    write_tiles(dataset, tiles)
    assert describe(dataset, DescribeSettings(workers=1)).version == "v001"
    assert (dataset / "texts" / "v000.parquet").read_bytes() == before


def test_nothing_kept(make_dataset: MakeDataset) -> None:
    with pytest.raises(DatasetError, match="no kept tile"):
        describe(make_dataset({"t": (city(), "small", None, 0, 0)}, kept=False))


@pytest.mark.parametrize("content", [b"", b"II*\0 and then nothing"])
def test_a_broken_tile_is_named(make_dataset: MakeDataset, content: bytes) -> None:
    dataset = make_dataset({"t": (city(), "small", None, 0, 0)})
    (dataset / "tiles/t.tif").write_bytes(content)
    with pytest.raises(DatasetError, match=r"tiles/t\.tif.*build"):
        describe(dataset, DescribeSettings(workers=1))
    assert not (dataset / "texts").exists()


def test_a_tile_of_another_size_is_named(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(
        {"t": (city(), "small", None, 0, 0), "u": (np.full((50, 50), 9, np.uint8), "small", None, 0, 0)}
    )
    (dataset / "tiles/u.tif").write_bytes((dataset / "tiles/t.tif").read_bytes())
    with pytest.raises(DatasetError, match=r"tiles/u\.tif is not the one in the catalog"):
        describe(dataset, DescribeSettings(workers=1))


def test_a_target_belongs_to_the_airport_nearest_to_it(make_dataset: MakeDataset) -> None:
    """The tile's centre lies nearer to Hawthorne, its target, 1.7 km to the west, nearer to Los Angeles."""
    pixels = city()
    pixels[80:180, :100] = sea_with_ships([(40, 30, 60, 40, 0)], size=100, gsd_m=10.0)
    dataset = make_dataset({"t": (pixels, "large", None, 0, 0)}, gsd_m=10.0, lonlat=(-118.370, 33.932))
    assert describe(dataset, DescribeSettings(workers=1)).by_task == {"ground_target": 1}
    said = read_texts(dataset).set_index("field")["text"]
    assert said["Region"] == "Dark apron or runway ground of Los Angeles International Airport."
