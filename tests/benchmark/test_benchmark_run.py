"""The whole benchmark: results, reports, resuming, one model and two, and what is refused."""

import csv
import dataclasses
import html.parser
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fusar_klip.benchmark import benchmark
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.tasks.registry import TASKS
from fusar_klip.errors import CheckpointError, DatasetError, FusarKlipError, SettingsError

Make = Callable[..., Path]
MakeRun = Callable[..., str]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def lines(results: str) -> set[tuple[object, ...]]:
    return {tuple(sorted(entry.items())) for entry in json.loads(Path(results).read_text())}


class TagCheck(html.parser.HTMLParser):
    """Holds that every tag is closed in order, and collects where pictures come from."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value or "" for key, value in attributes if key in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_two_models_end_to_end(
    tmp_path: Path, data_folder: Path, write_suite: Make, run: str, make_run: MakeRun
) -> None:
    out = tmp_path / "both"
    summary = benchmark([run, f"untrained:{run}"], out, suite=write_suite(), data=data_folder)
    json.dumps(dataclasses.asdict(summary))
    assert (summary.rows_run, summary.rows_reused, summary.skipped) == (8, 0, [])
    assert len(summary.headlines) == 8
    results = json.loads(Path(summary.results).read_text())
    for entry in results:
        assert 0 <= entry["ci_low"] <= entry["value"] <= entry["ci_high"] <= 1, entry
        assert entry["n"] == (12 if entry["task"] == "retrieval" else 18)
        assert entry["ci_unit"] == "group"
    # A bright patch's place distinguishes the classes, even for random weights.
    probes = [e["value"] for e in results if e["task"] == "linear_probe" and e["metric"] == "top1"]
    assert min(probes) >= 0.9
    assert {e["preset"] for e in results if e["task"] == "finetune"} == {
        "recommended+epochs=2+batch_size=8+warmup_epochs=0.5"
    }
    # Ties of equal texts cost strict recall what the duplicate-aware one forgives.
    recall = {(e["model"], e["metric"]): e["value"] for e in results if e["task"] == "retrieval"}
    for (model, metric), value in recall.items():
        if not metric.endswith("_duplicates"):
            assert value <= recall[model, f"{metric}_duplicates"] + 1e-12

    page = Path(summary.report_html).read_text()
    check = TagCheck()
    check.feed(page)
    assert check.open == []
    assert check.sources
    assert all(source.startswith("data:image/png;base64,") for source in check.sources)
    markdown = Path(summary.report_md).read_text()
    assert "http" not in page
    assert str(tmp_path) not in page + markdown
    assert "repeat another text word for word" in markdown
    figures = {p.name for p in (out / "figures").iterdir()}
    assert figures == {part.split(")")[0] for part in markdown.split("](figures/")[1:]}

    table = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [{key: "" if v is None else str(v) for key, v in entry.items()} for entry in results] == table
    tex = (out / "report.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 5  # the overview and four rows
    rows = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert all(row.count("{") == row.count("}") for row in rows)
    assert not re.search(r"(?<!\\)[_%#]", "\n".join(rows))
    assert r"untrained:run" in tex

    # Each model alone gives the same figures, and the same command the same bytes.
    alone = [
        benchmark([checkpoint], tmp_path / name, suite=write_suite(), data=data_folder)
        for name, checkpoint in (("a", run), ("b", f"untrained:{run}"))
    ]
    assert lines(summary.results) == lines(alone[0].results) | lines(alone[1].results)
    before = contents(out)
    again = benchmark([run, f"untrained:{run}"], out, suite=write_suite(), data=data_folder)
    assert (again.rows_run, again.rows_reused) == (0, 8)
    assert contents(out) == before


def test_an_interrupted_benchmark_resumes_at_its_row(
    tmp_path: Path, data_folder: Path, write_suite: Make, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, out = write_suite(), tmp_path / "out"
    finetune = TASKS["finetune"]

    def killed(*_: object) -> RowResult:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(TASKS, "finetune", dataclasses.replace(finetune, evaluate=killed))
        with pytest.raises(KeyboardInterrupt):
            benchmark([run], out, suite=suite, data=data_folder)
    assert not (out / "results.json").exists()
    # A row file that another tool cut off is made again, too.
    kept = sorted((out / "rows").iterdir())
    assert len(kept) == 2
    kept[0].write_bytes(kept[0].read_bytes()[:40])
    resumed = benchmark([run], out, suite=suite, data=data_folder)
    assert (resumed.rows_run, resumed.rows_reused) == (3, 1)
    whole = benchmark([run], tmp_path / "whole", suite=suite, data=data_folder)
    assert Path(resumed.results).read_bytes() == Path(whole.results).read_bytes()


def test_changed_weights_data_or_values_are_run_again(
    tmp_path: Path, data_folder: Path, write_suite: Make, make_run: MakeRun
) -> None:
    run, data, out = make_run(), tmp_path / "data", tmp_path / "out"
    shutil.copytree(data_folder, data)

    def rows_run(suite: Path) -> int:
        return benchmark([run], out, suite=suite, data=data, tasks=["knn"]).rows_run

    assert rows_run(write_suite()) == 1
    assert rows_run(write_suite()) == 0
    assert rows_run(write_suite('task = "knn"\n', 'task = "knn"\nseed = 1\n')) == 1
    shutil.copy(data / "chips/left/000.png", data / "chips/left/001.png")
    assert rows_run(write_suite()) == 1
    shutil.copy(Path(make_run(5, "other")) / "model.safetensors", run)
    assert rows_run(write_suite()) == 1


def test_leakage_is_reported(tmp_path: Path, data_folder: Path, write_suite: Make, run: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(data_folder, data)
    split = data / "chips/split.csv"
    split.write_text(split.read_text().replace("left/012.png,left,6,", "left/012.png,left,0,"))
    summary = benchmark([run], tmp_path / "out", suite=write_suite(), data=data, tasks=["knn"])
    note = "Leakage: 1 groups are in both parts of the split, so 1 of its test images"
    assert note in Path(summary.report_md).read_text()
    assert note in Path(summary.report_html).read_text()


@pytest.mark.parametrize("path", ["gone", "${NOT_SET}"])
def test_a_missing_set_is_skipped_where_the_suite_allows_it(
    tmp_path: Path, data_folder: Path, write_suite: Make, run: str, path: str
) -> None:
    suite = write_suite('task = "finetune"\ndataset = "Chips"', 'task = "finetune"\ndataset = "Gone"')
    text = suite.read_text().replace('name = "small"', 'name = "small"\nmissing = "skip"')
    head, gone = text.split('task = "finetune"')
    suite.write_text(head + 'task = "finetune"' + gone.replace('path = "chips"', f'path = "{path}"', 1))
    tasks = ["knn", "finetune"]
    summary = benchmark([run], tmp_path / "out", suite=suite, data=data_folder, tasks=tasks)
    assert summary.rows_run == 1
    assert len(summary.skipped) == 1
    assert summary.skipped[0] in Path(summary.report_md).read_text()
    assert summary.skipped[0] in Path(summary.report_html).read_text()


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ('"linear_probe"', '"lienar_probe"', SettingsError, 'row 1: .* "linear_probe"'),
        ("split =", "splitt =", SettingsError, 'unknown key "splitt"; did you mean "split"'),
        ('"chips"', '"nowhere"', DatasetError, "FUSAR_KLIP_DATA"),
        ('"chips"', '"${NOT_SET}"', DatasetError, "NOT_SET"),
        (
            'dataset = "Tiles"',
            'dataset = "Tiles"\nsplit = "val"',
            DatasetError,
            "the split val .* at least 2",
        ),
        ('dataset = "Tiles"', 'dataset = "Tiles"\ntexts = "v001"', DatasetError, "no texts v001"),
    ],
)
def test_wrong_suites_are_refused_at_once(
    tmp_path: Path,
    data_folder: Path,
    write_suite: Make,
    run: str,
    old: str,
    new: str,
    error: type[FusarKlipError],
    words: str,
) -> None:
    with pytest.raises(error, match=words) as caught:
        benchmark([run], tmp_path / "out", suite=write_suite(old, new), data=data_folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_wrong_checkpoints_and_tasks_are_refused_at_once(
    tmp_path: Path, data_folder: Path, write_suite: Make, make_run: MakeRun
) -> None:
    run, suite = make_run(), write_suite()
    unfinished = Path(make_run(2, "unfinished"))
    (unfinished / "model.safetensors").unlink()
    for checkpoints, tasks, error, words in (
        ([], [], CheckpointError, "no checkpoint is given"),
        ([run, run], [], CheckpointError, "given twice"),
        ([str(tmp_path / "nothing")], [], CheckpointError, "no checkpoint at"),
        ([str(unfinished)], [], CheckpointError, "--resume"),
        ([run], ["paint"], SettingsError, 'unknown task "paint"; tasks: linear_probe'),
        ([run], ["detect"], SettingsError, 'did you mean "detection"'),
        ([run], ["fine_tune"], SettingsError, 'did you mean "finetune"'),
    ):
        with pytest.raises(error, match=words):
            benchmark(checkpoints, tmp_path / "out", suite=suite, data=data_folder, tasks=tasks)
    assert not (tmp_path / "out").exists()


def test_no_data_at_all_names_the_variable(tmp_path: Path, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSAR_KLIP_DATA", str(tmp_path / "nothing"))
    with pytest.raises(DatasetError, match="FUSAR_KLIP_DATA"):
        benchmark([run], tmp_path / "out")


def test_every_row_writes_its_split(data_folder: Path, tmp_path: Path, run: str) -> None:
    suite = tmp_path / "suite.toml"
    rows = "".join(
        f'[[row]]\ntask = "knn"\ndataset = "Chips"\nreader = "class_folders"\npath = "chips"\n'
        f'split = "{split}"\n'
        for split in ("paper", "grouped")
    )
    suite.write_text(f'name = "splits"\n{rows}')
    summary = benchmark([run], tmp_path / "out", suite=suite, data=data_folder)
    assert summary.rows_run == 2
    names = sorted(file.name.rpartition("-")[0] for file in (tmp_path / "out" / "splits").iterdir())
    assert names == ["chips-grouped", "chips-paper"]
