"""ViTDet: its parts, the views it learns from, the whole row on made images, and what is refused."""

import base64
import io
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics import bootstrap
from fusar_klip.benchmark.results import RowResult
from fusar_klip.benchmark.tasks.detection import DetectionRow, evaluate_detection, read_boxes, training_subset
from fusar_klip.config import validate_settings
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.finetune.detection.settings import DETECTION_PRESETS
from fusar_klip.models import ModelRef

SMALL: dict[str, Any] = {
    "task": "detection",
    "dataset": "Boats",
    "path": "boats",
    "split": "given",
    "reader": "coco",
    "epochs": 1,
    "batch_size": 2,
    "input_size": 64,
    "window": 4,
    "global_blocks": 1,
    "channels": 16,
    "regions": 32,
    "anchor_size": 8,
    "scales": (1.0, 1.0),
    "gain": 0.0,
    "warmup_epochs": 0.0,
}


def row(**changed: Any) -> DetectionRow:
    return validate_settings(DetectionRow, {**SMALL, **changed})


def boat(
    path: Path, boxes: list[tuple[int, int, int, int]], seed: int, size: tuple[int, int] = (64, 64)
) -> None:
    """Speckle with a bright box (x, y, width, height) for each boat."""
    pixels = np.random.default_rng(seed).rayleigh(15, size[::-1])
    for x, y, width, height in boxes:
        pixels[y : y + height, x : x + width] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def boats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with `boats`: COCO, two categories, 10 training and 4 test images of one to two boats."""
    data = tmp_path_factory.mktemp("detection")
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        images, annotations = [], []
        for number in range(count):
            boxes = [(int(rng.integers(2, 20)), int(rng.integers(2, 40)), 18, 10)]
            if number % 2:
                boxes.append((44, int(rng.integers(2, 30)), 10, 22))
            boat(data / "boats" / "images" / f"{part}{number}.png", boxes, number)
            images.append({"id": number, "file_name": f"{part}{number}.png", "width": 64, "height": 64})
            for box in boxes:
                category = 1 if box[2] > box[3] else 2
                annotations.append(
                    {"id": len(annotations), "image_id": number, "category_id": category, "bbox": box}
                )
        table = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "lying"}, {"id": 2, "name": "standing"}],
        }
        (data / "boats" / "annotations").mkdir(exist_ok=True)
        (data / "boats" / "annotations" / f"{part}.json").write_text(json.dumps(table))
    return data


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 40)


@pytest.mark.parametrize("head", ["faster", "cascade"])
def test_a_detector_memorises_one_image(tmp_path: Path, run: str, head: str, few_resamples: None) -> None:
    boxes = [(8, 10, 20, 12), (36, 34, 14, 20)]
    images = []
    for part in ("train", "test"):
        boat(tmp_path / f"{part}.png", boxes, 0)
        images.append({"id": part, "file_name": f"{part}.png", "width": 64, "height": 64})
        annotations = [{"image_id": part, "category_id": 1, "bbox": box} for box in boxes]
        table = {"images": images[-1:], "annotations": annotations, "categories": [{"id": 1, "name": "boat"}]}
        (tmp_path / f"{part}.json").write_text(json.dumps(table))
    suite_row = row(
        head=head, epochs=45, batch_size=1, learning_rate=3e-3, layer_decay=1.0, channels=32, seed=1
    )
    result = evaluate_detection(
        suite_row, read_boxes(suite_row, tmp_path), EvaluatedModel(ModelRef.parse(run), "run")
    )
    scores = {score.metric: score.value for score in result.scores}
    assert scores["ap50"] == pytest.approx(1.0)
    assert scores["ap"] > 0.5
    assert "ap_large" not in scores


def test_a_row_is_the_same_alone_and_after_another_model(
    boats: Path, run: str, make_run: Callable[..., str], few_resamples: None
) -> None:
    suite_row = row(shots=3, scales=(0.7, 1.4), gain=0.2, flips="all", head="cascade")
    data = read_boxes(suite_row, boats / "boats")
    second = EvaluatedModel(ModelRef.parse(make_run(7, "other")), "other")
    state = torch.random.get_rng_state()
    alone = evaluate_detection(suite_row, data, EvaluatedModel(ModelRef.parse(run), "run"))
    other = evaluate_detection(suite_row, data, second)
    assert evaluate_detection(suite_row, data, EvaluatedModel(ModelRef.parse(run), "run")) == alone
    assert other.scores != alone.scores or other.drawings != alone.drawings
    assert torch.equal(state, torch.random.get_rng_state())
    check_result(alone)


def check_result(result: RowResult) -> None:
    assert [score.metric for score in result.scores][:2] == ["ap50", "ap"]
    for score in result.scores:
        assert score.n == 4
        assert score.ci_low is not None
        assert 0 <= score.ci_low <= score.ci_high <= 1  # type: ignore[operator]
    assert "6 boxes in 4 test images." in result.notes
    assert any("Trained on 3 of 10 training images" in note for note in result.notes)
    assert [drawing.name for drawing in result.drawings] == ["detections", "heat-maps"]
    for drawing in result.drawings:
        assert Image.open(io.BytesIO(base64.b64decode(drawing.content))).format == "PNG"


def test_fewer_training_images_are_among_more() -> None:
    train = np.arange(40) * 2
    drawn = [set(training_subset(train, row(shots=n)).tolist()) for n in (1, 5, 20, 40, 90)]
    assert [len(images) for images in drawn] == [1, 5, 20, 40, 40]
    assert all(few < more or more == set(train.tolist()) for few, more in itertools.pairwise(drawn))
    assert set(training_subset(train, row(train_share=0.125)).tolist()) == drawn[1]
    assert set(training_subset(train, row(shots=5, seed=1)).tolist()) != drawn[1]


def test_a_split_file_gives_the_parts(boats: Path, tmp_path: Path) -> None:
    shutil.copytree(boats / "boats", tmp_path / "boats")
    split = tmp_path / "boats" / "split.csv"
    split.write_text(
        "file,split,group\nimages/train1.png,test,b\nimages/test1.png,train,a\nimages/test2.png,val,c\n"
    )
    data = read_boxes(row(), tmp_path / "boats")
    assert [(image.name, image.part, image.group) for image in data.images] == [
        ("images/train1.png", "test", "b"),
        ("images/test1.png", "train", "a"),
    ]
    split.write_text("file,split\nimages/gone.png,test\n")
    with pytest.raises(DatasetError, match=r"does not hold, the first images/gone\.png"):
        read_boxes(row(), tmp_path / "boats")
    split.write_text("file,split\nimages/train1.png,train\n")
    with pytest.raises(DatasetError, match="no test images"):
        read_boxes(row(), tmp_path / "boats")


def test_all_categories_as_one(boats: Path) -> None:
    data = read_boxes(row(one_class=True), boats / "boats")
    plain = read_boxes(row(), boats / "boats")
    assert (data.classes, plain.classes) == (("object",), ("lying", "standing"))
    assert {box.category for image in data.images for box in image.boxes} == {"object"}
    assert [len(image.boxes) for image in data.images] == [len(image.boxes) for image in plain.images]
    assert data.digest != plain.digest


def test_random_and_grouped_splits(boats: Path) -> None:
    paper = read_boxes(row(split="paper"), boats / "boats")
    assert (len(paper.part("train")), len(paper.part("test"))) == (11, 3)
    again = read_boxes(row(split="paper", seed=3), boats / "boats")
    assert again.digest == paper.digest
    assert read_boxes(row(split="paper", split_seed=1), boats / "boats").digest != paper.digest


def test_a_part_without_boxes_is_refused(boats: Path, tmp_path: Path) -> None:
    shutil.copytree(boats / "boats", tmp_path / "boats")
    file = tmp_path / "boats" / "annotations" / "test.json"
    table = json.loads(file.read_text())
    file.write_text(json.dumps({**table, "annotations": []}))
    with pytest.raises(DatasetError, match=r"test images of Boats .* have no box"):
        read_boxes(row(), tmp_path / "boats")


def test_the_paper_preset_is_table_3() -> None:
    values = {**{k: SMALL[k] for k in ("task", "dataset", "path", "split", "reader")}, "preset": "paper"}
    paper = DetectionRow(**values)
    assert (paper.learning_rate, paper.epochs, paper.decay) == (1e-4, 36, "multistep")
    assert paper.preset_label == "paper"
    assert DetectionRow(**values, epochs=2).preset_label == "paper+epochs=2"
    assert DETECTION_PRESETS["paper"].keys() == DETECTION_PRESETS["recommended"].keys()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"input_size": 100}, "input_size.*multiple of 32"),
        ({"scales": (2.0, 1.0)}, "the smaller one first"),
        ({"heads": "faster"}, 'unknown key "heads"; did you mean "head"'),
        ({"shots": 0}, "shots"),
    ],
)
def test_wrong_rows_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        row(**changed)
