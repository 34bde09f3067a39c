"""Segmenter: its scores, windows, the whole row on made images, change, and what is refused."""

import base64
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score

from fusar_klip.benchmark import benchmark
from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics import bootstrap
from fusar_klip.benchmark.metrics.segmentation_metrics import confusion_counts, segmentation_scores
from fusar_klip.benchmark.report.tables import metric_title
from fusar_klip.benchmark.tasks.segmentation import SegmentationRow, evaluate_segmentation, read_masks
from fusar_klip.config import validate_settings
from fusar_klip.datasets.labelled_data import IGNORED
from fusar_klip.errors import CheckpointError, DatasetError, SettingsError
from fusar_klip.finetune.segmentation.settings import SEGMENTATION_PRESETS
from fusar_klip.models import ModelRef

SMALL: dict[str, Any] = {
    "task": "segmentation",
    "dataset": "Fields",
    "path": "fields",
    "split": "given",
    "reader": "mask_folders",
    "epochs": 1,
    "batch_size": 2,
    "input_size": 32,
    "scales": (1.0, 1.0),
    "gain": 0.0,
    "warmup_epochs": 0.0,
}


def row(**changed: Any) -> SegmentationRow:
    return validate_settings(SegmentationRow, {**SMALL, **changed})


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def write_fields(root: Path, counts: dict[str, int], size: tuple[int, int] = (32, 32)) -> None:
    """Dark and bright land on patches of 8 pixels, a strip of the mask without a class."""
    rng = np.random.default_rng(0)
    (root / "classes.csv").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.csv").write_text("value,name\n0,dark\n1,bright land\n2,never\n9,ignored\n")
    for part, count in counts.items():
        for number in range(count):
            cells = rng.integers(0, 2, (size[0] // 8, size[1] // 8))
            mask = np.kron(cells, np.ones((8, 8), dtype=int))
            save(rng.rayleigh(20, size) + 120 * mask, root / part / "images" / f"{number}.png")
            mask[:2] = 9
            save(mask, root / part / "masks" / f"{number}.png")


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `fields` of 6 training and 3 test images with masks."""
    data = tmp_path_factory.mktemp("segmentation")
    write_fields(data / "fields", {"train": 6, "test": 3})
    return data / "fields"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 60)


@pytest.mark.parametrize("seed", range(6))
def test_oa_and_iou_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = 2 + seed % 4
    truths = rng.integers(0, classes, (5, 9, 7)).astype(np.uint8)
    predicted = np.where(rng.random(truths.shape) < 0.6, truths, rng.integers(0, classes, truths.shape))
    truths[rng.random(truths.shape) < 0.1] = IGNORED
    counts = np.stack([confusion_counts(t, p, classes) for t, p in zip(truths, predicted, strict=True)])
    scores = segmentation_scores(counts, [f"Class {k}" for k in range(classes)], None, 0)
    known = truths != IGNORED
    ious = jaccard_score(truths[known], predicted[known], average=None)
    expected = {"oa": accuracy_score(truths[known], predicted[known]), "miou": ious.mean()}
    expected |= {f"iou_class_{k}": iou for k, iou in enumerate(ious)}
    assert {score.metric: score.value for score in scores} == pytest.approx(expected)
    for score in scores:
        assert score.n == 5
        assert score.ci_low <= score.value <= score.ci_high  # type: ignore[operator]


def test_a_class_without_pixels_has_no_iou_and_chance_is_a_uniform_prediction() -> None:
    truth = np.repeat(np.array([0, 1], dtype=np.uint8), [30_000, 10_000])
    predicted = np.random.default_rng(0).integers(0, 3, len(truth)).astype(np.uint8)
    counts = confusion_counts(truth, predicted, 3)[None]
    scores = {score.metric: score for score in segmentation_scores(counts, ("a", "b", "c"), None, 0)}
    assert set(scores) == {"oa", "miou", "iou_a", "iou_b"}
    for score in scores.values():
        assert score.value == pytest.approx(score.chance, abs=0.01)
        assert score.ci_low is None


def test_pixels_without_a_class_do_not_count() -> None:
    truth = np.array([[0, 1, IGNORED]], dtype=np.uint8)
    counts = confusion_counts(truth, np.array([[0, 0, 1]], dtype=np.uint8), 2)
    assert counts.tolist() == [[1, 0], [1, 0]]


def test_segmenter_memorises_one_image(tmp_path: Path, run: str) -> None:
    write_fields(tmp_path, {"train": 1})
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    suite_row = row(epochs=60, batch_size=1, learning_rate=3e-3, layer_decay=1.0)
    result = evaluate_segmentation(
        suite_row, read_masks(suite_row, tmp_path), EvaluatedModel(ModelRef.parse(run), "run")
    )
    scores = {score.metric: score.value for score in result.scores}
    # A patch is as wide as a cell, and bilinear masks round the corners.
    assert scores["oa"] > 0.9
    assert scores["miou"] > 0.8
    assert set(scores) == {"oa", "miou", "iou_dark", "iou_bright_land"}
    assert "Predicting" in result.notes[0]


def test_a_row_is_the_same_alone_and_after_another_model(
    fields: Path, run: str, make_run: Callable[..., str]
) -> None:
    suite_row = row(epochs=2, scales=(0.5, 2.0), gain=0.2, flips="all")
    data = read_masks(suite_row, fields)
    second = EvaluatedModel(ModelRef.parse(make_run(7, "other")), "other")
    state = torch.random.get_rng_state()
    alone = evaluate_segmentation(suite_row, data, EvaluatedModel(ModelRef.parse(run), "run"))
    other = evaluate_segmentation(suite_row, data, second)
    assert evaluate_segmentation(suite_row, data, EvaluatedModel(ModelRef.parse(run), "run")) == alone
    assert other != alone
    assert torch.equal(state, torch.random.get_rng_state())
    assert [drawing.name for drawing in alone.drawings] == ["masks", "heat-maps"]
    for drawing in alone.drawings:
        assert Image.open(io.BytesIO(base64.b64decode(drawing.content))).format == "PNG"


def test_rows_in_a_report(fields: Path, run: str, tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    shared = 'dataset = "Fields"\nreader = "mask_folders"\npath = "fields"\nsplit = "given"\n'
    values = "epochs = 1\nbatch_size = 2\ninput_size = 32\n"
    suite.write_text(f'name = "masks"\n[[row]]\ntask = "segmentation"\n{shared}{values}')
    summary = benchmark([run, f"untrained:{run}"], tmp_path / "out", suite=suite, data=fields.parent)
    assert [line["metric"] for line in summary.headlines] == ["miou", "miou"]
    markdown = Path(summary.report_md).read_text()
    for words in (
        "Segmentation on Fields",
        "| OA | mIoU | IoU dark | IoU bright land |",
        "heat-maps.png",
        "Predicting",
    ):
        assert words in markdown
    (written,) = (tmp_path / "out" / "splits").iterdir()
    assert written.read_text().count(",test,") == 3
    again = benchmark([run], tmp_path / "out", suite=suite, data=fields.parent)
    assert (again.rows_run, again.rows_reused) == (0, 1)
    with pytest.raises(CheckpointError, match="SARATR-X cannot run segmentation"):
        benchmark([run, "saratr-x:a.pth"], tmp_path / "none", suite=suite, data=fields.parent)
    assert not (tmp_path / "none").exists()


def test_another_class_table_is_another_data_set(fields: Path, tmp_path: Path) -> None:
    shutil.copytree(fields, tmp_path / "fields")
    before = read_masks(row(), tmp_path / "fields").digest
    assert before == read_masks(row(), fields).digest
    table = tmp_path / "fields" / "classes.csv"
    table.write_text(table.read_text().replace("0,dark\n1,bright land", "1,dark\n0,bright land"))
    assert read_masks(row(), tmp_path / "fields").digest != before


def change_set(root: Path) -> None:
    """OMBRIA's layout: what is bright after is flooded unless it was bright before."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 3)):
        for number in range(count):
            before, after = (np.kron(rng.integers(0, 2, (4, 4)), np.ones((8, 8))) for _ in range(2))
            for folder, pixels in (("BEFORE", before), ("AFTER", after)):
                name = f"S1_{folder.lower()}_{number:04d}.png"
                save(60 + 120 * pixels, root / "OmbriaS1" / part / folder / name)
            mask = root / "OmbriaS1" / part / "MASK" / f"S1_mask_{number:04d}.png"
            save(255 * ((after == 1) & (before == 0)), mask)


def test_change_needs_the_image_before(tmp_path: Path, run: str) -> None:
    change_set(tmp_path)
    reached = {}
    for before in (False, True):
        suite_row = row(
            reader="ombria", before=before, epochs=12, batch_size=4, learning_rate=3e-3, layer_decay=1.0
        )
        result = evaluate_segmentation(
            suite_row, read_masks(suite_row, tmp_path), EvaluatedModel(ModelRef.parse(run), "run")
        )
        reached[before] = result.scores[0].value
    assert reached[True] > reached[False] + 0.05


def test_before_without_an_image_before_is_refused(fields: Path) -> None:
    with pytest.raises(DatasetError, match=r"Fields has no image before train/images/0\.png"):
        read_masks(row(before=True), fields)


def test_wrong_sizes_are_refused(fields: Path, run: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="input_size = 36 is no whole number of the model's patches"):
        evaluate_segmentation(
            row(input_size=36), read_masks(row(), fields), EvaluatedModel(ModelRef.parse(run), "run")
        )
    shutil.copytree(fields, tmp_path / "fields")
    save(np.zeros((8, 8)), tmp_path / "fields" / "test" / "masks" / "0.png")
    with pytest.raises(DatasetError, match=r"0\.png is \(8, 8\), and its image \(32, 32\)"):
        evaluate_segmentation(
            row(), read_masks(row(), tmp_path / "fields"), EvaluatedModel(ModelRef.parse(run), "run")
        )


def test_the_paper_preset_is_table_3() -> None:
    values = {**{k: SMALL[k] for k in ("task", "dataset", "path", "split", "reader")}, "preset": "paper"}
    paper = SegmentationRow(**values)
    assert (paper.learning_rate, paper.epochs, paper.decay, paper.layers) == (1e-3, 100, "poly", 2)
    assert paper.preset_label == "paper"
    assert SEGMENTATION_PRESETS["paper"].keys() == SEGMENTATION_PRESETS["recommended"].keys()


def test_titles_of_the_metrics() -> None:
    assert metric_title("iou_bright_land") == ("IoU bright land", "ITC")
    assert metric_title("miou") == ("mIoU", "ITC")
