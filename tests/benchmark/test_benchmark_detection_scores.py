"""AP against pycocotools, its bootstrap, and which boxes are right, false, missed or do not count."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fusar_klip.benchmark.metrics import bootstrap
from fusar_klip.benchmark.metrics.average_precision import average_precision, detection_scores
from fusar_klip.benchmark.metrics.box_matching import Detections, GroundTruth, match_class, match_image

CLASSES = 3


def random_images(seed: int, count: int) -> tuple[list[GroundTruth], list[Detections]]:
    """Boxes, a fifth of them ignored; detections near them, two of each, and stray ones; scores that tie."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(count):
        boxes, strays = (
            np.concatenate([corner := rng.integers(0, 200, (n, 2)), corner + rng.integers(5, 140, (n, 2))], 1)
            for n in rng.integers(0, [6, 5])
        )
        labels = rng.integers(0, CLASSES, len(boxes))
        truths.append(GroundTruth(boxes.astype(float), labels, rng.random(len(boxes)) < 0.2))
        near = np.concatenate([boxes, boxes]) + rng.integers(-12, 13, (2 * len(boxes), 4))
        candidates = np.concatenate([near, strays]).astype(float)
        candidates[:, 2:] = np.maximum(candidates[:, 2:], candidates[:, :2] + 1)
        named = np.concatenate([labels, labels, rng.integers(0, CLASSES, len(strays))])
        found.append(Detections(candidates, np.round(rng.random(len(candidates)), 1), named))
    return truths, found


def coco_scores(truths: list[GroundTruth], found: list[Detections]) -> dict[str, float]:
    def bbox(box: np.ndarray) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    boxes = [
        {
            "image_id": i,
            "category_id": int(label) + 1,
            "bbox": bbox(box),
            "area": bbox(box)[2] * bbox(box)[3],
            "iscrowd": int(ignored),
        }
        for i, t in enumerate(truths, 1)
        for box, label, ignored in zip(t.boxes, t.labels, t.ignored, strict=True)
    ]
    answers = [
        {"image_id": i, "category_id": int(label) + 1, "bbox": bbox(box), "score": float(score)}
        for i, f in enumerate(found, 1)
        for box, score, label in zip(f.boxes, f.scores, f.labels, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(1, len(truths) + 1)],
            "annotations": [{"id": n, **box} for n, box in enumerate(boxes, 1)],
            "categories": [{"id": label + 1} for label in range(CLASSES)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = {"ap50": 1, "ap": 0, "ap_small": 3, "ap_medium": 4, "ap_large": 5}
    return {name: float(evaluation.stats[place]) for name, place in names.items()}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 40)


@pytest.mark.parametrize("seed", range(15))
def test_average_precision_is_pycocotools(seed: int) -> None:
    truths, found = random_images(seed, 3 + seed)
    ours = {score.metric: score.value for score in detection_scores(truths, found, CLASSES, None, 0)}
    # It says -1 of sizes of which there is no box.
    theirs = {name: value for name, value in coco_scores(truths, found).items() if value >= 0}
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_a_resample_is_the_same_as_its_images() -> None:
    truths, found = random_images(3, 10)
    rng = np.random.default_rng(0)
    found = [Detections(f.boxes, rng.random(len(f.boxes)), f.labels) for f in found]
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    drawn = np.array([2.0, 0, 1, 0, 2])
    weighted = [match_class(truths, found, label, "all") for label in range(CLASSES)]
    images = [i for i in range(10) for _ in range(int(drawn[groups[i]]))]
    repeated = [
        match_class([truths[i] for i in images], [found[i] for i in images], label, "all")
        for label in range(CLASSES)
    ]
    both = np.array([[0] * 5, drawn])
    plain = average_precision(repeated, range(10), np.arange(len(images)), np.ones((1, len(images))))
    resampled = average_precision(weighted, range(10), groups, both)
    assert np.isnan(resampled[0])
    assert resampled[1] == pytest.approx(plain[0])


def test_intervals_draw_whole_groups() -> None:
    truths, found = random_images(5, 30)
    alone = detection_scores(truths, found, CLASSES, None, 0)[0]
    grouped = detection_scores(truths, found, CLASSES, np.arange(30) // 10, 0)[0]
    assert (alone.ci_unit, grouped.ci_unit) == ("image", "group")
    assert alone.value == grouped.value
    assert alone.ci_low is not None
    assert alone.ci_high is not None
    assert alone.ci_low < alone.value < alone.ci_high
    one = detection_scores(truths, found, CLASSES, np.zeros(30, dtype=int), 0)[0]
    assert (one.ci_low, one.ci_high) == (None, None)


def test_ignored_boxes_are_neither_found_nor_missed() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [20, 0, 40, 20], [50, 0, 60, 10]])
    truth = GroundTruth(boxes, np.zeros(3, dtype=int), np.array([False, True, False]))
    found = Detections(
        np.array([[1.0, 0, 10, 10], [21, 1, 30, 10], [80, 0, 90, 10], [0, 0, 9, 10]]),
        np.array([0.9, 0.8, 0.7, 0.6]),
        np.zeros(4, dtype=int),
    )
    verdict, missed = match_image(truth, found)
    # The last one is a second detection of a box that is taken.
    assert verdict.tolist() == [1, -1, 0, 0]
    assert missed.tolist() == [False, False, True]
    score = detection_scores([truth], [found], 1, None, 0)[0]
    # One of two boxes at full precision: 51 of 101 recalls.
    assert score.value == pytest.approx(51 / 101)


def test_another_class_is_no_right_box() -> None:
    truth = GroundTruth(np.array([[0.0, 0, 10, 10]]), np.array([1]), np.array([False]))
    found = Detections(truth.boxes, np.array([0.9]), np.array([0]))
    verdict, missed = match_image(truth, found)
    assert verdict.tolist() == [0]
    assert missed.tolist() == [True]
    assert detection_scores([truth], [found], 2, None, 0)[0].value == 0
