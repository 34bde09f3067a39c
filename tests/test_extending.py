"""The recipes of docs/extending.md work: each section's code runs as it stands, with its own assertions."""

import importlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusar_klip.simulate import simulate
from fusar_klip.texts import describe
from fusar_klip.tiles import BuildSettings, build
from fusar_klip.tiles.settings import SplitSettings
from small_run import write_run

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
REGISTRIES = {
    "a labelled data set": ["fusar_klip.datasets.registry:DATASETS"],
    "a published model": ["fusar_klip.models.pretrained.registry:PRETRAINED"],
    "a benchmark task": ["fusar_klip.benchmark.tasks.registry:TASKS"],
    "a SAR product": ["fusar_klip.tiles.scene.products:PRODUCTS"],
    "a pretraining loss": ["fusar_klip.pretrain.loss:LOSSES"],
    "a text field": ["fusar_klip.catalog:FIELDS", "fusar_klip.texts.measure.sentences:RULES"],
}
"""The dicts that each recipe adds to."""


def recipes() -> dict[str, list[str]]:
    """The code blocks of each recipe."""
    sections = re.split(r"^## Add ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return {
        section.partition("\n")[0]: re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        for section in sections
    }


@pytest.fixture
def registries(recipe: str) -> Iterator[list[dict[str, Any]]]:
    """The dicts that the recipe adds to; they are restored afterwards."""
    places = [place.split(":") for place in REGISTRIES[recipe]]
    found = [getattr(importlib.import_module(module), name) for module, name in places]
    before = [dict(entries) for entries in found]
    yield found
    for entries, old in zip(found, before, strict=True):
        entries.clear()
        entries.update(old)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one simulated scene with texts, to be copied."""
    folder = tmp_path_factory.mktemp("extending")
    simulate(folder, scenes=1, size=1024, seed=3, platforms=["Gaofen-3"])
    split = SplitSettings(val=0.0, test=0.0)
    build(sorted(folder.glob("*.tif")), folder / "DATASET", BuildSettings(split=split))
    describe(folder / "DATASET")
    return folder / "DATASET"


@pytest.fixture
def workplace(tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the tiny model RUN and the data set DATASET."""
    shutil.copytree(dataset, tmp_path / "DATASET")
    write_run(tmp_path / "RUN")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_all_recipes() -> None:
    assert set(recipes()) == set(REGISTRIES)


@pytest.mark.parametrize("recipe", REGISTRIES)
def test_recipe(recipe: str, registries: list[dict[str, Any]], workplace: Path) -> None:
    before = [dict(entries) for entries in registries]
    blocks = recipes()[recipe]
    assert any("assert " in block for block in blocks)
    namespace: dict[str, Any] = {"__name__": "recipe"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{PAGE.name}, {recipe}, block {number}", "exec"), namespace)
    assert all(entries != old for entries, old in zip(registries, before, strict=True))
