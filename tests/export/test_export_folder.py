"""Every format: atomic writing, deterministic bytes, and error messages of one sentence."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.export import export
from fusar_klip.export.formats import WRITERS

FORMATS = sorted(WRITERS)


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_data_set_gives_the_same_bytes(dataset: Path, tmp_path: Path, to: str) -> None:
    first = export(dataset, to=to, out=tmp_path / "a")
    export(dataset, to=to, out=tmp_path / "b")
    assert all_bytes(tmp_path / "a") == all_bytes(tmp_path / "b")
    assert first.files == len(all_bytes(tmp_path / "a"))
    assert first.bytes == sum(map(len, all_bytes(tmp_path / "a").values()))
    assert str(tmp_path).encode() not in b"".join(all_bytes(tmp_path / "a").values())


@pytest.mark.parametrize("to", FORMATS)
def test_an_earlier_export_is_replaced_completely(dataset: Path, tmp_path: Path, to: str) -> None:
    out = tmp_path / "out"
    for earlier in FORMATS:
        export(dataset, to=earlier, out=out)
    export(dataset, to=to, out=out)
    export(dataset, to=to, out=tmp_path / "fresh")
    assert all_bytes(out) == all_bytes(tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", dataset.name, "out"]
    about = json.loads((out / "export.json").read_text())
    assert about["entries"] == sorted(path.name for path in out.iterdir())


@pytest.mark.parametrize("to", FORMATS)
def test_a_failed_export_leaves_the_earlier_one(dataset: Path, tmp_path: Path, to: str) -> None:
    out = tmp_path / "out"
    export(dataset, to="webdataset", out=out)
    before = all_bytes(out)
    tile = dataset / "tiles" / "la.x" / "la.x_L_1.tif"
    tile.unlink()
    with pytest.raises(DatasetError, match=r"la.x_L_1.tif cannot be read .* build the data set again"):
        export(dataset, to=to, out=out)
    assert all_bytes(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [dataset.name, "out"]


@pytest.mark.parametrize("to", ["hf", "webdataset"])
def test_a_broken_tile_is_named(dataset: Path, tmp_path: Path, to: str) -> None:
    tile = dataset / "tiles" / "la.x" / "la.x_L_1.tif"
    tile.write_bytes(tile.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=r"la.x_L_1.tif cannot be read"):
        export(dataset, to=to, out=tmp_path / "out")


def test_folders_with_other_files_are_refused(dataset: Path, tmp_path: Path) -> None:
    for out, name in ((dataset, "dataset.json"), (tmp_path, dataset.name)):
        before = all_bytes(out)
        with pytest.raises(DatasetError, match=rf"holds other files \({name}\): give a new or empty folder"):
            export(dataset, to="stac", out=out)
        assert all_bytes(out) == before
    out = tmp_path / "out"
    export(dataset, to="stac", out=out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"holds other files \(notes.txt\)"):
        export(dataset, to="hf", out=out)
    with pytest.raises(DatasetError, match="is a file"):
        export(dataset, to="hf", out=out / "notes.txt")


def test_an_empty_folder_and_a_folder_in_the_data_set_are_accepted(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert export(dataset, to="stac", out=tmp_path / "empty").tiles == 5
    inside = dataset / "exports" / "stac"
    export(dataset, to="stac", out=inside)
    item = json.loads((inside / "fiji" / "fiji_L_0.json").read_text())
    assert item["assets"]["image"]["href"] == "../../../tiles/fiji/fiji_L_0.tif"


def test_nothing_is_lost_if_the_last_step_fails(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(dataset, to="webdataset", out=out)
    before = all_bytes(out)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == ".out.partial":
            raise OSError(errno.EBUSY, "Device or resource busy", str(target))
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(DatasetError, match="is a mount point: give a folder inside it"):
            export(dataset, to="webdataset", out=out)
    assert all_bytes(out) == before
    out.rename(tmp_path / ".out.previous")  # as after a crash between the two renames
    (tmp_path / ".out.partial").mkdir()
    next((dataset / "tiles" / "la.x").iterdir()).unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        export(dataset, to="webdataset", out=out, every_tile=True)
    assert all_bytes(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [dataset.name, "out"]


def test_errors_say_how_to_fix_them(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with pytest.raises(SettingsError, match='--to takes stac, webdataset, hf, not "coco"'):
        export(dataset, to="coco", out=out)
    with pytest.raises(DatasetError, match=r"has no texts v009 \(there: v000, v001\)"):
        export(dataset, to="hf", out=out, texts="v009")
    with pytest.raises(DatasetError, match="no data set at"):
        export(tmp_path / "nowhere", to="hf", out=out)
    monkeypatch.setitem(sys.modules, "fusar_klip.export.huggingface", None)
    monkeypatch.delitem(sys.modules, "fusar_klip.export.huggingface")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SettingsError, match=r'pip install "fusar-klip\[export\]"'):
        export(dataset, to="hf", out=out)
    assert not out.exists()


def test_a_data_set_without_kept_tiles(without_texts: Path, tmp_path: Path) -> None:
    from fusar_klip import catalog

    catalog.write_tiles(without_texts, catalog.read_footprints(without_texts).assign(kept=False))
    empty = catalog.read_footprints(without_texts).iloc[:0]
    with pytest.raises(DatasetError, match=r"none of the 5 tiles of .* is kept: give --every-tile"):
        export(without_texts, to="hf", out=tmp_path / "out")
    assert export(without_texts, to="hf", out=tmp_path / "out", every_tile=True).tiles == 5
    assert export(without_texts, to="stac", out=tmp_path / "out").tiles == 5
    catalog.write_tiles(without_texts, empty)
    with pytest.raises(DatasetError, match="has no tiles: build it"):
        export(without_texts, to="stac", out=tmp_path / "out")


def test_the_command_line(dataset: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-c",
            "from fusar_klip.cli import main; main()",
            "export",
            dataset,
            *arguments,
        ]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)

    done = run("--to", "webdataset", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tiles"] == 4
    assert done.stderr == ""
    result = run("--to", "webdataset", "--out", tmp_path / "out", "--every-tile")
    assert result.stdout == f"5 tiles in 4 files in {tmp_path / 'out'}\n"
    refused = run("--to", "webdataset", "--out", tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1
