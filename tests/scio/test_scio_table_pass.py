"""`refine` on tables of image paths and captions, and the verb on the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scio_networks import write_run
from typer.testing import CliRunner

from fusar_klip import catalog
from fusar_klip.cli import app
from fusar_klip.errors import DatasetError, FusarKlipError, SettingsError
from fusar_klip.models import Klip, load
from fusar_klip.scio import RefineSummary, ScioSettings, TableSummary, refine_table
from fusar_klip.scio.refine import refine, summary_text
from fusar_klip.scio.scoring import Negatives
from fusar_klip.scio.sentences import join_sentences, split_sentences

CAPTIONS = [
    "3 ships at a quay. A runway in a field, 80.5 m long. Bright water.",
    "",
    "Water. North of the quay. 5 ships",
    "One ship only",
    "Bright water of the tile. A field. A row of ships. Approx. 40 m long.",
]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), seed=7)


@pytest.fixture(scope="session")
def klip(run: Path) -> Klip:
    return load(run)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Five rows: one without a caption, one whose image is missing."""
    rng = np.random.default_rng(0)
    for name in "abde":
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    rows = {
        "image": [f"{name}.png" for name in "abcde"],
        "n": ["1", "NA", "3", "4", "5"],
        "caption": CAPTIONS,
    }
    pd.DataFrame(rows).to_csv(tmp_path / "captions.csv", index=False)
    return tmp_path / "captions.csv"


def read(path: Path | str) -> pd.DataFrame:
    return pd.read_csv(
        path, dtype={"n": str, "image": str}, keep_default_na=False, na_values={"delta_itc": [""]}
    )


def refined(table: Path, klip: Klip, **options: object) -> TableSummary:
    return refine_table(table, klip, ScioSettings(max_new_tokens=8, images_per_block=2), **options)  # type: ignore[arg-type]


def test_kept_captions_and_decisions(table: Path, klip: Klip) -> None:
    summary = refined(table, klip)
    assert (summary.rows, summary.judged, summary.empty, summary.unreadable) == (5, 3, 1, 1)
    assert summary.sentences == 3 + 1 + 4 == summary.kept + summary.noise + summary.reconstructed
    assert summary.noise > 0
    (skipped,) = summary.skipped
    assert (skipped["row"], skipped["image"]) == (2, "c.png")
    assert "no image at" in skipped["reason"]
    assert Path(summary.out).name == "captions.refined.csv"
    before, after, decisions = read(table), read(summary.out), read(summary.decisions)
    assert list(after.columns) == list(before.columns)
    assert after[["image", "n"]].equals(before[["image", "n"]])
    for row, caption in enumerate(CAPTIONS):
        lines = decisions[decisions["row"] == row]
        if row in (1, 2):
            assert lines["verdict"].tolist() == ["skipped"]
            assert after["caption"][row] == caption
            continue
        spelled = lines["previous"].where(lines["previous"] != "", lines["text"])
        assert spelled.tolist() == split_sentences(caption)
        assert after["caption"][row] == " ".join(lines.loc[lines["verdict"] != "noise", "text"])
    # A sentence that stands alone is left.
    assert decisions[decisions["row"] == 3]["verdict"].tolist() == ["kept"]
    assert read(table).equals(before)


def test_a_repeated_pass_gives_the_same_bytes(table: Path, klip: Klip) -> None:
    summary = refined(table, klip)
    first = [Path(path).read_bytes() for path in (summary.out, summary.decisions)]
    assert refined(table, klip) == summary
    assert [Path(path).read_bytes() for path in (summary.out, summary.decisions)] == first


def test_blocks_and_formats_agree(table: Path, klip: Klip, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = refined(table, klip)
    expected = read(whole.out)["caption"].tolist(), read(whole.decisions)["verdict"].tolist()
    monkeypatch.setattr("fusar_klip.caption_table._ROWS_PER_BLOCK", 2)
    frame = read(table)
    frame.to_csv(table.with_name("t.tsv"), sep="\t", index=False)
    frame.assign(n=[1.5, 2, 3, 4, None]).to_parquet(table.with_name("p.parquet"))
    tsv = refined(table.with_name("t.tsv"), klip)
    assert pd.read_csv(tsv.out, sep="\t", keep_default_na=False)["caption"].tolist() == expected[0]
    parquet = refined(table.with_name("p.parquet"), klip)
    assert pd.read_parquet(parquet.out)["caption"].tolist() == expected[0]
    assert pd.read_parquet(parquet.out)["n"].dtype == np.float64
    assert pd.read_parquet(parquet.decisions)["verdict"].tolist() == expected[1]


def test_a_csv_with_tabs_keeps_its_separator(table: Path, klip: Klip) -> None:
    expected = read(refined(table, klip).out)
    path = table.with_name("tabs.csv")
    read(table).to_csv(path, sep="\t", index=False)
    summary = refined(path, klip)
    assert pd.read_csv(summary.out, sep="\t", dtype=str, keep_default_na=False).equals(expected.astype(str))
    assert Path(summary.decisions).read_text().startswith("row\timage\t")


def test_a_parquet_with_a_pandas_index_keeps_all_columns(table: Path, klip: Klip) -> None:
    """The index is a column of the file; a large integer beside a null does not become a float."""
    frame = read(table).drop(columns="n")
    frame["photo"] = pd.array([2**60 + 1, None, 3, 4, 5], "Int64")
    path = table.with_name("cut.parquet")
    frame[[True, True, False, True, True]].to_parquet(path)
    before = pq.read_table(path)
    assert "__index_level_0__" in before.column_names
    after = pq.read_table(refined(path, klip).out)
    assert after.schema.equals(before.schema, check_metadata=True)
    assert after.drop_columns("caption").equals(before.drop_columns("caption"))
    assert pd.read_parquet(path.with_name("cut.refined.parquet")).index.tolist() == [0, 1, 3, 4]


def test_lists_of_sentences_stay_lists(table: Path, klip: Klip) -> None:
    frame = read(table).drop(columns="n")
    frame["caption"] = [split_sentences(caption) for caption in frame["caption"]]
    path = table.with_name("lists.parquet")
    frame.rename(columns={"caption": "words", "image": "shown"}).to_parquet(path)
    with pytest.raises(
        SettingsError, match=r"no column of image paths \(there: shown, words\).*--image-column"
    ):
        refined(path, klip)
    summary = refined(path, klip, image_column="shown", caption_column="words")
    after = pd.read_parquet(summary.out)["words"]
    assert [join_sentences(list(sentences)) for sentences in after] == read(refined(table, klip).out)[
        "caption"
    ].tolist()


def test_rows_of_one_image_are_not_negatives_of_each_other(table: Path, klip: Klip) -> None:
    frame = read(table).iloc[[0, 0, 0]].assign(caption=[CAPTIONS[0], CAPTIONS[2], CAPTIONS[4]])
    frame.to_csv(table.with_name("same.csv"), index=False)
    assert refined(table.with_name("same.csv"), klip).noise == 0


def test_only_the_first_sentences_of_a_long_caption_are_judged(table: Path, klip: Klip) -> None:
    frame = read(table).assign(caption="Bright water. " * 40)
    frame.to_csv(table.with_name("long.csv"), index=False)
    summary = refined(table.with_name("long.csv"), klip)
    assert summary.sentences == 4 * (64 // 4)
    decisions = read(summary.decisions)
    assert (decisions["verdict"] == "original").sum() == 4 * (40 - 64 // 4)


@pytest.mark.parametrize(
    ("content", "options", "complaint"),
    [
        ("image,words\na.png,x\n", {}, "no column of captions .*--caption-column"),
        ("image,caption\na.png,x\n", {"image_column": "img"}, 'no column "img"'),
        ("image,text\na.png,x\n", {"caption_column": "image"}, "cannot hold both image paths and captions"),
        ("image,caption\n", {}, "has no rows"),
        ("", {}, "cannot be read"),
        ('image,caption\na.png,"x\n', {}, "cannot be read"),
        ("image,caption\na.png,x, y\n", {}, "more fields than its header: quote captions"),
        ("image,caption\nzz.png,x\n,y\n", {}, "no row with a caption and a readable image: .*--images"),
        ("image,caption\na.png,x\n", {"images": Path("nowhere")}, "no folder at nowhere"),
        ("image,caption\na.png,x\n", {"out": Path("t.parquet")}, "must be another file"),
    ],
)
def test_errors_of_a_table(
    table: Path, klip: Klip, content: str, options: dict[str, object], complaint: str
) -> None:
    path = table.with_name("t.csv")
    path.write_text(content)
    with pytest.raises((SettingsError, DatasetError), match=complaint):
        refined(path, klip, **options)
    assert not list(table.parent.glob("*refined*"))


def test_a_column_of_images_is_not_a_column_of_paths(tmp_path: Path, klip: Klip) -> None:
    """As `datasets` writes them."""
    picture = {"bytes": b"a picture", "path": None}
    pq.write_table(pa.table({"image": [picture], "caption": ["A ship."]}), tmp_path / "t.parquet")
    with pytest.raises(SettingsError, match=r'"image" of .* holds struct.*save its pictures as files'):
        refined(tmp_path / "t.parquet", klip)
    names = ["image", "caption", "image"]
    columns = [pa.array(["a.png"]), pa.array(["A ship."]), pa.array(["b.png"])]
    pq.write_table(pa.Table.from_arrays(columns, names), tmp_path / "t.parquet")
    with pytest.raises(SettingsError, match='two columns "image"'):
        refined(tmp_path / "t.parquet", klip)


@pytest.mark.parametrize(("rows", "taken"), [(3, 3), (4, 2), (5, 3), (7, 3), (9, 3)])
def test_number_of_negatives(
    table: Path, klip: Klip, monkeypatch: pytest.MonkeyPatch, rows: int, taken: int
) -> None:
    encode, seen = Negatives.encode, []

    def counted(*arguments: Any) -> Negatives:
        seen.append(encode(*arguments))
        return seen[-1]

    monkeypatch.setattr(Negatives, "encode", counted)
    read(table).iloc[[0] * rows].to_csv(table.with_name("many.csv"), index=False)
    refine_table(table.with_name("many.csv"), klip, ScioSettings(reconstruct=False, references=3))
    assert len(seen[0].ids_q) == taken


@pytest.mark.parametrize(
    ("kept", "noise", "reconstructed", "doubted"), [(2, 1, 0, 0), (2, 1, 1, 1), (0, 0, 0, 0)]
)
def test_warning_about_much_noise(kept: int, noise: int, reconstructed: int, doubted: int) -> None:
    summary = RefineSummary("ds", "v000", "v001", 1, kept + noise + reconstructed, kept, noise, reconstructed)
    printed = summary_text(summary)
    assert printed.startswith(f"{summary.segments} segments of 1 tiles: {kept} kept, {noise} noise")
    assert printed.count("More than a third is called noise") == doubted


def test_the_table_is_never_overwritten(table: Path, klip: Klip) -> None:
    for out in (table, table.with_name("x.csv")):
        if out != table:
            shutil.copy(table, table.with_name("x.decisions.csv"))
        source = table if out == table else table.with_name("x.decisions.csv")
        before = source.read_bytes()
        with pytest.raises(SettingsError):
            refined(source, klip, out=out)
        assert source.read_bytes() == before


def test_sentences() -> None:
    assert split_sentences("A ship. 0.5 km of quay! Why?  No.") == [
        "A ship.",
        "0.5 km of quay!",
        "Why?",
        "No.",
    ]
    assert split_sentences("about ca. 3 m, e.g. a J. Doe pier.\nnext") == [
        "about ca. 3 m, e.g. a J. Doe pier.",
        "next",
    ]
    assert split_sentences("a plane is parked . there are trees .") == [
        "a plane is parked .",
        "there are trees .",
    ]
    assert split_sentences(" \n ") == []
    for caption in (*CAPTIONS, "x ... y", "...", "a.b.c"):
        assert join_sentences(split_sentences(caption)).split() == caption.split()


def verb(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["refine", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_the_verb_on_a_data_set(blobs: Path, run: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(blobs, tmp_path / "dataset")
    options = ("--checkpoint", run, "--set", "max_new_tokens=8")
    printed = json.loads(verb(dataset, *options, "--json"))
    assert (printed["parent"], printed["version"], printed["tiles"], printed["segments"]) == (
        "v000",
        "v001",
        60,
        240,
    )
    # The same command again finds what it made; another setting starts from the described texts again.
    assert json.loads(verb(dataset, *options, "--json")) == printed
    assert "v002 in" in verb(dataset, *options, "--set", "itm=set")
    assert catalog.read_text_metadata(dataset, "v002")["parent"] == "v000"
    further = verb(dataset, *options, "--texts", "v001", "--set", "screen=false")
    assert "0 kept" in further
    assert catalog.read_text_metadata(dataset, "v003")["parent"] == "v001"


def test_the_verb_on_a_table(table: Path, run: Path) -> None:
    printed = verb(table, "--checkpoint", run, "--out", table.with_name("new.csv"))
    assert "8 sentences of 3 rows" in printed
    assert "1 rows whose image cannot be read" in printed
    assert read(table.with_name("new.csv"))["image"].tolist() == read(table)["image"].tolist()
    assert table.with_name("new.decisions.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("nowhere",), "no data set at nowhere"),
        (("nowhere.csv",), "no such table: nowhere.csv"),
        (("table.csv", "--texts", "v000"), "is a table"),
        (("{dataset}", "--out", "x.csv"), "--out: only for tables"),
        (("{dataset}", "--texts", "v009"), "no texts v009"),
        (("{dataset}", "--set", "screen=false", "--set", "reconstruct=false"), "both false"),
        (("{dataset}", "--set", "itm=sgement"), "itm"),
        (("{dataset}", "--set", "max_new_tokens=513"), "max_new_tokens.*512"),
        (("{dataset}", "--set", "scren=false"), 'did you mean "screen"'),
    ],
)
def test_errors_of_the_verb(blobs: Path, run: Path, arguments: tuple[str, ...], complaint: str) -> None:
    given = [argument.format(dataset=blobs) for argument in arguments]
    with pytest.raises(FusarKlipError, match=complaint):
        verb(*given, "--checkpoint", run)


def test_no_checkpoint(blobs: Path, tmp_path: Path) -> None:
    with pytest.raises(FusarKlipError, match="no checkpoint at"):
        refine(blobs, str(tmp_path / "none"), ScioSettings())
