"""The documented commands parse, the shipped configurations load, and the pipeline runs."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fusar_klip.benchmark.suite import load_suite
from fusar_klip.cli import app
from fusar_klip.cli.demo import PRETRAIN
from fusar_klip.config import load_settings
from fusar_klip.pretrain import PretrainSettings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "los_angeles.sh"]
NANO = {
    "model": "tiny",
    "architecture.image_size": 32,
    "architecture.image_width": 32,
    "architecture.image_depth": 1,
    "architecture.image_heads": 2,
    "architecture.text_width": 32,
    "architecture.text_depth": 1,
    "architecture.text_heads": 2,
    "architecture.embed_dim": 16,
    "batch_size": 4,
    "max_steps": 4,
    "contrast.queue": 8,
    "optimizer.warmup_steps": 2,
}


def commands_of(page: Path) -> list[list[str]]:
    """Return the `fusar-klip` commands of a page's code: the words after the name, without comments."""
    text = page.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if re.match(r"\s*(\$ )?fusar-klip [a-z]", line)]
    words = [shlex.split(line.strip(), comments=True) for line in lines]
    return [line[line.index("fusar-klip") + 1 :] for line in words]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_documented_commands_parse(page: Path) -> None:
    group = typer.main.get_command(app)
    for verb, *arguments in commands_of(page):
        command = group.commands[verb]  # type: ignore[attr-defined]
        command.make_context(verb, arguments)


def test_the_readme_has_commands() -> None:
    verbs = {verb for verb, *_ in commands_of(ROOT / "README.md")}
    assert {"build", "describe", "pretrain", "index", "search", "benchmark"} <= verbs


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_shipped_configurations_load(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOS_ANGELES_DATASET", str(ROOT / "dataset"))
    if path.name.startswith("suite_"):
        assert load_suite(path).rows
    else:
        load_settings(PretrainSettings, path)


def test_the_demo_trains_with_the_shipped_tiny_configuration() -> None:
    shipped = load_settings(PretrainSettings, ROOT / "configs" / "pretrain_tiny.toml")
    assert load_settings(PretrainSettings, None, PRETRAIN) == shipped


def run(*arguments: object) -> dict[str, object]:
    command = [
        sys.executable,
        "-c",
        "from fusar_klip.cli import main; main()",
        *map(str, arguments),
        "--json",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    summary: dict[str, object] = json.loads(result.stdout)
    return summary


def test_the_pipeline(tmp_path: Path) -> None:
    scenes, dataset, trained, index = (tmp_path / name for name in ("scenes", "dataset", "run", "index"))
    run("simulate", scenes, "--scenes", 2, "--size", 1024, "--seed", 3, "--platform", "Gaofen-3")
    built = run("build", *sorted(scenes.glob("*.tif")), "--out", dataset, "--set", "split.test=0.5")
    kept = built["kept"]
    assert built["tiles"] == 42
    assert isinstance(kept, int)
    assert 30 <= kept <= 42  # screening drops plain sea and fields
    assert run("describe", dataset)["texts"] == 8 * kept
    settings = [word for key, value in NANO.items() for word in ("--set", f"{key}={value}")]
    assert run("pretrain", dataset, "--out", trained, *settings)["steps"] == 4
    assert run("index", dataset, "--checkpoint", trained, "--out", index)["tiles"] == kept
    hits = run("search", index, "ships alongside the quay", "--top", 3)["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]  # type: ignore[attr-defined]
    suite = tmp_path / "suite.toml"
    suite.write_text(
        'name = "test"\n'
        '[[row]]\ntask = "retrieval"\ndataset = "simulated"\npath = "dataset"\nsplit = "train"\n'
    )
    report = run(
        "benchmark", trained, f"untrained:{trained}", "--out", tmp_path / "results", "--suite", suite
    )
    results = json.loads(Path(str(report["results"])).read_text())
    assert {row["model"] for row in results} == {"run", "untrained:run"}
