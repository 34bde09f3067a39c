"""Ships are found once in the largest tile, across its edges, and handed down to the tiles inside it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from texts_synthetic import GSD_M, sea_with_ships, speckled

from fusar_klip.catalog import read_footprints, write_tiles
from fusar_klip.errors import DatasetError
from fusar_klip.texts import measure_tile
from fusar_klip.texts.measure.land_cover import cell_histograms, measure_cells, scene_reference
from fusar_klip.texts.measure.measure_dataset import MeasuredTile, measure_dataset

MakeDataset = Callable[..., Path]
Tiles = dict[str, tuple[NDArray[np.uint8], str, str | None, int, int]]


def measured(dataset: Path) -> dict[str, MeasuredTile]:
    return {tile.tile.tile_id: tile for family in measure_dataset(dataset, 1) for tile in family}


def counts(tiles: dict[str, MeasuredTile]) -> dict[str, int]:
    return {tile_id: len(tile.evidence.targets) for tile_id, tile in tiles.items()}


def halves(scene: NDArray[np.uint8], scale: str, parent: str | None) -> Tiles:
    """Cut a scene of 400 x 800 in two."""
    return {
        f"{scale}_west": (scene[:, :400], scale, parent, 0, 0),
        f"{scale}_east": (scene[:, 400:], scale, parent, 0, 400),
    }


@pytest.fixture
def across() -> NDArray[np.uint8]:
    """A ship of 180 m whose fourth part lies west of the column 400, and one that lies in the west."""
    scene = np.hstack([sea_with_ships([]), sea_with_ships([], seed=1)])
    scene[198:206, 385:445] = 220
    scene[100:108, 100:160] = 220
    return scene


def test_a_ship_across_the_edge_of_two_large_tiles_is_one_ship(
    make_dataset: MakeDataset, across: NDArray[np.uint8]
) -> None:
    tiles = measured(make_dataset(halves(across, "large", None)))
    assert counts(tiles) == {"large_west": 1, "large_east": 1}
    (ship,) = tiles["large_east"].evidence.targets
    assert ship.length_px * GSD_M == pytest.approx(180, abs=15)
    assert ship.col == pytest.approx(14.5, abs=1.5)
    assert ship.touches_edge
    assert "cut by the edge" in tiles["large_east"].fields["Count"]
    assert not tiles["large_west"].evidence.targets[0].touches_edge


def test_what_is_not_kept_beside_a_tile_is_seen(make_dataset: MakeDataset, across: NDArray[np.uint8]) -> None:
    dataset = make_dataset(halves(across, "large", None))
    before = measured(dataset)["large_east"].fields
    tiles = read_footprints(dataset)
    write_tiles(dataset, tiles.assign(kept=tiles["tile_id"] == "large_east"))
    assert measured(dataset)["large_east"].fields == before


def test_a_broken_tile_beside_is_named(make_dataset: MakeDataset, across: NDArray[np.uint8]) -> None:
    dataset = make_dataset(halves(across, "large", None))
    (dataset / "tiles/large_east.tif").write_bytes(b"II*\0")
    with pytest.raises(DatasetError, match=r"large_east\.tif"):
        measured(dataset)


def test_a_ship_across_the_edge_of_two_children_belongs_to_one(
    make_dataset: MakeDataset, across: NDArray[np.uint8]
) -> None:
    tiles: Tiles = {"large": (across, "large", None, 0, 0), **halves(across, "medium", "large")}
    found = measured(make_dataset(tiles))
    assert counts(found) == {"large": 2, "medium_west": 1, "medium_east": 1}
    whole = found["large"].evidence.targets[1]
    (part,) = found["medium_east"].evidence.targets
    assert (part.length_px, part.row, part.col + 400) == (whole.length_px, whole.row, whole.col)
    assert part.touches_edge
    assert not whole.touches_edge


def test_a_pier_that_a_child_cuts_is_no_ship(make_dataset: MakeDataset) -> None:
    """A mole of 1,200 m runs through two tiles; the end that the east shows is as long as a ship."""
    scene = np.hstack([sea_with_ships([]), sea_with_ships([], seed=1)])
    scene[200:206, 40:440] = 200
    tiles: Tiles = {"large": (scene, "large", None, 0, 0), **halves(scene, "medium", "large")}
    assert sum(counts(measured(make_dataset(tiles))).values()) == 0
    assert len(measure_tile(scene[:, 400:], GSD_M).targets) == 1


def test_screening_tells_water_where_the_levels_do_not(make_dataset: MakeDataset) -> None:
    """Sea and land overlap: their histogram has one mode."""
    sea, land = (speckled(np.full((400, 400), level), seed) for seed, level in ((1, 60.0), (2, 84.0)))
    scene = np.hstack([sea, land])
    cells = measure_cells(scene, GSD_M)
    west = np.indices(cells.valid.shape)[1] < cells.valid.shape[1] // 2
    assert scene_reference(cell_histograms(cells)).dark_below in (0.0, 256.0)
    told = scene_reference(cell_histograms(cells, west, ~west))
    assert 60 < told.dark_below < 84
    unlike = np.random.default_rng(0).random(west.shape) < 0.5
    assert scene_reference(cell_histograms(cells, unlike, ~unlike)).dark_below in (0.0, 256.0)
