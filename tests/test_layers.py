"""The layers of the package (docs/architecture.md): imports point one way, and nothing heavy comes early."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fusar_klip"

# Bottom first: a stage imports only what stands before it.
LAYERS = (
    *("errors", "files", "config", "progress", "catalog", "image_io", "caption_table"),
    *("geo", "tiles", "simulate", "export"),
    *("llm", "texts"),
    *("models", "pretrain", "scio"),
    *("datasets", "finetune", "benchmark"),
    *("search", "cli"),
)

RASTERS = {"rasterio", "geopandas", "shapely", "pyproj"}
NETWORKS = {"torch", "torchvision", "transformers", "timm"}
NEVER = {
    **dict.fromkeys(("models", "pretrain", "scio", "datasets", "finetune", "benchmark"), RASTERS),
    "search": {"rasterio", "geopandas"},  # it intersects the query's box with footprints by shapely
    **dict.fromkeys(("geo", "tiles", "simulate", "export", "llm", "texts"), NETWORKS),
}

# Of the stages without networks, the one module that may import them: its provider is chosen by name.
LOCAL_LANGUAGE_MODEL = Path("llm/transformers_local.py")

MOST_ENTRIES = 16
MOST_LINES = 450

MODULES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")
FOLDERS = sorted(p for p in SOURCE.rglob("*") if p.is_dir() and p.name != "__pycache__")
STAGES = [name for name in LAYERS if (SOURCE / name).is_dir()]


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.update(
                f"fusar_klip.{alias.name}" if node.module == "fusar_klip" else node.module
                for alias in node.names
            )
    return names


def stage_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    stage = stage_of(path)
    below = LAYERS[: LAYERS.index(stage) + 1]
    for name in imports_of(path):
        parts = name.split(".")
        if path.relative_to(SOURCE) != LOCAL_LANGUAGE_MODEL:
            assert parts[0] not in NEVER.get(stage, set()), f"{stage} must not import {parts[0]}"
        if parts[0] == "fusar_klip" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in below, f"{stage} must not import {name}: it is a higher layer"


def test_every_stage_has_a_layer() -> None:
    assert {stage_of(path) for path in MODULES} == set(LAYERS)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_can_be_imported_alone(stage: str) -> None:
    """A circular import shows only where its modules are imported in an unlucky order."""
    subprocess.run([sys.executable, "-c", f"import fusar_klip.{stage}"], check=True)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_folder_is_seen_at_a_glance(folder: Path) -> None:
    entries = [p.name for p in folder.iterdir() if p.name not in ("__init__.py", "__pycache__")]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_no_module_is_too_long() -> None:
    lines = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_nothing_heavy_is_imported_for_help() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; import fusar_klip.cli as c;"
        "assert CliRunner().invoke(c.app, ['--help']).exit_code == 0;"
        "print([m for m in ('torch', 'rasterio', 'pandas', 'pydantic', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
