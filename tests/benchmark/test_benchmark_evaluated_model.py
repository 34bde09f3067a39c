"""Models under test: where they compute, equal ones, text sides that are lent, models that rows keep."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fusar_klip.benchmark import benchmark
from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.results import REVISIONS, row_identity
from fusar_klip.benchmark.tasks.probes import KnnRow
from fusar_klip.benchmark.tasks.vqa import VqaRow
from fusar_klip.errors import CheckpointError, SettingsError
from fusar_klip.models import ModelRef, model_ref
from fusar_klip.models.pretrained import encoder
from published_checkpoints import MAKERS

MakeRun = Callable[..., str]
COMMON = {"dataset": "D", "path": "p", "split": "given"}


@pytest.fixture
def land(tmp_path: Path) -> Path:
    """Six images, four to learn from, whose upper or left half is flooded."""
    for number in range(6):
        mask = np.zeros((16, 16), np.uint8)
        mask[(np.s_[:8], np.s_[:, :8])[number % 2]] = 255
        part = "train" if number < 4 else "test"
        for folder, pixels in (("images", mask // 2 + number), ("masks", mask)):
            file = tmp_path / "land" / part / folder / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return tmp_path


def suite(folder: Path, *rows: str) -> Path:
    shared = 'dataset = "Land"\nreader = "mask_folders"\npath = "land"\nsplit = "given"\nepochs = 1\n'
    text = "\n".join(f"[[row]]\n{shared}batch_size = 4\n{row}\n" for row in rows)
    (folder / "suite.toml").write_text(f'name = "small"\n{text}')
    return folder / "suite.toml"


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize(
    ("checkpoint", "module", "loader"),
    [
        ("run", model_ref, "load_checkpoint"),
        ("mae:weights.pth", encoder, "load_pretrained"),
        ("run", encoder, "wrap_image_tower"),
    ],
)
def test_models_compute_on_the_gpu_where_there_is_one(
    run: str, checkpoint: str, module: Any, loader: str, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def loaded(*arguments: Any, **_: Any) -> str:
        asked.append(arguments[-1])
        return "model"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(module, loader, loaded)
    if loader == "wrap_image_tower":
        monkeypatch.setattr(model_ref, "image_objective", lambda _: "mae")
    named = EvaluatedModel(ModelRef.parse(checkpoint.replace("run", run)), "m")
    assert named.model == "model"
    assert asked == ["cuda" if gpu else "cpu"]
    assert EvaluatedModel(ModelRef.parse(run), "m", device="cpu").device == "cpu"


def test_checkpoints_of_one_content_have_one_s_figures_and_a_warning(
    tmp_path: Path, data_folder: Path, write_suite: Callable[..., Path], make_run: MakeRun, caplog: Any
) -> None:
    first, copy = make_run(1, "first"), tmp_path / "copy"
    shutil.copytree(first, copy)
    summary = benchmark(
        [first, str(copy)], tmp_path / "out", suite=write_suite(), data=data_folder, tasks=["knn"]
    )
    assert "first and copy have the same content" in caplog.text
    assert (summary.rows_run, summary.rows_reused) == (1, 1)
    values = {(e["model"], e["metric"]): e["value"] for e in json.loads(Path(summary.results).read_text())}
    assert values["first", "top1"] == values["copy", "top1"]


def test_a_result_is_identified_by_the_text_side_s_content_not_its_path() -> None:
    known = {"task": "vqa", "reader": "ombria", **COMMON}
    plain, here, there = (
        VqaRow.model_validate(known | more)
        for more in ({}, {"text_side": "a/run"}, {"text_side": "elsewhere/run"})
    )
    assert row_identity(here, "model", "data", "side") == row_identity(there, "model", "data", "side")
    assert row_identity(here, "model", "data", "side") != row_identity(here, "model", "data", "other")
    assert row_identity(here, "model", "data", "side") != row_identity(plain, "model", "data")


def test_a_revision_of_a_task_asks_for_its_rows_again(monkeypatch: pytest.MonkeyPatch) -> None:
    row = KnnRow(task="knn", reader="sar_acd", **COMMON)
    before = row_identity(row, "model", "data")
    monkeypatch.setitem(REVISIONS, "knn", 1)  # type: ignore[arg-type]
    assert row_identity(row, "model", "data") != before
    monkeypatch.delitem(REVISIONS, "knn")  # type: ignore[arg-type]
    monkeypatch.setitem(REVISIONS, "vqa", 7)  # type: ignore[arg-type]
    assert row_identity(row, "model", "data") == before


def test_a_published_model_answers_with_a_lent_text_side_wherever_that_lies(
    land: Path, run: str, tmp_path: Path
) -> None:
    source, _ = MAKERS["mae"]("mae", tmp_path)
    reports = []
    for number, lender in enumerate((run, str(shutil.copytree(run, tmp_path / "moved")))):
        file = suite(land, f'task = "vqa"\ntext_side = "{lender}"')
        summary = benchmark([f"mae:{source}"], land / "out", suite=file, data=land)
        assert (summary.rows_run, summary.rows_reused) == (1 - number, number)
        reports.append(Path(summary.results).read_bytes())
    assert reports[0] == reports[1]
    assert "heat-maps.png" in Path(summary.report_md).read_text()


@pytest.mark.parametrize("lender", ["nowhere", "mae:weights.pth"])
def test_a_wrong_text_side_is_refused_before_anything_runs(land: Path, run: str, lender: str) -> None:
    file = suite(land, f'task = "vqa"\ntext_side = "{lender}"')
    with pytest.raises(CheckpointError, match=lender) as caught:
        benchmark([run], land / "out", suite=file, data=land)
    assert "\n" not in str(caught.value)
    assert not (land / "out").exists()


def test_two_models_in_one_folder_are_refused_before_anything_runs(
    land: Path, run: str, make_run: MakeRun
) -> None:
    kept = 'task = "vqa"\nsave = true\n'
    with pytest.raises(SettingsError, match=r"models/run-vqa-land: set save = true in one of its rows"):
        benchmark([run], land / "out", suite=suite(land, kept, f"{kept}seed = 1"), data=land)
    alike = [make_run(1, "run_1"), make_run(2, "run-1")]
    with pytest.raises(SettingsError, match="models/run-1-vqa-land"):
        benchmark(alike, land / "out", suite=suite(land, kept), data=land)
    assert not (land / "out").exists()


def test_a_kept_model_that_is_gone_is_made_again(land: Path, run: str) -> None:
    file = suite(land, 'task = "vqa"\nsave = true\n')
    folder = land / "out" / "models" / "run-vqa-land"
    runs = []
    for _ in range(3):
        summary = benchmark([run], land / "out", suite=file, data=land)
        runs.append(summary.rows_run)
        assert (folder / "model.safetensors").is_file()
        if len(runs) == 2:
            shutil.rmtree(folder)
    assert runs == [1, 0, 1]


def test_language_rows_of_two_models_are_those_of_each_alone(land: Path, run: str, make_run: MakeRun) -> None:
    file = suite(
        land, 'task = "vqa"', 'task = "captioning"\ntokens = 16', 'task = "label_retrieval"\nshortlist = 4'
    )
    both = [make_run(3, "other"), run]
    together = benchmark(both, land / "both", suite=file, data=land).results
    alone = [
        entry
        for number, checkpoint in enumerate(both)
        for entry in json.loads(
            Path(benchmark([checkpoint], land / str(number), suite=file, data=land).results).read_text()
        )
    ]

    def key(entry: dict[str, Any]) -> str:
        return json.dumps(entry, sort_keys=True)

    assert sorted(json.loads(Path(together).read_text()), key=key) == sorted(alone, key=key)
