"""Near-duplicate detection on planted copies, and the splits that keep near-duplicates together."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from fusar_klip.datasets.classification_sets import read_split_file
from fusar_klip.datasets.labelled_data import ClassificationData, ImageWithBoxes, ImageWithLabel
from fusar_klip.datasets.loading import load_classification
from fusar_klip.datasets.near_duplicates import SYMMETRIES, Match, find_near_duplicates, group_ids, leakage
from fusar_klip.datasets.near_duplicates.matching import transformed
from fusar_klip.datasets.splits import LabelledSplitSettings, near_duplicate_groups, split_images, write_split
from fusar_klip.errors import DatasetError

Chip = NDArray[np.float64]


def target(seed: int, height: int = 72, width: int = 64) -> Chip:
    """Correlated speckle with a few bright scatterers: one acquisition of one target."""
    rng = np.random.default_rng(seed)
    speckle = np.abs(gaussian_filter(rng.normal(size=(2, height, width)), (0, 0.8, 0.8)).sum(axis=0)) * 60
    for _ in range(6):
        row, column = rng.integers(height // 4, 3 * height // 4), rng.integers(width // 4, 3 * width // 4)
        speckle[row, column] += 2500
    return np.asarray(np.clip(gaussian_filter(speckle, 0.9) + 4, 0, 255))


def save(path: Path, chip: Chip) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.rint(chip), 0, 255).astype(np.uint8)).save(path)
    return path


@given(
    turn=st.integers(0, 7),
    down=st.integers(-5, 5),
    right=st.integers(-5, 5),
    noise=st.booleans(),
    gain=st.floats(0.6, 1.3),
    crop=st.integers(0, 12),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_planted_copy_is_found_and_nothing_else(
    tmp_path: Path, turn: int, down: int, right: int, noise: bool, gain: float, crop: int, seed: int
) -> None:
    originals = [target(seed + number) for number in range(6)]
    copy = np.zeros_like(originals[2])
    height, width = copy.shape
    copy[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = originals[2][
        max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]
    copy = copy[crop // 2 : height - crop + crop // 2] * gain
    if noise:
        copy = copy + np.random.default_rng(seed).normal(0, 0.05 * 255, copy.shape)
    files = [save(tmp_path / f"{number}.png", chip) for number, chip in enumerate(originals)]
    files.append(save(tmp_path / "copy.png", transformed(copy, turn)))
    assert [(match.first, match.second) for match in find_near_duplicates(files)] == [(2, 6)]


def test_turn_and_shift_bring_the_copy_back(tmp_path: Path) -> None:
    original = target(0, 90, 80)
    for number, name in enumerate(SYMMETRIES):
        copy = transformed(original[6:80, 10:76], number)
        files = [save(tmp_path / f"a{number}.png", original), save(tmp_path / f"b{number}.png", copy)]
        (match,) = find_near_duplicates(files)
        back = SYMMETRIES.index(match.symmetry)
        assert np.array_equal(transformed(copy, back), original[6:80, 10:76]), name
        assert (match.down, match.right) == (6, 10)
        assert match.score > 0.97


def test_large_images_are_found_at_a_common_reduction(tmp_path: Path) -> None:
    scenes = [np.kron(target(number, 70, 70), np.ones((8, 8))) for number in range(3)]
    files = [save(tmp_path / f"{number}.png", scene) for number, scene in enumerate(scenes)]
    files.append(save(tmp_path / "copy.png", np.rot90(scenes[1])[:, ::-1]))
    (match,) = find_near_duplicates(files)
    assert (match.first, match.second) == (1, 3)


def test_one_bright_ship_each_does_not_make_two_seas_alike(tmp_path: Path) -> None:
    files = []
    for number in range(8):
        rng = np.random.default_rng(number)
        sea = rng.normal(30, 5, (96, 96))
        row, column = rng.integers(20, 76, 2)
        sea[row - 2 : row + 3, column - 5 : column + 6] = 230
        files.append(save(tmp_path / f"{number}.png", gaussian_filter(sea, 0.5)))
    assert find_near_duplicates(files) == []


def test_flat_few_and_unreadable_images(tmp_path: Path) -> None:
    flat = [save(tmp_path / f"flat{n}.png", np.full((40, 40), 9.0)) for n in range(2)]
    assert find_near_duplicates(flat) == []
    assert find_near_duplicates(flat[:1]) == []
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(DatasetError, match="is not a readable image"):
        find_near_duplicates([*flat, tmp_path / "broken.png"])


def test_groups_follow_chains() -> None:
    matches = [Match(0, 2, 1.0, "same", 0, 0), Match(2, 4, 1.0, "same", 0, 0)]
    groups = group_ids(5, matches)
    assert groups[0] == groups[2] == groups[4]
    assert len(set(groups.tolist())) == 3


def image(file: Path, label: str, part: str | None, group: str | None = None) -> ImageWithLabel:
    return ImageWithLabel(file, file.name, label, part, group)  # type: ignore[arg-type]


def test_leakage_of_a_split_and_contradictions(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{n}.png", target(n)) for n in range(4)]
    files.append(save(tmp_path / "copy.png", np.rot90(target(0))))
    parts = ["train", "train", "test", "test", "test"]
    images = [image(file, "ab"[n % 2], part) for n, (file, part) in enumerate(zip(files, parts, strict=True))]
    report = leakage(images, find_near_duplicates(files))
    assert (report.groups, report.largest_group, report.test_images) == (4, 2, 3)
    assert report.leaked_names == ("copy.png",)
    assert report.contradictory_groups == ()
    assert "1 of 3 test images (33%)" in report.notes[0]
    relabelled = [*images[:4], image(files[4], "b", "train")]
    report = leakage(relabelled, find_near_duplicates(files))
    assert report.contradictory_groups == (("0.png", "copy.png"),)
    assert report.leaked_test_images == 0
    assert len(report.notes) == 1


# ---- splits


@pytest.fixture(scope="module")
def expanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of five targets, each as it is, flipped, turned and cut: 60 chips without a split."""
    folder = tmp_path_factory.mktemp("expanded")
    for c, label in enumerate("abc"):
        for number in range(5):
            chip = target(100 * c + number)
            for k, copy in enumerate((chip, chip[:, ::-1], np.rot90(chip), chip[4:, :-6])):
                save(folder / label / f"{number}_{k}.png", copy)
    return folder


def read(path: Path, **values: object) -> ClassificationData:
    return load_classification("class_folders", path, LabelledSplitSettings.model_validate(values), "D")


def test_paper_is_random_and_grouped_keeps_copies_together(expanded: Path) -> None:
    paper, grouped = read(expanded, split="paper"), read(expanded, split="grouped")
    for data in (paper, grouped):
        assert len(data.images) == 60
        assert len(data.part("test")) == 12
        for label in "abc":
            assert sum(data.images[i].label == label for i in data.part("test")) == 4
    assert paper.groups is None
    assert leakage(paper.images, find_near_duplicates(paper.files)).leaked_test_images > 6
    assert leakage(grouped.images, find_near_duplicates(grouped.files)).leaked_test_images == 0
    assert grouped.groups is not None
    assert np.bincount(grouped.groups).tolist() == [4] * 15
    assert grouped.notes == []


def test_splits_follow_their_seed_alone(expanded: Path) -> None:
    digests = {read(expanded, split="paper", split_seed=seed).digest for seed in (0, 1, 2)}
    assert len(digests) == 3
    assert read(expanded, split="mine", split_by="paper").digest == read(expanded, split="paper").digest


def test_a_written_split_is_read_back(expanded: Path, tmp_path: Path) -> None:
    made = read(expanded, split="grouped")
    path, checksum = write_split(tmp_path, "My set", "grouped", made)
    assert path.parent == tmp_path / "splits"
    assert path.name.startswith("my-set-grouped-")
    assert checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    again = read(expanded, split="given", split_file=str(path))
    assert again.digest == made.digest
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["sha256"] == hashlib.sha256((expanded / rows[0]["file"]).read_bytes()).hexdigest()
    assert write_split(tmp_path, "My set", "grouped", made) == (path, checksum)


def test_a_made_split_overrides_a_file_only_when_it_is_asked_for(expanded: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.csv"
    names = [image.name for image in read(expanded, split="paper").images]
    rows = [f"{name},{name[0]},{'test' if name[2] in '01' else 'train'}" for name in names]
    half.write_text("\n".join(["file,class,split", *rows]))
    split_file = str(half)
    assert len(read_split_file(expanded, half)) == 60
    # `grouped` names a file's own split, as suites before this version do; `paper` is always random.
    assert len(read(expanded, split="grouped", split_file=split_file).part("test")) == 24
    assert len(read(expanded, split="half", split_file=split_file).part("test")) == 24
    assert len(read(expanded, split="paper", split_file=split_file).part("test")) == 12
    assert len(read(expanded, split="half", split_by="grouped", split_file=split_file).part("test")) == 12
    with pytest.raises(DatasetError, match="has no split of its own"):
        read(expanded, split="mine")


def test_groups_of_the_data_set_join_what_is_found(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{n}.png", target(n)) for n in range(4)]
    files.append(save(tmp_path / "copy.png", target(0)[::-1]))
    images = [image(file, "a", None, group) for file, group in zip(files, "xxyzw", strict=True)]
    assert near_duplicate_groups(images).tolist() == [0, 0, 1, 2, 0]


def test_boxes_are_split_too_and_small_sets_are_refused(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{n}.png", target(n)) for n in range(10)]
    boxed = [ImageWithBoxes(file, file.name, (), 64, 72, None) for file in files]
    parts = [image.part for image in split_images(boxed, "grouped", 0, "D")]
    assert (parts.count("train"), parts.count("test")) == (8, 2)
    with pytest.raises(DatasetError, match="too few images"):
        split_images(boxed[:4], "paper", 0, "D")


@pytest.mark.real_data
def test_sar_acd_split_leaks_crops(real_data: Path) -> None:
    """One class of SAR-ACD: groups of its split.csv hold together, and it leaks other crops all the same."""
    folder = real_data / "cls_sar_acd"
    images = [i for i in read_split_file(folder, folder / "split.csv") if i.label == "ARJ21"]
    matches = find_near_duplicates([i.file for i in images])
    found = group_ids(len(images), matches)
    by_group: dict[str, set[int]] = {}
    for entry, group in zip(images, found.tolist(), strict=True):
        by_group.setdefault(str(entry.group), set()).add(group)
    assert all(len(groups) == 1 for groups in by_group.values())
    assert leakage(images, matches).leaked_test_images > 40
