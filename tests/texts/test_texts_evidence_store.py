"""The evidence store: measured once, the same as `measure`, and going on from where a run stopped."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from texts_synthetic import city, sea_with_ships

from fusar_klip.catalog import read_footprints, read_tiles, write_manifest, write_tiles
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.texts import DescribeSettings, describe
from fusar_klip.texts.hcot.prompts import first_request
from fusar_klip.texts.measure import evidence_store
from fusar_klip.texts.measure.evidence_store import (
    EvidenceStore,
    TileContext,
    ensure_evidence,
    read_known_places,
)
from fusar_klip.texts.measure.measure_dataset import MeasuredTile, measure_dataset

MakeDataset = Callable[..., Path]


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> Path:
    large = sea_with_ships([(80, 80, 150, 24, 0), (300, 100, 150, 24, 90)])
    large[:, 240:] = city()[:, 240:]
    return make_dataset(
        {
            "scene_L": (large, "large", None, 0, 0),
            "scene_M_sea": (large[:200, :200], "medium", "scene_L", 0, 0),
            "scene_S_sea": (large[:100, :100], "small", "scene_M_sea", 0, 0),
            "other_L": (city(seed=5), "large", None, 0, 400),
            "other_M": (city(seed=5)[:200, :200], "medium", "other_L", 0, 400),
        }
    )


def test_the_store_holds_what_measure_says(dataset: Path) -> None:
    store = ensure_evidence(dataset)
    measured = {m.tile.tile_id: m for family in measure_dataset(dataset, 1) for m in family}
    assert sorted(store.tile_ids()) == sorted(measured)
    assert len(store) == 5
    catalog = read_tiles(dataset).set_index("tile_id")
    for tile_id, known in measured.items():
        context = store.context(tile_id)
        assert context.evidence == known.evidence
        assert context.geography == known.geography
        assert (context.task, context.parent_id) == (known.task, known.parent_id)
        assert context.scale == catalog.loc[tile_id, "scale"]
        assert context.north_up
        assert [near.place.code for near in context.airports][:2] == ["KTOA", "KLGB"]
        assert len(context.airports) == len(context.ports) == 3
        assert context.ports[0] == known.geography.port
        assert context.platform is None


def test_parents_come_before_their_children(dataset: Path) -> None:
    seen: set[str | None] = {None}
    for tile_id, parent_id in ensure_evidence(dataset).graph():
        assert parent_id in seen
        seen.add(tile_id)


def test_it_measures_once(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_evidence(dataset).close()
    monkeypatch.setattr(evidence_store, "measure_dataset", None)
    assert len(ensure_evidence(dataset)) == 5


def interrupted(dataset: Path, families: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure some families and die."""

    def dies(*args: Any, **kwargs: Any) -> Iterator[list[MeasuredTile]]:
        for done, family in enumerate(measure_dataset(*args, **kwargs)):
            if done == families:
                raise KeyboardInterrupt
            yield family

    with monkeypatch.context() as patch:
        patch.setattr(evidence_store, "measure_dataset", dies)
        with pytest.raises(KeyboardInterrupt):
            ensure_evidence(dataset)


@pytest.mark.parametrize("families", [0, 1])
def test_it_goes_on_where_it_stopped(dataset: Path, families: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ensure_evidence(dataset)
    expected = {tile_id: whole.context(tile_id) for tile_id in whole.tile_ids()}
    for file in (dataset / "cache" / "evidence").iterdir():
        file.unlink()
    interrupted(dataset, families, monkeypatch)
    measured = []

    def counts(*args: Any, **kwargs: Any) -> Iterator[list[MeasuredTile]]:
        for family in measure_dataset(*args, **kwargs):
            measured.append(family[0].tile.tile_id)
            yield family

    monkeypatch.setattr(evidence_store, "measure_dataset", counts)
    store = ensure_evidence(dataset)
    assert len(measured) == 2 - families
    assert {tile_id: store.context(tile_id) for tile_id in store.tile_ids()} == expected


def test_another_catalog_is_measured_anew(dataset: Path, make_dataset: MakeDataset) -> None:
    ensure_evidence(dataset).close()
    (stale,) = (dataset / "cache" / "evidence").iterdir()
    tiles = read_footprints(dataset)
    tiles["kept"] = tiles["tile_id"] != "scene_S_sea"
    write_tiles(dataset, tiles)
    assert set(ensure_evidence(dataset).tile_ids()) == set(tiles["tile_id"]) - {"scene_S_sea"}
    (fresh,) = (dataset / "cache" / "evidence").iterdir()
    assert fresh != stale


def test_two_processes_may_measure_at_once(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second measures all while the first is half-way, and neither loses or doubles a tile."""

    def overtaken(*args: Any, **kwargs: Any) -> Iterator[list[MeasuredTile]]:
        for done, family in enumerate(measure_dataset(*args, **kwargs)):
            if done == 1:
                monkeypatch.setattr(evidence_store, "measure_dataset", measure_dataset)
                assert len(ensure_evidence(dataset)) == 5
            yield family

    monkeypatch.setattr(evidence_store, "measure_dataset", overtaken)
    store = ensure_evidence(dataset)
    assert len(store) == len(set(store.tile_ids())) == 5


def test_describing_leaves_the_store_alone(dataset: Path) -> None:
    describe(dataset, DescribeSettings(workers=1))
    assert not (dataset / "cache" / "evidence").exists()


def test_an_unknown_tile_is_a_key_error(dataset: Path) -> None:
    with pytest.raises(KeyError, match="nothing"):
        ensure_evidence(dataset).context("nothing")


def test_a_damaged_store_says_how_to_fix_it(dataset: Path) -> None:
    ensure_evidence(dataset).close()
    (file,) = (dataset / "cache" / "evidence").iterdir()
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(DatasetError, match="delete it"):
        ensure_evidence(dataset)


def test_an_unfinished_data_set_says_how_to_fix_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set"):
        ensure_evidence(tmp_path / "nowhere")


def test_a_tile_that_cannot_be_read_says_how_to_fix_it(dataset: Path) -> None:
    (dataset / "tiles" / "scene_M_sea.tif").write_bytes(b"")
    with pytest.raises(DatasetError, match="build"):
        ensure_evidence(dataset)


def test_known_places_get_to_the_tiles_near_them(dataset: Path, tmp_path: Path) -> None:
    store = ensure_evidence(dataset)
    port = store.context("scene_L").geography.port
    assert port is not None
    file = tmp_path / "known places?#.csv"
    file.write_text(
        f"code,runways,harbour size\n{port.place.code},,Large\nXXXX,1,\n{port.place.code},,deep\n",
        encoding="utf-8",
    )
    store = ensure_evidence(dataset, known_places=file)
    context = store.context("scene_L")
    assert dict(context.known_places) == {port.place.code: ("harbour size: Large", "harbour size: deep")}
    assert "harbour size: Large" in first_request(context, "single", None).user


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"icao,runways\nKLAX,4\n", "no column code"),
        (b"code,runways\nKLAX,4,3\n", "line 2"),
        (b"\xff\xfe\x00", "UTF-8"),
        (None, "CSV file"),
    ],
)
def test_a_wrong_file_of_known_places_says_how_to_fix_it(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "places.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        read_known_places(file)


def test_the_folder_may_have_any_name(dataset: Path) -> None:
    odd = dataset.with_name("data set?mode=rw#100%")
    dataset.rename(odd)
    assert isinstance(ensure_evidence(odd), EvidenceStore)
    assert len(ensure_evidence(odd)) == 5


def test_it_is_read_only(dataset: Path) -> None:
    store = ensure_evidence(dataset)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store._connection.execute("DELETE FROM tiles")


def test_a_manifest_of_another_version_does_not_matter(dataset: Path) -> None:
    ensure_evidence(dataset).close()
    write_manifest(dataset, {"version": 1, "further": True})
    assert len(ensure_evidence(dataset)) == 5


def test_the_format_changes_with_the_fields() -> None:
    """Other fields need another file: change `CONTEXT_FORMAT` together with this digest."""

    def without_descriptions(schema: object) -> object:
        if isinstance(schema, dict):
            return {
                key: without_descriptions(value)
                for key, value in schema.items()
                if key != "description" or not isinstance(value, str)
            }
        return [without_descriptions(each) for each in schema] if isinstance(schema, list) else schema

    schema = without_descriptions(TypeAdapter(TileContext).json_schema())
    digest = hashlib.sha256(json.dumps(schema).encode()).hexdigest()[:8]
    assert (evidence_store.CONTEXT_FORMAT, digest) == ("b13abfdf", "296405d8")
