"""The imports go one way (design.md, section 2), and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fusar_klip"
FOUNDATION = {"errors", "files", "config", "progress", "catalog", "image_io"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "progress": set(),
    "config": {"errors", "files"},
    "catalog": {"errors", "files"},
    "grey": {"errors"},
    "tiles": FOUNDATION,
    "export": FOUNDATION,
    "simulate": {*FOUNDATION, "tiles.gazetteer", "tiles.platforms"},
    "texts": {*FOUNDATION, "tiles"},
    "models": FOUNDATION,
    "pretrain": {*FOUNDATION, "models"},
    "benchmark": {*FOUNDATION, "models", "texts"},
    "search": {*FOUNDATION, "models"},
    "demo": {*FOUNDATION, "simulate", "tiles", "texts", "models", "pretrain", "benchmark", "search"},
    "cli": {
        *FOUNDATION,
        *("simulate", "tiles", "export", "texts", "models", "pretrain", "benchmark", "search", "demo"),
    },
}
NEVER = {
    "tiles": {"torch", "transformers", "timm"},
    "texts": {"torch", "transformers", "timm"},
    "simulate": {"torch", "transformers", "timm"},
    "models": {"rasterio", "geopandas", "shapely", "pyproj"},
    "pretrain": {"rasterio", "geopandas", "shapely", "pyproj"},
    "benchmark": {"rasterio", "geopandas"},
}

# The one place of `texts` where torch and transformers may be: it is imported when its provider is chosen.
MODEL_PROVIDER = Path("texts/providers/transformers_local.py")


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


MODULES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    stage = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for name in imports_of(path):
        parts = name.split(".")
        if path.relative_to(SOURCE) != MODEL_PROVIDER:
            assert parts[0] not in NEVER.get(stage, set()), f"{stage} must not import {parts[0]}"
        if parts[0] != "fusar_klip" or len(parts) == 1 or parts[1] in (stage, "__version__"):
            continue
        allowed = ALLOWED[stage]
        assert parts[1] in allowed or ".".join(parts[1:3]) in allowed, f"{stage} must not import {name}"


def test_every_stage_has_a_layer() -> None:
    stages = {p.relative_to(SOURCE).parts[0].removesuffix(".py") for p in MODULES}
    assert stages == set(ALLOWED)


def test_nothing_heavy_is_imported_for_help() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; import fusar_klip.cli as c;"
        "assert CliRunner().invoke(c.app, ['--help']).exit_code == 0;"
        "print([m for m in ('torch', 'rasterio', 'pandas', 'pydantic', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
