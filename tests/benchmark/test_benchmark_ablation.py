"""The suite and the script of the paper's table 8."""

import re
import subprocess
from pathlib import Path

import typer

from fusar_klip.benchmark.suite import load_suite
from fusar_klip.benchmark.tasks.vqa import VqaRow
from fusar_klip.cli import app

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "ablation.sh"
VARIABLE = re.compile(r"\$\{?\w+[^}\"\s]*\}?|\$\(.*?\)|\"")


def test_the_suite_asks_both_families_of_questions_of_real_and_of_simulated_images() -> None:
    rows = load_suite(ROOT / "configs" / "suite_ablation.toml").rows
    assert all(isinstance(row, VqaRow) for row in rows)
    boxes = {row.dataset for row in rows if row.reader in ("hrsid", "coco")}  # type: ignore[attr-defined]
    masks = {row.dataset for row in rows if row.reader in ("ombria", "mask_folders")}  # type: ignore[attr-defined]
    assert (boxes, masks) == ({"HRSID", "simulated targets"}, {"OMBRIA", "simulated land"})
    for row in rows:
        # What is simulated says so in the results.
        assert ("${SIMULATED_LAND}" in row.path) == row.dataset.startswith("simulated")


def test_the_script_is_bash_whose_commands_and_options_there_are() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    text = SCRIPT.read_text().replace("\\\n", " ")
    group = typer.main.get_command(app)
    calls = re.findall(r"fusar-klip ([a-z]+)([^\n)]*)", re.sub(r"(?m)^\s*#.*$", "", text))
    assert {verb for verb, _ in calls} == {"simulate", "build", "describe", "pretrain", "refine", "benchmark"}
    for verb, arguments in calls:
        command = group.commands[verb]  # type: ignore[attr-defined]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", VARIABLE.sub("", arguments))) <= known, (verb, arguments)
    runs = re.findall(r"\$OUT/runs/([a-z]+)\"", text.partition("fusar-klip benchmark")[2])
    assert runs == ["template", "all", "screened", "reconstructed"]
