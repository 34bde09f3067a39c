"""A tiny run, a class-folder data set that a probe can learn, and a data set of tiles with texts."""

import shutil
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from shapely.geometry import box

from fusar_klip.catalog import FIELDS, TEXT_SCHEMA, TILE_SCHEMA, write_manifest, write_texts, write_tiles
from small_run import CLASSES, chip, write_chips, write_run


@pytest.fixture
def java() -> None:
    """Java; skips the test where there is none."""
    if shutil.which("java") is None:
        pytest.skip("there is no Java")


@pytest.fixture(autouse=True)
def _without_java(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests that do not ask for Java see none: METEOR's takes ten seconds to start."""
    if "java" not in request.fixturenames:
        monkeypatch.setattr("fusar_klip.benchmark.metrics.caption_metrics.java_available", lambda: False)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return a function that writes a RUN folder with random weights of a seed."""

    def make(seed: int = 1, name: str = "run") -> str:
        return write_run(tmp_path_factory.mktemp("runs") / name, seed)

    return make


@pytest.fixture(scope="session")
def run(make_run: Callable[..., str]) -> str:
    """A RUN folder."""
    return make_run()


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with `chips`: 3 classes, 12 training and 6 test images each, in groups of two."""
    return write_chips(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def tile_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 12 test tiles of 6 areas; two pairs of tiles have one text each."""
    dataset = tmp_path_factory.mktemp("tiles") / "dataset"
    (dataset / "tiles" / "s").mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows, texts = [], []
    for number in range(13):
        tile_id = f"t{number:02d}"
        path = f"tiles/s/{tile_id}.tif"
        chip(CLASSES[number % 3], rng).save(dataset / path)
        known = {
            "tile_id": tile_id,
            "scene_id": "s",
            "ground_id": f"g{number // 2}",
            "scale": "small",
            "path": path,
            "width": 40,
            "height": 40,
            "split": "test",
            "valid_fraction": 1.0,
            "kept": number < 12,
        }
        rows.append({name: known.get(name) for name in TILE_SCHEMA.names})
        said = number if number >= 4 else number // 2
        for field in FIELDS["terrain"]:
            known = {
                "tile_id": tile_id,
                "task": "terrain",
                "field": field,
                "text": f"{said} of {field.lower()}",
                "source": "test",
                "prompt_version": "0",
                "verdict": "original",
            }
            texts.append({name: known.get(name) for name in TEXT_SCHEMA.names})
    frame = gpd.GeoDataFrame(pd.DataFrame(rows), geometry=[box(0, 0, 1, 1)] * len(rows), crs="EPSG:4326")
    frame["acquired"] = pd.to_datetime(frame["acquired"], utc=True)
    write_tiles(dataset, frame)
    write_texts(dataset, "v000", pd.DataFrame(texts), parent=None, maker={"verb": "test"})
    write_manifest(dataset, {"version": 1})
    return dataset


@pytest.fixture
def write_suite(tmp_path: Path, tile_dataset: Path) -> Callable[..., Path]:
    """Return a function that writes a suite of all four tasks; keywords change the text."""

    def write(old: str = "", new: str = "") -> Path:
        shared = 'dataset = "Chips"\nreader = "class_folders"\npath = "chips"\nsplit = "grouped"\n'
        text = (
            'name = "small"\n'
            f'[[row]]\ntask = "linear_probe"\n{shared}'
            f'[[row]]\ntask = "knn"\n{shared}'
            f'[[row]]\ntask = "finetune"\n{shared}epochs = 2\nbatch_size = 8\nwarmup_epochs = 0.5\n'
            f'[[row]]\ntask = "retrieval"\ndataset = "Tiles"\npath = "{tile_dataset}"\nshortlist = 5\n'
        )
        assert old in text
        path = tmp_path / "suite.toml"
        path.write_text(text.replace(old, new) if old else text)
        return path

    return write
