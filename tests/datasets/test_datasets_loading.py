"""Loading of classification sets: split files, folders of parts, leakage notes, and what is refused."""

import re
from pathlib import Path

import pytest
from PIL import Image

from fusar_klip.datasets.classification_sets import MSTAR_CLASSES
from fusar_klip.datasets.labelled_data import ClassificationData, DatasetNotFoundError
from fusar_klip.datasets.loading import load_classification
from fusar_klip.datasets.splits import LabelledSplitSettings
from fusar_klip.errors import DatasetError


def read(path: Path, reader: str = "class_folders") -> ClassificationData:
    return load_classification(reader, path, LabelledSplitSettings(split="given"), "D")


def lay(path: Path, files: dict[str, int], split: str | None = None) -> Path:
    for name, grey in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), grey).save(path / name)
    if split is not None:
        (path / "split.csv").write_text(split)
    return path


CLEAN = "file,class,group,split\na/0.png,a,0,train\nb/1.png,b,1,train\na/2.png,a,2,test\nb/3.png,b,3,test\n"
FILES = {"a/0.png": 0, "b/1.png": 1, "a/2.png": 2, "b/3.png": 3}


def test_split_file(tmp_path: Path) -> None:
    data = read(lay(tmp_path, FILES, CLEAN))
    assert data.classes == ("a", "b")
    assert [data.images[i].name for i in data.part("test")] == ["a/2.png", "b/3.png"]
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert len(set(data.groups.tolist())) == 4
    assert data.notes == []


def test_leaks_of_groups_and_of_equal_files_are_noted(tmp_path: Path) -> None:
    leaky = CLEAN.replace("a/2.png,a,2", "a/2.png,a,0")
    data = read(lay(tmp_path, {**FILES, "b/3.png": 1}, leaky))
    assert any("1 groups are in both parts" in note and "1 of its test" in note for note in data.notes)
    assert any("1 test images are byte for byte" in note for note in data.notes)


def test_digest_follows_content_and_split(tmp_path: Path) -> None:
    first = read(lay(tmp_path / "1", FILES, CLEAN)).digest
    assert read(lay(tmp_path / "2", FILES, CLEAN)).digest == first
    assert read(lay(tmp_path / "3", {**FILES, "a/0.png": 9}, CLEAN)).digest != first
    assert read(lay(tmp_path / "4", FILES, CLEAN.replace(",2,", ",7,"))).digest != first


def test_split_folders_and_mstar_names(tmp_path: Path) -> None:
    files = {f"{part}/{number}/x.png": 0 for part in ("train", "val") for number in MSTAR_CLASSES}
    data = read(lay(tmp_path, files), "mstar")
    assert data.classes == tuple(sorted(MSTAR_CLASSES.values()))
    assert len(data.part("train")) == len(data.part("test")) == 10
    assert read(tmp_path, "split_folders").classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (None, "name a split file"),
        ("file,class\na/0.png,a\n", "no column split"),
        (CLEAN + "a/0.png,a,0,train\n", "more than once"),
        (CLEAN + "a/9.png,a,0,train\n", "do not exist, the first"),
        (CLEAN.replace("train", "val"), "no train images"),
        (CLEAN.replace("b/1.png,b", "b/1.png,a"), "no training image of b"),
        ("file,class,split\na/0.png,a,train\na/2.png,a,test\n", "only one class"),
    ],
)
def test_wrong_split_files_say_what_is_wrong(tmp_path: Path, split: str | None, message: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(message)):
        read(lay(tmp_path, FILES, split))


def test_missing_folders_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="FUSAR_KLIP_DATA"):
        read(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"train and test \(or val\)"):
        read(tmp_path, "split_folders")
    with pytest.raises(DatasetError, match="class folder tank"):
        read(lay(tmp_path, {"train/tank/0.png": 0, "val/tank/1.png": 1}), "mstar")


@pytest.mark.real_data
def test_real_sets(real_data: Path) -> None:
    aircraft = read(real_data / "cls_sar_acd")
    assert (len(aircraft.classes), len(aircraft.images)) == (6, 2562)
    assert aircraft.notes == []
    vehicles = read(real_data / "cls_mstar", "mstar")
    assert (len(vehicles.part("train")), len(vehicles.part("test"))) == (2747, 1823)
