"""The prompt files of this package, read once: templates with named slots, and the table of sensors.

A slot is written `$name`. All are filled in one pass, so a value that looks like a slot stays unchanged.
"""

import hashlib
import tomllib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from string import Template
from typing import Any

_GENERATION = "hcot-1"  # change it when the code composes the same files differently


@cache
def template(name: str) -> Template:
    """Return the template `name`, such as "system" or "terrain/sar_theory"."""
    return Template(_folder().joinpath(f"{name}.md").read_text(encoding="utf-8").strip())


@cache
def sensors() -> dict[str, Any]:
    """Return the table of sensors: "platforms", "bands", "wavelengths_cm", "polarizations" and "spacings"."""
    return tomllib.loads(_folder().joinpath("sensors.toml").read_text(encoding="utf-8"))


def render(name: str, /, **slots: str) -> str:
    """Fill every slot of a template."""
    return template(name).substitute(slots)


def _folder() -> Traversable:
    return resources.files("fusar_klip.texts.hcot.prompts") / "words"


def _version() -> str:
    """Return the version of the prompts: generation and hash of all files."""
    digest = hashlib.sha256()
    for name, content in sorted(_contents(_folder())):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"{_GENERATION}-{digest.hexdigest()[:8]}"


def _contents(folder: Traversable, prefix: str = "") -> list[tuple[str, bytes]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _contents(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith((".md", ".toml")):
            # A checkout may have changed line endings, which change no word.
            found.append((prefix + entry.name, entry.read_bytes().replace(b"\r\n", b"\n")))
    return found


PROMPT_VERSION = _version()
"""Stored with every text: the generation of the prompts and 8 hexadecimal digits of a hash of their files."""
