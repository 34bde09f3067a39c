"""The review: the same sample for a seed, answers by keyboard in a real browser, and what they give."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fusar_klip.catalog import FIELDS, TEXT_SCHEMA, Task, write_texts
from fusar_klip.cli import app
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.files import sha256
from fusar_klip.texts.review import make_pages, pages, read_answers
from fusar_klip.texts.review.accuracy import ANSWERS_FORMAT, effective_answers, wilson
from fusar_klip.texts.review.pages import sample_tiles

MakeDataset = Callable[..., Path]
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> & \"ü\" \u2028"


def add_texts(dataset: Path, tasks: dict[str, Task], version: str = "v000") -> None:
    rows = [
        {"tile_id": tile_id, "task": task, "field": field, "text": f"{field} of {tile_id}. {HOSTILE}"}
        for tile_id, task in tasks.items()
        for field in FIELDS[task]
    ]
    texts = pd.DataFrame(rows).assign(source="test", prompt_version="1", verdict="original", previous=None)
    texts = texts.assign(delta_itc=np.nan, delta_itm=np.nan, itm_score=np.nan)[TEXT_SCHEMA.names]
    write_texts(dataset, version, texts, parent=None, maker={})


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> Path:
    pixels = np.random.default_rng(0).integers(1, 255, (64, 64), dtype=np.uint8)
    tasks: dict[str, Task] = {f"tile_{i}": "terrain" if i % 3 else "marine_target" for i in range(9)}
    dataset = make_dataset(dict.fromkeys(tasks, (pixels, "small", None, 0, 0)))
    add_texts(dataset, tasks)
    return dataset


def saved(dataset: Path, given: dict[str, dict[str, str]], reviewer: str = "ada", **changes: Any) -> Path:
    """Write a file as the page saves it."""
    content = {
        "format": ANSWERS_FORMAT,
        "texts": "v000",
        "texts_sha256": sha256(dataset / "texts" / "v000.parquet"),
        "reviewer": reviewer,
        "sample": sorted(given),
        "answers": given,
    }
    path = dataset.parent / f"{reviewer}.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_the_sample_follows_the_seed_and_grows(dataset: Path) -> None:
    few, all_ = sample_tiles(dataset, "v000", 0.4, 3), sample_tiles(dataset, "v000", 1.0, 3)
    assert len(few) == 4
    assert few == all_[:4]
    assert sorted(all_) == [f"tile_{i}" for i in range(9)]
    assert sample_tiles(dataset, "v000", 1.0, 4) != all_
    assert len(sample_tiles(dataset, "v000", 1e-6, 3)) == 1


def test_the_same_seed_gives_the_same_page(dataset: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.html", tmp_path / "two.html"
    for page in (one, two):
        assert make_pages(dataset, fraction=0.3, seed=5, out=page).tiles == 3
    assert one.read_bytes() == two.read_bytes()


def test_a_large_sample_is_cut_into_pages(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "TILES_PER_PAGE", 4)
    made = make_pages(dataset, fraction=1.0)
    assert [Path(page).name for page in made.pages] == ["review.html", "review-2.html", "review-3.html"]


def test_accuracy_counts_right_over_judged(dataset: Path) -> None:
    answers = {
        "tile_0": {"Count": "right", "Size": "wrong"},
        "tile_3": {"Count": "right", "Size": "unsure"},
        "tile_1": {"Water": "right"},
    }
    result = read_answers(dataset, [saved(dataset, answers)])
    lines = {(line.task, line.field): line for line in result.accuracy}
    whole, count, size = lines["all", "all"], lines["marine_target", "Count"], lines["marine_target", "Size"]
    assert (whole.right, whole.wrong, whole.unsure, whole.accuracy) == (3, 1, 1, 0.75)
    assert (count.right, count.accuracy) == (2, 1.0)
    assert (size.wrong, size.unsure, size.accuracy) == (1, 1, 0.0)
    assert lines["terrain", "Water"].accuracy == 1.0
    assert lines["terrain", "Road"].accuracy is None
    assert not any(task == "ground_target" for task, _ in lines)
    assert (result.tiles, result.answers, result.agreement) == (3, 5, None)


def test_disputed_sentences_count_by_the_share_of_their_reviewers(dataset: Path) -> None:
    said = {"ada": ("right", "right"), "bo": ("wrong", "right"), "cy": ("right", "unsure")}
    files = [
        saved(dataset, {"tile_0": {"Count": count, "Size": size}}, who) for who, (count, size) in said.items()
    ]
    three = read_answers(dataset, files)
    whole = three.accuracy[0]
    assert (whole.sentences, whole.right, whole.wrong, whole.unsure) == (2, 4, 1, 1)
    assert whole.accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert three.agreement == pytest.approx(2 / 6)
    assert (three.reviewers, three.answers, three.tiles) == (["ada", "bo", "cy"], 6, 1)
    two = read_answers(dataset, files[:2])
    assert two.accuracy[0].accuracy == pytest.approx(0.75)
    # Alike on one of two; by chance on 1 * 1/2: kappa = (0.5 - 0.5) / 0.5.
    assert two.kappa == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "something"}, "no saved review"),
        ({"answers": []}, "damaged"),
        ({"texts_sha256": "0" * 64}, "other texts"),
        ({"answers": {"tile_77": {"Count": "right"}}}, "fits no text"),
        ({"answers": {"tile_0": {"Road": "right"}}}, "fits no text"),
        ({"answers": {"tile_0": {"Count": "maybe"}}}, "fits no text"),
        ({"answers": {"tile_0": "right"}}, "fits no text"),
    ],
)
def test_wrong_answers_are_refused(dataset: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read_answers(dataset, [saved(dataset, {"tile_0": {"Count": "right"}}, **change)])


def test_other_mistakes_are_said(dataset: Path, make_dataset: MakeDataset, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for file, words in ((broken, "no saved review"), (tmp_path / "nowhere.json", "cannot read")):
        with pytest.raises(SettingsError, match=words):
            read_answers(dataset, [file])
    for fraction in (0.0, 1.5, -1.0):
        with pytest.raises(SettingsError, match="--fraction"):
            make_pages(dataset, fraction=fraction)
    with pytest.raises(DatasetError, match="no texts v007"):
        make_pages(dataset, version="v007")


def test_wilson_is_wilson() -> None:
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    assert 0 <= low <= counts[0] / counts[1] + 1e-12
    assert counts[0] / counts[1] - 1e-12 <= high <= 1


def test_answers_of_one_tile_are_worth_less_than_apart() -> None:
    assert effective_answers([(8, 8), (0, 8)] * 10) == pytest.approx(20, rel=0.1)
    independent = [(int(x), 1) for x in np.random.default_rng(0).integers(0, 2, 200)]
    assert effective_answers(independent) == pytest.approx(200, rel=0.01)
    assert effective_answers([(8, 8)] * 5) == 5


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A page of a headless Chromium that keeps its profile; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium")
    flags = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run")
    flags += ("disable-background-networking", "disable-component-update", "disable-sync")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=chromium, args=[f"--{flag}" for flag in flags]
        )
        yield context.new_page()
        context.close()


def test_a_review_in_a_real_browser(dataset: Path, tmp_path: Path, browser: Any) -> None:
    made = make_pages(dataset, fraction=0.3, seed=1, out=tmp_path / "review.html")
    order = sample_tiles(dataset, "v000", 0.3, 1)
    asked: list[str] = []
    browser.on("request", lambda request: asked.append(request.url))
    errors: list[str] = []
    browser.on("pageerror", lambda error: errors.append(str(error)))
    browser.goto(Path(made.pages[0]).as_uri())
    assert HOSTILE in browser.locator("#fields li .text").first.text_content()
    for key in "11213":
        browser.keyboard.press(key)
    browser.keyboard.press("ArrowRight")
    browser.keyboard.press("ArrowDown")
    for key in ("r", "w", "ArrowUp", "0", "u"):  # the second of two is taken back and judged again
        browser.keyboard.press(key)
    browser.fill("#reviewer", "Ada 1 2 3")  # digits in the name judge nothing
    assert browser.locator("#done").text_content() == "7 of 24 judged"
    browser.reload()
    assert browser.locator("#done").text_content() == "7 of 24 judged"
    assert browser.locator("#place").text_content() == "Tile 2 of 3"
    with browser.expect_download() as download:
        browser.keyboard.press("s")
    download.value.save_as(tmp_path / "answers.json")
    assert browser.evaluate("window.hacked") is None
    assert errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)

    result = read_answers(dataset, [tmp_path / "answers.json"])
    whole = result.accuracy[0]
    assert (whole.right, whole.wrong, whole.unsure) == (4, 1, 2)
    assert (result.reviewers, result.sampled) == (["Ada 1 2 3"], 3)
    answers = json.loads((tmp_path / "answers.json").read_text())["answers"]
    assert list(answers[order[0]].values()) == ["right", "right", "wrong", "right", "unsure"]

    # Another browser, or a wiped one, takes the saved file up again.
    browser.evaluate("localStorage.clear()")
    browser.goto(Path(made.pages[0]).as_uri())
    assert browser.locator("#done").text_content() == "0 of 24 judged"
    browser.set_input_files("#load", tmp_path / "answers.json")
    browser.wait_for_function("document.getElementById('done').textContent === '7 of 24 judged'")


def test_the_verb_makes_pages_and_reads_answers(dataset: Path) -> None:
    made = CliRunner().invoke(app, ["review", str(dataset), "--fraction", "0.2", "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["tiles"] == 2
    assert (dataset / "review.html").is_file()
    answers = saved(dataset, {"tile_0": {"Count": "right"}}, reviewer="<b>ada")
    chart = dataset / "accuracy.html"
    read = CliRunner().invoke(app, ["review", str(dataset), "--answers", str(answers), "--out", str(chart)])
    assert read.exit_code == 0, read.output
    assert "100.0% (20.7% to 100.0%)" in read.stdout
    html = chart.read_text(encoding="utf-8")
    assert "20.7 % to 100.0 %" in html
    assert "<b>ada" not in html
    assert "&lt;b&gt;ada" in html
