"""Building an index: its content, and the files that it never overwrites."""

import errno
import json
from datetime import UTC, datetime

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from fusar_klip import models
from fusar_klip.errors import DatasetError, SearchError
from fusar_klip.search import build_index, search
from fusar_klip.search.index import ENTRY_SCHEMA, open_index


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_kept_tile_is_embedded_once(make_dataset, run, tmp_path):
    # More than one batch.
    brightness = [i % 256 for i in range(150)]
    dataset = make_dataset(brightness, dropped=[3, 77])
    summary = build_index(dataset, run, tmp_path / "index")
    assert (summary.tiles, summary.dim, summary.texts) == (148, 3, "v000")
    entries = pq.read_table(tmp_path / "index" / "entries.parquet")
    assert entries.schema.equals(ENTRY_SCHEMA)
    vectors = faiss.read_index(str(tmp_path / "index" / "vectors.faiss")).reconstruct_n(0, 148)
    kept = [i for i in range(150) if i not in (3, 77)]
    assert entries["tile_id"].to_pylist() == [f"t{i:03d}" for i in kept]
    angles = np.array([brightness[i] for i in kept]) / 255 * np.pi / 2
    np.testing.assert_allclose(vectors, np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1), atol=1e-6)


def test_an_entry_has_the_values_of_the_catalog(make_dataset, run, tmp_path):
    build_index(make_dataset([5]), run, tmp_path / "index")
    (entry,) = pq.read_table(tmp_path / "index" / "entries.parquet").to_pylist()
    text = entry.pop("text")
    assert entry == {
        "tile_id": "t000",
        "path": "tiles/scene/t000.tif",
        "scene_id": "scene",
        "scale": "small",
        "gsd_m": 10.0,
        "acquired": datetime(2020, 11, 7, 13, 51, tzinfo=UTC),
        "lon": 0.25,
        "lat": 10.25,
        "west": 0.0,
        "south": 10.0,
        "east": 0.5,
        "north": 10.5,
    }
    assert text.splitlines()[0] == "Terrain: the terrain of t000"
    assert len(text.splitlines()) == 8


def test_a_data_set_without_texts_can_be_indexed(make_dataset, run, tmp_path):
    summary = build_index(make_dataset([5, 6], described=False), run, tmp_path / "index")
    assert summary.texts is None
    assert [hit.text for hit in search(tmp_path / "index", "brightness 5").hits] == [None, None]


def test_the_same_input_gives_the_same_bytes(make_dataset, run, tmp_path):
    dataset = make_dataset(range(0, 250, 7))
    build_index(dataset, run, tmp_path / "one")
    build_index(dataset, run, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_existing_index_is_replaced_without_leftovers(make_dataset, run, tmp_path):
    build_index(make_dataset([1, 2, 3], name="old"), run, tmp_path / "indices" / "index")
    build_index(make_dataset([4, 5], name="new"), run, tmp_path / "indices" / "index")
    assert open_index(tmp_path / "indices" / "index").count == 2
    assert [path.name for path in (tmp_path / "indices").iterdir()] == ["index"]


def test_a_failure_leaves_the_existing_index_unchanged(make_dataset, run, tmp_path, monkeypatch):
    build_index(make_dataset([1, 2, 3], name="old"), run, tmp_path / "indices" / "index")
    before = contents(tmp_path / "indices" / "index")

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    # The manifest goes last, so both other files have been written by now.
    monkeypatch.setattr("fusar_klip.search.index.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        build_index(make_dataset([4, 5], name="new"), run, tmp_path / "indices" / "index")
    assert contents(tmp_path / "indices" / "index") == before
    assert [path.name for path in (tmp_path / "indices").iterdir()] == ["index"]


def test_an_empty_folder_is_accepted(make_dataset, run, tmp_path):
    (tmp_path / "index").mkdir()
    assert build_index(make_dataset([1]), run, tmp_path / "index").tiles == 1


@pytest.mark.parametrize("beside", ["thesis.tex", "index.json"])
def test_a_folder_with_other_files_is_refused(make_dataset, run, tmp_path, beside):
    out = tmp_path / "precious"
    out.mkdir()
    (out / beside).write_text("{}")
    with pytest.raises(SearchError, match="holds other files than an index"):
        build_index(make_dataset([1]), run, out)
    assert contents(out) == {beside: b"{}"}


def test_an_index_with_a_file_of_the_user_is_refused(make_dataset, run, tmp_path):
    dataset = make_dataset([1])
    build_index(dataset, run, tmp_path / "index")
    (tmp_path / "index" / "notes.txt").write_text("mine")
    with pytest.raises(SearchError, match="holds other files than an index"):
        build_index(dataset, run, tmp_path / "index")
    assert (tmp_path / "index" / "notes.txt").read_text() == "mine"


def test_a_file_is_refused(make_dataset, run, tmp_path):
    (tmp_path / "index").write_text("mine")
    with pytest.raises(SearchError, match="holds other files than an index"):
        build_index(make_dataset([1]), run, tmp_path / "index")


def test_a_data_set_with_nothing_kept_is_refused(make_dataset, run, tmp_path):
    with pytest.raises(SearchError, match="keeps no tile"):
        build_index(make_dataset([1, 2], dropped=[0, 1]), run, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_no_data_set_is_refused(run, tmp_path):
    with pytest.raises(DatasetError, match="no data set"):
        build_index(tmp_path / "nowhere", run, tmp_path / "index")


def test_a_diverged_checkpoint_is_refused(make_dataset, run, tmp_path, monkeypatch):
    model = type(models.load(run))
    monkeypatch.setattr(model, "embed_image", lambda _, images: np.full((len(images), 3), np.nan, np.float32))
    with pytest.raises(SearchError, match="not finite"):
        build_index(make_dataset([1]), run, tmp_path / "index")


@pytest.mark.parametrize("broken", ["vectors.faiss", "entries.parquet"])
def test_a_damaged_index_is_an_error_that_says_how_to_fix_it(make_dataset, run, tmp_path, broken):
    build_index(make_dataset([1]), run, tmp_path / "index")
    (tmp_path / "index" / broken).write_bytes(b"not what it was")
    with pytest.raises(SearchError, match=r"cannot be read .* fusar-klip index"):
        search(tmp_path / "index", "brightness 1")


def test_files_of_two_indexes_are_refused(make_dataset, run, tmp_path):
    build_index(make_dataset([1, 2], name="a"), run, tmp_path / "one")
    build_index(make_dataset([1, 2, 3], name="b"), run, tmp_path / "two")
    (tmp_path / "two" / "vectors.faiss").replace(tmp_path / "one" / "vectors.faiss")
    with pytest.raises(SearchError, match="do not belong together"):
        search(tmp_path / "one", "brightness 1")


def test_a_later_version_of_the_format_is_refused(make_dataset, run, tmp_path):
    build_index(make_dataset([1]), run, tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(SearchError, match="version 2, not 1"):
        search(tmp_path / "index", "brightness 1")
