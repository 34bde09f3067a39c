"""Statistics of texts: figures counted by hand, every kind of caption file, and the report."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fusar_klip.catalog import FIELDS, TEXT_SCHEMA, Task, read_texts, read_tiles, write_texts
from fusar_klip.cli import app
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.texts.inspection import image_text_similarity as closeness
from fusar_klip.texts.inspection import inspect, statistics
from fusar_klip.texts.inspection.caption_sources import ImageCaptions, dataset_sources, file_source
from fusar_klip.texts.inspection.scio_decisions import read_scio_decisions

MakeDataset = Callable[..., Path]
HOSTILE = '<script>window.hacked = 1</script> & "ü"'
CAPTIONS = {"a": ["Two ships at sea.", "two ships, anchored"], "b": ["A 0.5 km north-east quay"]}


def add_texts(
    dataset: Path, tasks: dict[str, Task], version: str, say: Callable[[str, str], str], **maker: str
) -> None:
    rows = [
        {"tile_id": tile_id, "task": task, "field": field, "text": say(tile_id, field)}
        for tile_id, task in tasks.items()
        for field in FIELDS[task]
    ]
    texts = pd.DataFrame(rows).assign(source="test", prompt_version="1", verdict="original", previous=None)
    texts = texts.assign(delta_itc=np.nan, delta_itm=np.nan, itm_score=np.nan)[TEXT_SCHEMA.names]
    texts.loc[texts["field"] == "Road", "verdict"] = "noise"
    write_texts(dataset, version, texts, parent=None, maker=maker)


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> Path:
    """48 tiles, bright and dark ones, with texts without and with HCoT; only the latter tell them apart."""
    rng = np.random.default_rng(0)
    tasks: dict[str, Task] = {f"tile_{i:02d}": "terrain" if i % 3 else "marine_target" for i in range(48)}
    tiles = {
        tile_id: (rng.integers(1, 250 if i % 2 else 60, (64, 64), dtype=np.uint8), "small", None, 0, 0)
        for i, tile_id in enumerate(tasks)
    }
    dataset = make_dataset(tiles)
    # Tiles of one ground never count as neighbours.
    path = dataset / "tiles.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("ground_id")
    pq.write_table(table.set_column(place, table.schema.field(place), [table["tile_id"]]), path)
    bright = {tile_id: i % 2 for i, tile_id in enumerate(tasks)}
    add_texts(
        dataset, tasks, "v000", lambda _, field: f"{field} of the same SAR image.", mode="plain", provider="p"
    )
    add_texts(
        dataset,
        tasks,
        "v001",
        lambda tile_id, field: (
            f"{field}: {'bright built-up' if bright[tile_id] else 'dark calm'} {HOSTILE} {tile_id}"
        ),
        mode="chain",
        provider="openai",
        model="a-model",
    )
    return dataset


def write_kinds(folder: Path) -> list[Path]:
    pairs = [(image, caption) for image, captions in CAPTIONS.items() for caption in captions]
    frame = pd.DataFrame(pairs, columns=["filename", "caption"])
    frame.to_csv(folder / "comma.csv", index=False)
    frame.to_csv(folder / "tab.csv", index=False, sep="\t")
    frame.to_csv(folder / "tab.tsv", index=False, sep="\t")
    frame.to_parquet(folder / "rows.parquet")
    pd.DataFrame({"image": list(CAPTIONS), "captions": list(CAPTIONS.values())}).to_parquet(
        folder / "lists.parquet"
    )
    records = [{"image": image, "caption": caption} for image, caption in pairs]
    numbers = {"a": 1, "b": 2}
    coco = {
        "images": [{"id": n, "file_name": image} for image, n in numbers.items()],
        "annotations": [{"id": i, "image_id": numbers[k], "caption": c} for i, (k, c) in enumerate(pairs)],
    }
    rsicd = {
        "images": [
            {"filename": k, "sentences": [{"raw": c} for c in captions]} for k, captions in CAPTIONS.items()
        ]
    }
    talk = [
        {
            "image": k,
            "conversations": [
                t for c in captions for t in ({"from": "human", "value": "?"}, {"from": "gpt", "value": c})
            ],
        }
        for k, captions in CAPTIONS.items()
    ]
    for name, content in {
        "list": records,
        "coco": coco,
        "rsicd": rsicd,
        "talk": talk,
        "dict": {"x": records},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "lines.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_every_kind_of_caption_file_gives_the_same(tmp_path: Path) -> None:
    files = write_kinds(tmp_path)
    assert len(files) == 11
    for file in files:
        found = sorted(tuple(caption for _, caption in text.captions) for text in file_source(file).read())
        assert found == sorted(map(tuple, CAPTIONS.values())), file.name


def test_the_columns_that_refine_knows_are_known(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,caption\na.png,A ship.\na.png,A quay.\n")
    (text,) = file_source(tmp_path / "t.csv").read()
    assert text.image_id == "a.png"
    assert text.captions == ((None, "A ship."), (None, "A quay."))


def test_plain_text_is_a_caption_a_line(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("Two ships.\n\nA quay.\n", encoding="utf-8-sig")
    assert [text.captions for text in file_source(path).read()] == [
        ((None, "Two ships."),),
        ((None, "A quay."),),
    ]


def test_the_figures_are_counted_right(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text(
        json.dumps(
            [{"image": k, "captions": v} for k, v in CAPTIONS.items()]
            + [{"image": "c", "captions": CAPTIONS["b"]}]
        )
    )
    found = inspect(path).sets[0]
    # a: 4 + 3 tokens; b and c: "a", "0.5", "km", "north-east", "quay".
    assert (found.images, found.captions, found.tokens) == (3, 4, 17)
    assert (found.vocabulary, found.tokens_per_image_p5, found.tokens_per_image_p95) == (10, 5, 7)
    assert found.duplicate_captions == pytest.approx(1 / 4)
    assert found.duplicate_images == pytest.approx(1 / 3)
    assert found.distinct_1 == pytest.approx(10 / 17)
    # Pairs: two-ships twice, ships-at, at-sea, ships-anchored, and four of the quay's twice.
    assert found.distinct_2 == pytest.approx(8 / 13)
    assert found.mtld is None
    (field,) = found.by_field
    assert (field.shortest, field.median, field.longest, field.histogram) == (3, 4, 5, {3: 1, 4: 1, 5: 2})


def test_mtld_tells_rich_from_poor() -> None:
    poor = statistics.mtld(["ships", "at", "sea"] * 40)
    rich = statistics.mtld([f"word{i % 90}" for i in range(120)])
    assert poor is not None
    assert rich is not None
    assert poor < 10 < rich
    assert statistics.mtld(["few"] * 49) is None


@given(st.text())
def test_tokens_are_words_in_lower_case(text: str) -> None:
    for token in statistics.tokenize(text):
        assert token == token.lower()
        assert not re.search(r"\s", token)


def test_the_sample_is_the_same_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SAMPLE_IMAGES", 5)
    records = [{"image": str(i), "caption": f"caption {i}"} for i in range(40)]
    drawn: list[list[ImageCaptions]] = []
    for order in (records, records[::-1]):
        path = tmp_path / "captions.json"
        path.write_text(json.dumps(order))
        drawn.append(statistics.measure_captions(file_source(path)).sample)
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 5


def test_noise_is_no_text_in_use(dataset: Path) -> None:
    first = next(dataset_sources(dataset)[0].read())
    assert len(first.captions) == 8
    assert all(len(t.captions) == 7 for t in dataset_sources(dataset)[0].read() if t.task == "terrain")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.csv", "", "cannot be read"),
        ("other.csv", "a,b\n1,2\n", "has no column of captions"),
        ("broken.json", "{", "cannot be read"),
        ("nothing.json", "[]", "holds no captions"),
        ("numbers.json", "[1, 2]", "holds no captions"),
        ("broken.parquet", "x", "not a readable Parquet"),
        ("latin.txt", None, "give UTF-8"),
        ("picture.png", "x", "not a caption file"),
    ],
)
def test_files_without_captions_are_said(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"caf\xe9" if content is None else content.encode())
    with pytest.raises(SettingsError, match=words):
        inspect(path)


def test_other_mistakes_are_said(tmp_path: Path, dataset: Path, make_dataset: MakeDataset) -> None:
    with pytest.raises(SettingsError, match="no such file"):
        inspect(tmp_path / "nowhere.csv")
    with pytest.raises(DatasetError, match="no data set"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="no texts v007: there are v000, v001"):
        inspect(dataset, version="v007")


def test_the_report_shows_plain_beside_hcot_and_escapes(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    summary = inspect(dataset, out=out)
    html = out.read_text(encoding="utf-8")
    assert [s.name for s in summary.sets] == ["v001", "v000"]
    assert summary.sets[0].about == "openai/a-model, chain"
    assert "without HCoT" in html
    assert html.index("without HCoT") < html.index("HCoT, layer by layer")
    assert "&lt;script&gt;window.hacked" in html
    assert "<script" not in html
    assert not re.search(r"(src|href)=.https?:", html)
    again = tmp_path / "again.html"
    inspect(dataset, out=again)
    assert out.read_bytes() == again.read_bytes()


def test_texts_that_follow_the_images_share_their_neighbours(dataset: Path) -> None:
    tiles = read_tiles(dataset)
    said = {
        source.name: [" ".join(c for _, c in text.captions) for text in source.read()]
        for source in dataset_sources(dataset)
    }
    found = closeness.compare_layouts(dataset, tiles, said)
    images, plain, hcot = found.panels
    assert images.agreement is None
    assert plain.agreement is not None
    assert hcot.ci_low is not None
    assert hcot.ci_low > plain.agreement
    assert found.chance == pytest.approx(10 / 47)
    assert all(panel.positions.min() >= 0 and panel.positions.max() <= 1 for panel in found.panels)


def test_the_verb_prints_a_table_and_json(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("A quay.\n")
    arguments = ["inspect", str(dataset), "--against", str(tmp_path / "other.txt")]
    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0, table.output
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["texts", "v001", "v000", "other.txt"]
    as_json = CliRunner().invoke(app, [*arguments, "--json"])
    assert [s["images"] for s in json.loads(as_json.stdout)["sets"]] == [48, 48, 1]


def test_what_scio_decided_is_shown(dataset: Path, tmp_path: Path) -> None:
    """Kept, noise and reconstructed, with the picture; texts that nothing screened have no such part."""
    texts = read_texts(dataset, "v001", in_use=False)
    texts["verdict"] = "kept"
    noise, new = texts["field"].eq("Water"), texts["field"].eq("Layout") & texts["tile_id"].lt("tile_20")
    texts.loc[noise, ["verdict", "delta_itc", "delta_itm"]] = ["noise", -0.125, 0.5]
    texts.loc[new, "previous"] = texts.loc[new, "text"]
    texts.loc[new, ["verdict", "text"]] = ["reconstructed", "Written anew."]
    write_texts(dataset, "v002", texts, parent="v001", maker={"verb": "refine"})
    decisions = read_scio_decisions(dataset, "v002")
    assert decisions is not None
    assert decisions.total == {
        "kept": 384 - noise.sum() - new.sum(),
        "noise": noise.sum(),
        "reconstructed": new.sum(),
    }
    assert ("terrain", "Water", {"kept": 0, "noise": noise.sum(), "reconstructed": 0}) in decisions.by_field
    assert len(decisions.examples) == 8
    assert all(any(row["verdict"] == "reconstructed" for row in rows) for _, _, rows in decisions.examples)
    inspect(dataset, out=tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "Screened by SCIO" in html
    assert html.count("Written anew.") >= 8
    assert "<del>Water: " in html
    assert "-0.125" in html
    assert "<script>" not in html
    assert read_scio_decisions(dataset, "v001") is None
    inspect(dataset, out=tmp_path / "before.html", version="v001")
    assert "Screened by SCIO" not in (tmp_path / "before.html").read_text()
