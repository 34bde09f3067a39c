"""The report by itself: places, intervals, what a model lacks, names of figures, the radar chart, colours."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusar_klip.benchmark.metrics.bootstrap import Score
from fusar_klip.benchmark.metrics.box_matching import Detections, GroundTruth
from fusar_klip.benchmark.report import charts
from fusar_klip.benchmark.report.prediction_figures import (
    FALSE_POSITIVE,
    MISSED,
    TRUE_POSITIVE,
    draw_detections,
    draw_retrieved_images,
)
from fusar_klip.benchmark.report.report import write_report
from fusar_klip.benchmark.report.tables import ReportSection
from fusar_klip.benchmark.results import ReportFigure, RetrievalExample, RetrievedImage, RowResult
from fusar_klip.benchmark.tasks.captioning import CaptioningRow
from fusar_klip.datasets.labelled_data import Box, ImageWithBoxes


def score(metric: str, value: float) -> Score:
    return Score(metric, value, 7, value - 0.05, value + 0.05, "group", 0.1)


def section(results: Mapping[str, RowResult], dataset: str = "Set", **values: object) -> ReportSection:
    known = {"task": "captioning", "dataset": dataset, "path": "p", "split": "given", "reader": "hrsid"}
    row = CaptioningRow.model_validate(known | values)
    return ReportSection(row, "Captioning", "bleu4", "4 images", [], dict(results))


def png(level: int = 0) -> str:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), level).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def result(value: float, *more: Score) -> RowResult:
    return RowResult([score("bleu4", value), *more])


def test_the_best_is_bold_the_second_underlined_and_each_has_its_interval(tmp_path: Path) -> None:
    values = {"third": 0.2, "best": 0.61, "second": 0.5, "as_good": 0.61}
    write_report(tmp_path, "suite", [section({name: result(v) for name, v in values.items()})], [])
    markdown = (tmp_path / "report.md").read_text()
    assert "| best | **61.0** (56.0 to 66.0) |" in markdown
    assert "| as_good | **61.0** (56.0 to 66.0) |" in markdown
    assert "| second | <u>50.0</u> (45.0 to 55.0) |" in markdown
    assert "| third | 20.0 (15.0 to 25.0) |" in markdown
    assert "n = 7; intervals resample groups of images" in markdown
    page = (tmp_path / "report.html").read_text()
    assert '<td>best</td><td><span class="best">61.0</span><small>56.0 to 66.0</small></td>' in page
    assert '<td>second</td><td><span class="second">50.0</span>' in page
    tex = (tmp_path / "report.tex").read_text()
    assert r"best & \textbf{61.0} {\scriptsize (56.0 to 66.0)}" in tex
    assert r"second & \underline{50.0}" in tex
    assert r"as\_good & \textbf{61.0}" in tex
    assert "third & 20.0 " in tex


def test_one_model_alone_is_neither_best_nor_second(tmp_path: Path) -> None:
    write_report(tmp_path, "suite", [section({"run": result(0.3)})], [])
    assert "| run | 30.0 (25.0 to 35.0) |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_a_metric_that_one_model_lacks_is_an_empty_cell(tmp_path: Path, order: tuple[str, str]) -> None:
    # An result from before there was a Java has no METEOR.
    known = {"old": result(0.3), "new": result(0.2, score("meteor", 0.4))}
    write_report(tmp_path, "suite", [section({name: known[name] for name in order})], [])
    markdown = (tmp_path / "report.md").read_text()
    assert "| Model | BLEU-4 | METEOR |" in markdown
    assert "| old | **30.0** (25.0 to 35.0) |  |" in markdown
    assert "| new | <u>20.0</u> (15.0 to 25.0) | **40.0** (35.0 to 45.0) |" in markdown


def test_figures_of_models_with_like_names_are_files_of_their_own(tmp_path: Path) -> None:
    drawn = {
        name: RowResult([score("bleu4", 0.3)], drawings=[ReportFigure("sheet", png(level), "alt", "caption")])
        for name, level in (("run_1", 10), ("run-1", 90), ("RUN 1", 200))
    }
    write_report(tmp_path, "suite", [section(drawn)], [])
    files = sorted((tmp_path / "figures").glob("01-*"))
    assert [file.name for file in files] == [
        "01-captioning-set-run-1-sheet-2.png",
        "01-captioning-set-run-1-sheet-3.png",
        "01-captioning-set-run-1-sheet.png",
    ]
    assert len({file.read_bytes() for file in files}) == 3
    markdown = (tmp_path / "report.md").read_text()
    assert all(f"(figures/{file.name})" in markdown for file in files)


def test_rows_of_one_task_on_one_set_have_distinct_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    overview = charts.overview
    monkeypatch.setattr(
        charts, "overview", lambda bars, names: drawn.extend(b.label for b in bars) or overview(bars, names)
    )
    values = [{"split": "paper"}, {"split": "grouped"}, {"split": "grouped", "seed": 1}, {"dataset": "Other"}]
    sections = [section({"run": result(0.3)}, **{"dataset": "Set", **v}) for v in values]  # type: ignore[arg-type]
    write_report(tmp_path, "suite", sections, [])
    labels = ["Set (paper)", "Set (grouped) seed 0", "Set (grouped) seed 1", "Other"]
    assert drawn == [f"{name}\nCaptioning, BLEU-4" for name in labels]
    labels[-1] = "Other (given)"
    columns = " | ".join(f"{name}, captioning, BLEU-4" for name in labels)
    assert f"| Model | {columns} |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(("rows", "models", "there"), [(3, 2, True), (2, 2, False), (3, 1, False)])
def test_the_radar_chart_needs_three_rows_and_two_models(
    tmp_path: Path, rows: int, models: int, there: bool
) -> None:
    results = {f"model{m}": result(0.3 + m / 10) for m in range(models)}
    write_report(tmp_path, "suite", [section(results, f"Set {row}") for row in range(rows)], [])
    assert (tmp_path / "figures" / "radar.png").is_file() == there
    assert ("figures/radar.png" in (tmp_path / "report.md").read_text()) == there


def test_the_radar_chart_draws_each_model_from_0_to_the_best() -> None:
    rows = [
        charts.HeadlineScores(f"row {n}", {"a": score("top1", 0.1 * n), "b": score("top1", 0.05 * n)})
        for n in range(4)
    ]
    drawn = charts.radar(rows, ["a", "b"])
    assert drawn == charts.radar(rows, ["a", "b"])
    assert drawn != charts.radar(rows, ["b", "a"])
    with Image.open(io.BytesIO(drawn)) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in charts.MODEL_COLOURS[:2]:
        assert shown(pixels, colour) > 200


def shown(pixels: np.ndarray, colour: str) -> int:
    """Return how many of (N, 3) pixels have a colour."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    return int((np.abs(pixels.astype(int) - wanted).max(axis=1) <= 8).sum())


def test_detections_are_blue_false_alarms_red_and_missed_boxes_yellow(tmp_path: Path) -> None:
    Image.new("L", (100, 100), 40).save(tmp_path / "a.png")
    boxes = np.array([[5.0, 5, 35, 35], [60, 60, 95, 95]])
    image = ImageWithBoxes(
        tmp_path / "a.png",
        "a.png",
        tuple(Box("ship", x, y, r - x, b - y) for x, y, r, b in boxes),
        100,
        100,
        "test",
    )
    truth = GroundTruth(boxes, np.zeros(2, dtype=int), np.zeros(2, dtype=bool))

    def colours(found: np.ndarray, scores: list[float]) -> tuple[bool, bool, bool]:
        answer = Detections(found, np.array(scores), np.zeros(len(found), dtype=int))
        (drawing,) = draw_detections([image], [truth], [answer], ["ship"], 0)
        with Image.open(io.BytesIO(base64.b64decode(drawing.content))) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        # The legend below the image has all three.
        chart = pixels[: int(0.88 * len(pixels))].reshape(-1, 3)
        right, false, missed = (
            shown(chart, colour) > 50 for colour in (TRUE_POSITIVE, FALSE_POSITIVE, MISSED)
        )
        return right, false, missed

    assert colours(boxes, [0.9, 0.9]) == (True, False, False)
    assert colours(boxes[:1], [0.9]) == (True, False, True)
    assert colours(np.array([[60.0, 5, 90, 35]]), [0.9]) == (False, True, True)
    # What is not sure is not drawn.
    assert colours(boxes, [0.4, 0.4]) == (False, False, True)
    assert [TRUE_POSITIVE, FALSE_POSITIVE, MISSED] == ["#4aa3ff", "#ff4b3e", "#ffd92f"]  # blue, red, yellow


def test_retrieval_lists_say_which_tile_is_the_text_s_own(tmp_path: Path) -> None:
    hits = [RetrievedImage(png(20), 0.9, False), RetrievedImage(png(60), 0.8, True)]
    answered = RowResult([score("bleu4", 0.3)], queries=[RetrievalExample("ships in a row", 2, hits)])
    write_report(tmp_path, "suite", [section({"run": answered})], [])
    markdown = (tmp_path / "report.md").read_text()
    assert "> ships in a row" in markdown
    assert "the text's own has rank 2" in markdown
    assert (tmp_path / "figures" / "01-captioning-set-run-query-1.png").is_file()
    assert draw_retrieved_images(answered.queries[0]) != draw_retrieved_images(
        RetrievalExample("ships in a row", 2, hits[::-1])
    )
