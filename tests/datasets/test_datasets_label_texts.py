"""Captions and questions from hand-made labels, and the files that store them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fusar_klip import cli
from fusar_klip.datasets.label_texts.captions import land_captions, target_captions
from fusar_klip.datasets.label_texts.generate import LabelTextSettings, build_texts, label_texts
from fusar_klip.datasets.label_texts.label_summary import (
    LandCoverSummary,
    TargetSummary,
    summarize_land_cover,
    summarize_targets,
)
from fusar_klip.datasets.label_texts.language_data import Question, read_records
from fusar_klip.datasets.label_texts.phrases import noun, share
from fusar_klip.datasets.label_texts.questions import land_questions, target_questions
from fusar_klip.datasets.labelled_data import IGNORED, Box, DetectionData, ImageWithBoxes
from fusar_klip.datasets.registry import readers
from fusar_klip.errors import DatasetError, FusarKlipError, SettingsError

LANDS = ("dry", "flooded", "bare field", "field")


def annotated(*boxes: Box, name: str = "a.png", part: str = "train") -> ImageWithBoxes:
    return ImageWithBoxes(Path(name), name, boxes, 90, 60, part)  # type: ignore[arg-type]


# Their centres: (5, 5), (45, 30), (85, 55) of an image 90 wide and 60 high.
UPPER_LEFT, CENTRE, LOWER_RIGHT = (
    Box(category, x, y, 10, 10) for category, x, y in (("ship", 0, 0), ("ship", 40, 25), ("aircraft", 80, 50))
)


def asked(questions: list[Question]) -> dict[str, tuple[str, str, str]]:
    return {question.text: (question.kind, question.answer, question.answer_type) for question in questions}


def test_targets_are_found_in_their_regions() -> None:
    difficult = Box("ship", 0, 50, 10, 10, difficult=True)
    facts = summarize_targets(annotated(UPPER_LEFT, CENTRE, LOWER_RIGHT, difficult), 3)
    assert facts.targets == (("ship", 0), ("ship", 4), ("aircraft", 8))
    outside = Box("ship", 85, 58, 20, 20)
    assert summarize_targets(annotated(outside), 3).targets == (("ship", 8),)


def test_captions_of_targets() -> None:
    said = target_captions(summarize_targets(annotated(UPPER_LEFT, CENTRE, LOWER_RIGHT), 3))
    place = "one in the upper left, one in the centre and one in the lower right"
    assert said == (
        f"There are two ships and one aircraft in this SAR image, {place}.",
        f"This SAR image shows two ships and one aircraft, {place}.",
        f"Two ships and one aircraft can be seen in this radar image, {place}.",
        "One in the upper left, one in the centre and one in the lower right: a SAR image with two ships and "
        "one aircraft.",
        f"A radar view of two ships and one aircraft, {place}.",
    )
    one = target_captions(TargetSummary((("ship", 3),), 3))
    assert one[0] == "There is one ship in this SAR image, on the left."
    two = target_captions(TargetSummary((("A320", 4), ("A320", 4)), 4))
    assert two[1] == "This SAR image shows two targets of type A320, all in region 5."
    many = target_captions(TargetSummary(tuple(("ship", place) for place in (0, 0, 0, 1, 1, 2, 5, 6)), 3))
    assert many[0].endswith("three in the upper left, two in the upper centre and three elsewhere.")
    assert len(set(target_captions(TargetSummary((), 3)))) == 5


def test_questions_about_targets() -> None:
    facts = summarize_targets(annotated(UPPER_LEFT, CENTRE, CENTRE, LOWER_RIGHT), 3)
    said = target_questions(0, facts, ("aircraft", "buoy", "ship"), np.random.default_rng(0))
    answers = asked(said)
    of_region = next(q for q in said if q.answer_type == "name")
    assert of_region.text in (
        "Which category of target is in the upper left of this SAR image?",
        "Which category of target is in the centre of this SAR image?",
        "Which category of target is in the lower right of this SAR image?",
    )
    assert of_region.answer == ("aircraft" if "lower right" in of_region.text else "ship")
    del answers[of_region.text]
    assert answers == {
        "How many targets are in this SAR image?": ("target_count", "4", "number"),
        "How many aircraft are in this SAR image?": ("target_count", "1", "number"),
        "How many ships are in this SAR image?": ("target_count", "3", "number"),
        "How many buoys are in this SAR image?": ("target_count", "0", "number"),
        "Which categories of targets are in this SAR image?": ("target_category", "aircraft, ship", "set"),
        "Which of the regions 1 to 9 hold aircraft?": ("target_position", "9", "set"),
        "Which of the regions 1 to 9 hold ships?": ("target_position", "1, 5", "set"),
    }
    nothing = asked(target_questions(0, TargetSummary((), 3), ("ship",), np.random.default_rng(0)))
    assert nothing == {
        "How many ships are in this SAR image?": ("target_count", "0", "number"),
        "Which categories of targets are in this SAR image?": ("target_category", "none", "set"),
    }


def land() -> LandCoverSummary:
    """70 of 100 pixels dry; the lower right quarter flooded but for a corner without label."""
    mask = np.zeros((10, 10), np.uint8)
    mask[5:, 5:] = 1
    mask[9, 9] = IGNORED
    mask[0, :5] = 2
    facts = summarize_land_cover(mask, LANDS, 2, 0.06)
    assert facts is not None
    return facts


def test_landforms_are_measured() -> None:
    facts = land()
    assert facts.shares == pytest.approx((70 / 99, 24 / 99, 5 / 99, 0))
    assert facts.present == (0, 1)  # 5 of 99 are under the least share
    assert facts.main == 0
    assert facts.main_by_region == (0, 0, 0, 1)
    tie = summarize_land_cover(np.array([[0, 1]], np.uint8), LANDS, 1, 0.01)
    assert tie is not None
    assert tie.main is None
    assert tie.main_by_region == (None,)
    assert summarize_land_cover(np.full((4, 4), IGNORED, np.uint8), LANDS, 2, 0.01) is None


def test_captions_and_questions_about_landforms() -> None:
    shares = "about 70% dry and about 20% flooded"
    regions = (
        "dry prevails in the upper left, in the upper right and in the lower left, flooded in the lower right"
    )
    said = land_captions(land())
    assert said[0] == f"This SAR image shows ground that is {shares}; {regions}."
    assert said[3] == f"A radar view of ground that is mainly dry, {shares}."
    assert len(set(said)) == 5
    quarter = "What is the main landform in the {} of this SAR image?"
    assert asked(land_questions(0, land())) == {
        "What is the main landform in this SAR image?": ("main_land", "dry", "name"),
        "Which landforms are in this SAR image?": ("all_land", "dry, flooded", "set"),
        quarter.format("upper left"): ("regional_land", "dry", "name"),
        quarter.format("upper right"): ("regional_land", "dry", "name"),
        quarter.format("lower left"): ("regional_land", "dry", "name"),
        quarter.format("lower right"): ("regional_land", "flooded", "name"),
    }


def test_nothing_is_asked_that_has_no_single_answer() -> None:
    tie = summarize_land_cover(np.array([[0, 1]], np.uint8), LANDS, 1, 0.01)
    assert tie is not None
    assert [question.kind for question in land_questions(0, tie)] == ["all_land"]
    assert land_captions(tie)[1] == "This SAR image is mainly dry and flooded; no landform prevails."
    small = summarize_land_cover(np.array([[0, 0, 1]], np.uint8), LANDS, 1, 0.9)
    assert small is not None
    assert small.present == (0,)


def test_shares_and_nouns_in_words() -> None:
    said = [share(fraction) for fraction in (0.01, 0.05, 0.1, 0.44, 0.949, 0.95, 1)]
    assert said == [
        "a little",
        "about 10%",
        "about 10%",
        "about 40%",
        "about 90%",
        "nearly all",
        "nearly all",
    ]
    plurals = ("ships", "aircraft", "ferries", "buses", "other targets", "targets of type A320/321")
    given = ("ship", "aircraft", "ferry", "bus", "other", "A320/321")
    assert tuple(noun(category, 2) for category in given) == plurals


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """A COCO set of six images with a train and a test part."""
    folder = tmp_path / "set"
    for part, count in (("train", 4), ("test", 2)):
        images, annotations = [], []
        for number in range(count):
            name = f"{part}{number}.png"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            Image.new("L", (90, 60), 10 * number + (100 if part == "test" else 5)).save(
                folder / "images" / name
            )
            images.append({"id": number, "file_name": name, "width": 90, "height": 60})
            for box in range(number + 1):
                bbox = [10 * box, 5, 10, 10]
                annotations.append(
                    {"id": 9 * number + box, "image_id": number, "category_id": 1, "bbox": bbox}
                )
        table = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "ship"}, {"id": 2, "name": "buoy"}],
        }
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{part}.json").write_text(json.dumps(table))
    return folder


def test_files_hold_what_was_built_and_are_the_same_again(boxes: Path, tmp_path: Path) -> None:
    summary = label_texts("coco", boxes, tmp_path / "texts")
    assert (summary.images, summary.by_part, summary.captions) == (6, {"test": 2, "train": 4}, 30)
    assert summary.questions == sum(summary.by_kind.values())
    again = label_texts("coco", boxes, tmp_path / "deeper" / "texts")
    assert again.sha256 == summary.sha256
    line = json.loads((tmp_path / "texts" / "captions.jsonl").read_text().splitlines()[0])
    assert set(line) == {"image", "part", "group", "captions"}
    read = read_records(tmp_path / "texts", "T")
    assert read.digest == read_records(tmp_path / "deeper" / "texts", "T").digest
    assert all(image.file.is_file() for image in read.images)
    assert read.names == ("ship",)
    assert {q.answer for q in read.questions if q.text == "How many ships are in this SAR image?"} == set(
        "1234"
    )


def test_other_people_s_files_are_read_and_checked(boxes: Path, tmp_path: Path) -> None:
    texts = tmp_path / "own"
    label_texts("coco", boxes, texts)
    (texts / "label_texts.json").unlink()
    with pytest.raises(DatasetError, match="put the images back"):
        read_records(texts, "T")
    lines = (texts / "captions.jsonl").read_text().splitlines()
    for line in lines:
        (texts / json.loads(line)["image"]).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(texts / json.loads(line)["image"])
    assert read_records(texts, "T").names == ("ship",)
    whole = (texts / "captions.jsonl").read_text()
    (texts / "captions.jsonl").write_text(whole + lines[0] + "\n")
    with pytest.raises(DatasetError, match=r"lists images/test0\.png more than once"):
        read_records(texts, "T")
    # A single text would come apart into letters.
    (texts / "captions.jsonl").write_text(json.dumps(json.loads(lines[0]) | {"captions": "one ship"}) + "\n")
    with pytest.raises(DatasetError, match="captions, a list of texts"):
        read_records(texts, "T")
    (texts / "captions.jsonl").write_text(whole)
    (texts / "questions.jsonl").write_text('{"image": "images/train0.png"}\n')
    with pytest.raises(DatasetError, match="kind"):
        read_records(texts, "T")
    (texts / "questions.jsonl").write_text("{")
    with pytest.raises(DatasetError, match="no JSON Lines"):
        read_records(texts, "T")


def test_the_seed_draws_the_region_and_nothing_else() -> None:
    shown = [annotated(UPPER_LEFT, CENTRE, LOWER_RIGHT, name=f"{n}.png") for n in range(20)]
    data = DetectionData(tuple(shown), ("aircraft", "ship"))
    first, same, other = (build_texts(data, LabelTextSettings(text_seed=seed)) for seed in (0, 0, 1))
    assert first.questions == same.questions
    assert first.questions != other.questions
    assert first.images == other.images


def test_wrong_readers_and_splits_say_so(boxes: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no reader"):
        label_texts("mstar", boxes, tmp_path / "texts")
    with pytest.raises(SettingsError, match="no split"):
        label_texts("coco", boxes, tmp_path / "texts", split="thirds")
    with pytest.raises(FusarKlipError, match=r"not found: .*nowhere does not exist"):
        label_texts("coco", tmp_path / "nowhere", tmp_path / "texts")
    assert not (tmp_path / "texts").exists()


def test_the_verb_reports_json_alone(boxes: Path, tmp_path: Path) -> None:
    arguments = ["label-texts", "coco", str(boxes), "--out", str(tmp_path / "t"), "--set", "target_grid=2"]
    result = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["images"] == 6
    assert "regions 1 to 4" in (tmp_path / "t" / "questions.jsonl").read_text()


def test_the_help_lists_every_reader_of_boxes_and_masks() -> None:
    result = CliRunner().invoke(cli.app, ["label-texts", "--help"], env={"COLUMNS": "500"})
    shown = result.stdout.replace("\n", " ")
    assert all(reader in shown for reader in readers("detection", "segmentation"))
