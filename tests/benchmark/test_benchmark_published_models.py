"""Published models in the benchmark: vision tasks, retrieval, and refusals before anything runs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fusar_klip.benchmark import benchmark
from fusar_klip.errors import FusarKlipError
from published_checkpoints import MAKERS, clip, to_openai, vit, write_blip, write_vocabulary


def test_the_benchmark_runs_vision_tasks_on_published_models(
    tmp_path: Path, data_folder: Path, write_suite: Callable[..., Path], run: str
) -> None:
    models = [run]
    for name in ("mae", "saratr-x", "clip"):
        (tmp_path / name).mkdir()
        models.append(f"{name}:{MAKERS[name](name, tmp_path / name)[0]}")
    suite, out = write_suite("epochs = 2", "epochs = 1"), tmp_path / "out"
    frozen = benchmark(models, out, suite=suite, data=data_folder, tasks=["linear_probe", "knn"])
    assert (frozen.rows_run, frozen.rows_reused) == (8, 0)
    named = {line["model"] for line in frozen.headlines}
    assert named == {"run", "mae:checkpoint.pth", "saratr-x:checkpoint-800.pth", "clip:clip"}
    tuned = benchmark(models[2:3], out, suite=suite, data=data_folder, tasks=["knn", "finetune"])
    assert (tuned.rows_run, tuned.rows_reused) == (1, 1)


def test_retrieval_without_texts_is_refused_before_anything_runs(
    tmp_path: Path, data_folder: Path, write_suite: Callable[..., Path]
) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"model": vit().state_dict()}, file)
    with pytest.raises(FusarKlipError, match=r"MAE has no text tower.*--task"):
        benchmark([f"mae:{file}"], tmp_path / "out", suite=write_suite(), data=data_folder)
    assert not (tmp_path / "out").exists()


def test_retrieval_beside_our_own(
    tmp_path: Path, data_folder: Path, write_suite: Callable[..., Path], run: str
) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "blip").mkdir()
    torch.save(to_openai(clip(quick=True)), tmp_path / "clip" / "weights.pt")
    write_vocabulary(tmp_path / "clip")
    write_blip(tmp_path / "blip")
    models = [run, f"remoteclip:{tmp_path / 'clip' / 'weights.pt'}", f"blip:{tmp_path / 'blip' / 'blip.pth'}"]
    summary = benchmark(models, tmp_path / "out", suite=write_suite(), data=data_folder, tasks=["retrieval"])
    assert {line["model"] for line in summary.headlines} == {"run", "remoteclip:weights.pt", "blip:blip.pth"}
    results = json.loads(Path(summary.results).read_text())
    found = {(e["model"], e["metric"]): e["value"] for e in results}
    for metric in ("image_to_text_r5", "text_to_image_r5"):
        # No head for matching: the second pass keeps the order of the first, and the report says so.
        assert found["remoteclip:weights.pt", metric] == found["remoteclip:weights.pt", f"{metric}_reranked"]
    page = Path(summary.report_md).read_text()
    assert "remoteclip:weights.pt: has no matching head" in page
    assert "blip:blip.pth: has no matching head" not in page
