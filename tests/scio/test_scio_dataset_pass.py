"""A pass over a data set: the rows of the new text version, resuming and repeating."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from scio_networks import make_network

from fusar_klip import catalog
from fusar_klip.errors import DatasetError
from fusar_klip.models import KlipNetwork, Preprocess, Tokenizer
from fusar_klip.scio import Negatives, RefineSummary, ScioSettings, dataset_pass, refine_texts

WriteBlobs = Callable[[Path, int], Path]


@pytest.fixture
def dataset(blobs: Path, tmp_path: Path) -> Path:
    return shutil.copytree(blobs, tmp_path / "dataset")


def refine(
    dataset: Path, version: str = "v000", *, seed: int = 0, splits: list[str] | None = None, **changes: object
) -> RefineSummary:
    network, tokenizer = make_network(seed)
    return refine_texts(
        dataset,
        version,
        network,
        tokenizer,
        Preprocess(32),
        ScioSettings.model_validate({"images_per_block": 8, "max_new_tokens": 8} | changes),
        maker={"verb": "test"},
        splits=splits,
    )


def rows_of(dataset: Path, version: str) -> pd.DataFrame:
    return catalog.read_texts(dataset, version, in_use=False)


def test_decisions_become_a_new_version(dataset: Path) -> None:
    summary = refine(dataset)
    assert (summary.parent, summary.version, summary.tiles, summary.segments) == ("v000", "v001", 60, 240)
    before, after = rows_of(dataset, "v000"), rows_of(dataset, "v001")
    assert after[["tile_id", "field", "text"]].equals(before[["tile_id", "field", "text"]])
    assert after["verdict"].value_counts().to_dict() == {"kept": summary.kept, "noise": summary.noise}
    assert summary.noise > 0
    noise = after[after["verdict"] == "noise"]
    assert (noise["delta_itc"] < 0).all()
    assert (noise["delta_itm"] > 0).all()
    assert after["delta_itc"].notna().all()
    # No text loses all it says.
    assert (after[after["verdict"] == "kept"].groupby("tile_id").size() > 0).sum() == 60
    # A decoder that knows nothing finds no end, and what it writes is not used.
    assert summary.refused.keys() <= {"no end", "repeats itself", "empty", "ITC", "ITM", "unknown words"}
    assert sum(summary.refused.values()) + summary.reconstructed >= summary.noise
    about = catalog.read_text_metadata(dataset, "v001")
    assert about["parent"] == "v000"
    assert about["maker"]["verb"] == "test"
    assert about["maker"]["scio"]["itm"] == "segment"


def test_an_accepted_reconstruction_replaces_the_text(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(network: KlipNetwork, ids_bl: object, *_: object, **__: object) -> list[list[int]]:
        tokenizer = make_network(0)[1]
        return [tokenizer.segments(["80.5 m, north"], 30)[0] + [tokenizer.sep_id]] * len(ids_bl)  # type: ignore[arg-type]

    monkeypatch.setattr(KlipNetwork, "generate", write)
    summary = refine(dataset, seed=3)
    after, before = rows_of(dataset, "v001"), rows_of(dataset, "v000")
    new = after[after["verdict"] == "reconstructed"]
    assert len(new) == summary.reconstructed > 0
    assert set(new["text"]) == {"80.5 m, north"}
    assert (new["previous"] == before.loc[new.index, "text"]).all()
    assert (new["delta_itc"] < 0).all()
    assert (new["delta_itm"] > 0).all()
    assert new["itm_score"].between(0, 1).all()
    assert new["source"].str.fullmatch(r"scio/[0-9a-f]{12}").all()
    assert (new["prompt_version"] == "scio-2").all()


def test_screening_and_reconstruction_as_separate_passes(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screened = refine(dataset, reconstruct=False)
    assert screened.refused == {}
    rebuilt = refine(dataset, screened.version, screen=False)
    first, second = rows_of(dataset, screened.version), rows_of(dataset, rebuilt.version)
    stays = second["verdict"] != "reconstructed"
    assert second[stays].equals(first[stays])
    assert sum(rebuilt.refused.values()) + rebuilt.reconstructed == screened.noise
    # Both at once is the same.
    both = rows_of(dataset, refine(dataset).version)
    assert both.drop(columns=["source"]).equals(second.drop(columns=["source"]))


def test_the_same_pass_runs_once(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = refine(dataset)
    monkeypatch.setattr(dataset_pass, "refine_batch", None)
    assert refine(dataset) == summary
    monkeypatch.undo()
    assert refine(dataset, seed=1).version == "v002"
    assert refine(dataset, itm="set").version == "v003"
    # Verdicts of another method are not taken for those of this one.
    monkeypatch.setattr(dataset_pass, "PROMPT_VERSION", "scio-of-another-day")
    assert refine(dataset).version == "v004"


def test_an_interrupted_pass_resumes(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_pass, "_TILES_PER_PART", 16)
    work, calls = dataset_pass.refine_batch, list[int]()

    def dying(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return work(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset_pass, "refine_batch", dying)
    with pytest.raises(KeyboardInterrupt):
        refine(dataset)
    assert catalog.text_versions(dataset) == ["v000"]
    (folder,) = (dataset / "texts").glob(".scio-*")
    assert len(list(folder.glob("*.parquet"))) == 2
    refine(dataset)
    # Two parts of two blocks were there, and 60 tiles are 8 blocks.
    assert len(calls) == 5 + 4
    assert not folder.exists()
    resumed = (dataset / "texts" / "v001.parquet").read_bytes()
    (dataset / "texts" / "v001.parquet").unlink()
    refine(dataset)
    assert (dataset / "texts" / "v001.parquet").read_bytes() == resumed


def test_a_pass_resumes_after_a_full_disk(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_pass, "_TILES_PER_PART", 16)
    write, calls = dataset_pass.pq.write_table, list[Path]()

    def full(table: object, path: Path, **options: object) -> None:
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(table, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(dataset_pass.pq, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            refine(dataset)
        assert catalog.text_versions(dataset) == ["v000"]
        (folder,) = (dataset / "texts").glob(".scio-*")
        assert sorted(path.name for path in folder.iterdir()) == [
            "part_000000.parquet",
            "part_000001.parquet",
        ]
        refine(dataset)
    assert len(calls) == 5
    assert catalog.text_versions(dataset) == ["v000", "v001"]


def test_a_pass_interrupted_after_its_version_is_cleaned_up(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataset_pass.shutil, "rmtree", dying)
        with pytest.raises(KeyboardInterrupt):
            refine(dataset)
    assert list((dataset / "texts").glob(".scio-*"))
    assert refine(dataset).version == "v001"
    assert not list((dataset / "texts").glob(".scio-*"))


def test_the_rows_of_a_tile_are_in_one_part(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_pass, "_TILES_PER_PART", 7)
    parts = list(dataset_pass._parts(dataset, "v000"))
    assert [part["tile_id"].nunique() for part in parts] == [7] * 8 + [4]
    assert pd.concat(parts, ignore_index=True).equals(rows_of(dataset, "v000"))


def test_other_splits_stay_unchanged(dataset: Path) -> None:
    summary = refine(dataset, splits=["val"])
    assert summary.tiles == 10
    assert summary.left == {"other split, or not kept": 50}
    judged = rows_of(dataset, summary.version).query("verdict != 'original'")["tile_id"]
    tiles = catalog.read_tiles(dataset, ["tile_id", "split"])
    assert set(judged) == set(tiles.loc[tiles["split"] == "val", "tile_id"])


def test_a_damaged_tile_stays_unchanged_and_is_counted(dataset: Path) -> None:
    (dataset / "tiles" / "scene" / "tile0003.tif").write_bytes(b"no picture")
    shutil.rmtree(dataset / "cache", ignore_errors=True)
    summary = refine(dataset)
    assert (summary.tiles, summary.left) == (59, {"unreadable": 1})
    assert set(rows_of(dataset, "v001").query("tile_id == 'tile0003'")["verdict"]) == {"original"}


def test_the_network_stays_unchanged(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, tokenizer = make_network(0)
    no_negatives = Negatives.encode(network.eval(), tokenizer, [])
    monkeypatch.setattr(dataset_pass, "_sample_negatives", lambda *_: no_negatives)
    network.train()
    summary = refine_texts(dataset, "v000", network, tokenizer, Preprocess(32), ScioSettings(), maker={})
    assert network.training
    # Without negatives nothing competes with T, and no segment can be in the way.
    assert (summary.kept, summary.noise) == (240, 0)


def test_a_single_image_is_kept(write_blobs: WriteBlobs, tmp_path: Path) -> None:
    summary = refine(write_blobs(tmp_path / "one", 1))
    assert (summary.tiles, summary.noise) == (1, 0)


def test_nothing_to_judge_is_an_error(dataset: Path) -> None:
    with pytest.raises(DatasetError, match="no text of v000 to judge"):
        refine(dataset, splits=["test"])
    assert catalog.text_versions(dataset) == ["v000"]
    with pytest.raises(DatasetError, match="no texts v007"):
        refine(dataset, "v007")


def test_empty_and_long_segments(dataset: Path) -> None:
    texts = rows_of(dataset, "v000")
    texts.loc[::4, "text"] = ""
    texts.loc[1::4, "text"] = "bright water north of the quay " * 60
    catalog.write_texts(dataset, "v001", texts, parent="v000", maker={"verb": "test"})
    summary = refine(dataset, "v001")
    assert (summary.version, summary.segments) == ("v002", 240)


def test_the_parts_hold_all_splits(dataset: Path) -> None:
    def ids(parts: Iterator[pd.DataFrame]) -> list[str]:
        return [tile_id for part in parts for tile_id in part["tile_id"].unique()]

    assert ids(dataset_pass._parts(dataset, "v000")) == sorted(
        catalog.read_tiles(dataset, ["tile_id"])["tile_id"]
    )


def test_segments_are_tokenized_as_in_training(dataset: Path) -> None:
    """Each segment begins with its field, as in pretraining."""
    rows = rows_of(dataset, "v000").head(4)
    tokenizer: Tokenizer = make_network(0)[1]
    text = dataset_pass._segmented_text(rows, tokenizer, 64)
    (spelled,) = catalog.segments_by_tile(rows).values()
    assert text.segments == tokenizer.segments(spelled, 64)
