"""Caption tables and caption files: columns by precedence, kinds, encodings, and errors of one sentence."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fusar_klip.caption_table import (
    CAPTION_COLUMNS,
    IMAGE_ID_COLUMNS,
    IMAGE_PATH_COLUMNS,
    TABLE_CAPTION_COLUMNS,
    find_column,
    open_caption_table,
    read_captions,
)
from fusar_klip.errors import SettingsError


def write(path: Path, frame: pd.DataFrame) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",", encoding="utf-8-sig")
    return path


def test_both_readers_know_the_same_caption_columns() -> None:
    assert set(CAPTION_COLUMNS) == set(TABLE_CAPTION_COLUMNS)
    # An id, a key and a URL identify an image, but are no paths that can be opened.
    assert set(IMAGE_ID_COLUMNS) - set(IMAGE_PATH_COLUMNS) == {"id", "key", "url"}
    assert set(IMAGE_PATH_COLUMNS) <= set(IMAGE_ID_COLUMNS)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_both_readers_give_the_same_rows(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame(
        {"Image": ["a.png", "b.png"], "n": ["1", "NA"], "Caption": ["Zwei Möwen, NA", "A ship"]}
    )
    path = write(tmp_path / f"t{suffix}", frame)
    assert list(read_captions(path)) == [("a.png", ["Zwei Möwen, NA"]), ("b.png", ["A ship"])]
    table = open_caption_table(path)
    assert (table.image_column, table.caption_column, table.image_folder) == ("Image", "Caption", tmp_path)
    (block,) = table.blocks()
    assert block.equals(frame)
    assert table.schema.names == list(frame.columns)


@pytest.mark.parametrize(
    ("columns", "image_id", "path", "caption", "table_caption"),
    [
        # Each reader keeps the precedence that it had before they knew the same names.
        (["image_path", "filename", "caption"], "filename", "image_path", "caption", "caption"),
        (["image_id", "file_name", "texts", "title"], "image_id", "file_name", "texts", "title"),
        (["img", "raw", "sentences"], "img", "img", "sentences", "sentences"),
        (["img", "raw", "description"], "img", "img", "raw", "description"),
        # Names that one of them did not know.
        (["file_path", "raw"], "file_path", "file_path", "raw", "raw"),
        (["path", "texts"], "path", "path", "texts", "texts"),
        (["image_id", "text"], "image_id", "image_id", "text", "text"),
    ],
)
def test_precedence(
    tmp_path: Path, columns: list[str], image_id: str, path: str, caption: str, table_caption: str
) -> None:
    values = {name: [name] for name in columns}
    file = write(tmp_path / "t.csv", pd.DataFrame(values))
    assert list(read_captions(file)) == [(image_id, [caption])]
    table = open_caption_table(file)
    assert (table.image_column, table.caption_column) == (path, table_caption)


def test_a_csv_with_tabs_is_read_by_both(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image\tcaption\na.png\tA ship, at sea\n")
    assert list(read_captions(path)) == [("a.png", ["A ship, at sea"])]
    table = open_caption_table(path)
    assert table.separator == "\t"
    (block,) = table.blocks()
    assert block.to_dict("list") == {"image": ["a.png"], "caption": ["A ship, at sea"]}


def test_blocks_hold_all_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusar_klip.caption_table._ROWS_PER_BLOCK", 3)
    frame = pd.DataFrame(
        {"image": [f"{i}.png" for i in range(8)], "caption": [f"{i} ships" for i in range(8)]}
    )
    for suffix in (".csv", ".parquet"):
        path = write(tmp_path / f"t{suffix}", frame)
        blocks = list(open_caption_table(path).blocks())
        assert [len(block) for block in blocks] == [3, 3, 2]
        assert pd.concat(blocks, ignore_index=True).equals(frame)
        assert list(read_captions(path)) == [(f"{i}.png", [f"{i} ships"]) for i in range(8)]


def test_a_stored_index_is_a_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"caption": ["A ship", "A quay"]}, index=pd.Index(["a.png", "b.png"], name="image"))
    path = write(tmp_path / "t.parquet", frame)
    assert pq.read_schema(path).names == ["caption", "image"]
    assert list(read_captions(path)) == [("a.png", ["A ship"]), ("b.png", ["A quay"])]
    assert open_caption_table(path).image_column == "image"


def test_integers_beside_a_missing_one_stay_integers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image_id": pd.array([7, None], "Int64"), "caption": ["A ship", "A quay"]})
    path = write(tmp_path / "t.parquet", frame)
    assert list(read_captions(path)) == [("7", ["A ship"]), (None, ["A quay"])]


def test_a_named_column_has_precedence(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": ["a.png"], "caption": ["A ship"], "words": ["A tug"], "file": ["b.png"]})
    path = write(tmp_path / "t.csv", frame)
    assert list(read_captions(path, "words")) == [("a.png", ["A tug"])]
    table = open_caption_table(path, image_column="file", caption_column="words")
    assert (table.image_column, table.caption_column) == ("file", "words")


def test_records_of_json(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(
        json.dumps([{"path": "a.png", "sentences": [{"raw": "A ship"}, "A tug", None]}, 3, "A quay"])
    )
    assert list(read_captions(path)) == [("a.png", ["A ship", "A tug"]), (None, ["A quay"])]


def test_find_column_ignores_case() -> None:
    assert find_column(["Text", "CAPTION"], CAPTION_COLUMNS) == "CAPTION"
    assert find_column(["words"], CAPTION_COLUMNS) is None


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("t.csv", "", r"t.csv cannot be read \(.*\): give UTF-8 csv"),
        ("t.csv", "a,b\n1,2\n", r"no column of image paths \(there: a, b\): name it with --image-column"),
        (
            "t.csv",
            "image,b\n1,2\n",
            r"no column of captions \(there: image, b\): name it with --caption-column",
        ),
        ("t.csv", "image,caption\na.png,A ship, at sea\n", "quote captions that hold commas"),
        ("t.parquet", "x", r"cannot be read \(.*\): repair or replace it"),
        ("t.json", "[]", "neither a data set nor a table: give one of .csv, .tsv, .parquet"),
    ],
)
def test_a_table_that_cannot_be_opened(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(SettingsError, match=complaint) as raised:
        open_caption_table(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("t.csv", b"", r"t.csv cannot be read as captions \(.*\): give UTF-8 csv"),
        ("t.csv", b"a,b\n1,2\n", r"no column of captions \(a, b\): name it with --column"),
        ("t.csv", b"caption\ncaf\xe9\n", "give UTF-8 csv"),
        ("t.jsonl", b"{", "give UTF-8 jsonl"),
        ("t.txt", b"caf\xe9", "give UTF-8 txt"),
    ],
)
def test_a_file_without_captions(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=complaint) as raised:
        list(read_captions(path))
    assert "\n" not in str(raised.value)
