"""README and pages agree with the tree: the paths that they name exist, and their links resolve."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "fusar_klip"
LAYOUT_PAGES = [ROOT / "README.md", ROOT / "docs" / "architecture.md", ROOT / "docs" / "extending.md"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]

PATH = re.compile(r"`([\w./-]+(?:\.py|\.sh|\.toml|\.yml|/))`")
WRITTEN = {"state/", "config.toml"}  # files of a RUN


@pytest.mark.parametrize("page", LAYOUT_PAGES, ids=lambda p: p.name)
def test_named_paths_exist(page: Path) -> None:
    missing = []
    for line in page.read_text().splitlines():
        paths = [path for path in PATH.findall(line) if path not in WRITTEN]
        # A row of a table names a folder first, then files in it and in its subfolders.
        folders = [SOURCE / path for path in paths if path.endswith("/")]
        folders += [folder / path for folder in folders[:1] for path in paths if path.endswith("/")]
        places = [ROOT, SOURCE, *(folders if line.startswith("|") else [])]
        missing += [path for path in paths if not any((place / path).exists() for place in places)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    """MkDocs checks the links between pages; this test also checks those of README and CHANGELOG."""
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_leads_to_the_key_files() -> None:
    """The questions of a stranger, and the file that answers each."""
    layout = (ROOT / "README.md").read_text().partition("## Repository layout")[2]
    for name in (
        "pixels.py",  # whether a scene is dB
        "screening.py",  # eq. 10
        "losses.py",  # masking of hard negatives
        "box_formats.py",  # SAR-AIRcraft's VOC files
        "pretrained/",  # RemoteCLIP's weights
        "sensor_knowledge.py",  # the prompt's third layer
    ):
        assert name in layout
