"""Words that the field does not use stay out of docs, help texts, messages, docstrings and comments."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from click import Context
from typer.core import TyperGroup

from fusar_klip.cli import app

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "fusar_klip"

# What to write in place of each, as the field does.
REPLACEMENTS = {
    r"\bmend(s|ed|ing)?\b": "fix, repair, rewrite",
    r"\bfresh (twin|weights?|texts?|towers?|networks?|models?|heads?|stacks?)\b": "randomly initialised",
    r"\b(untrained|fresh) twin\b": "randomly initialised model",
    r"\bworked with in words\b": "natural-language search, captioning and question answering",
    r"\bour (own )?fault\b": "internal error",
    r"\bmade ahead\b": "prefetched",
    r"\bslow cop(y|ies)\b": "momentum (EMA) encoder",
    r"\bto be had\b|\bis had\b": "download from, available at",
    r"\bdealt\b": "split, distributed",
    r"\banew\b": "again; regenerate",
    r"\bby heart\b": "memorised",
    r"\basks? nobody\b": "send no requests",
    r"\btells? (\w+ ){0,5}ahead\b": "estimate",
    r"\btells? (\w+ ){0,5}apart\b": "distinguish",
    r"\btold\b": "given, classified, reported",
    r"\bsaid\b": "stated, reported, written",
    r"\b(wrong|true) pairs?\b": "negative (positive) pair",
    r"\bshared ground\b|(?<!whose )\bgrounds\b(?! may reach)": "geographic overlap, areas",
    r"\bthe way through\b|\bthe whole way\b|\bwhere what is\b": "pipeline, repository layout",
    r"\b(goes?|went|going) on (from|where|as)\b": "continue, resume",
    r"\bfacts of (the |a )?scenes?\b": "scene metadata",
    r"\bmatrix rate\b": "measured peak matmul throughput",
    r"\bwins in this order\b": "precedence",
    r"\bkill(s|ed)?\b": "interrupted, crash",
    r"\bguess(es|ed|ing)?\b": "chance level, estimate",
    r"\bthe finder\b|\b[a-z]+ finder\b": "detection",
    r"\bgrey (images?|pictures?|chips?|tiles?)\b": "single-channel image",
    r"\bwhereof\b|\blooked-at\b|\bas they are told\b": "a plain sentence",
}

# The paper's words, generated sentences that data sets contain, and error messages of other programs.
LEGITIMATE = re.compile(
    r"type not told|not told apart|land use not told by backscatter"  # sentences of the rule-based texts
    r"|not told by the annotations"  # a sentence of the template texts
    r"|cannot be told from it|that it cannot be told"  # requests to a language model
    r"|your best guess where you are not sure"  # the prompt of vqa by language models
    r"|said already"  # a count in the metadata of text versions
)

OLD_NAMES = re.compile(
    r"^(Course|Learner|Descent|Taken|Guard|Pace|Subject|Lesson|Ledger|Closeness|ImageMemory|Turn|ZooModel|ZooEncoder"
    r"|Materials|Speaks)$"
)
OLD_MODULES = {
    *("courses", "learner", "descent", "guard", "pace", "materials", "step_batches", "ranks", "corpus"),
    *("speaking", "writing", "said", "filling", "look", "subject", "rows", "lesson", "leaks", "squares"),
    *("ledger", "outcomes", "closeness", "by_model", "family", "engine", "streaming", "cutting", "listing"),
    *("grey", "utils", "core", "common", "helpers", "manager", "misc"),
}


def pages() -> list[Path]:
    """README and pages; docs/reports are generated."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").glob("**/*.md"),
    ]


def words_of_module(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the string literals, docstrings and comments of a module, with their lines."""
    text = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            yield token.start[0], re.sub(r"\{[^{}]*\}", "{}", token.string)  # without the names in f-strings


def complaints(words: str) -> list[str]:
    words = LEGITIMATE.sub("", " ".join(words.split()))
    found = []
    for pattern, instead in REPLACEMENTS.items():
        for hit in re.finditer(pattern, words, re.IGNORECASE):
            around = words[max(hit.start() - 30, 0) : hit.end() + 30]
            found.append(f'"...{around}...": write {instead}')
    return found


@pytest.mark.parametrize("path", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_pages(path: Path) -> None:
    assert complaints(path.read_text()) == []


def test_help() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in [("", group), *group.commands.items()]:
        assert complaints(command.get_help(Context(command, info_name=name))) == [], name


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_modules(path: Path) -> None:
    found = [f"line {line}: {each}" for line, words in words_of_module(path) for each in complaints(words)]
    assert found == []


# sensors.toml contains words of the prompts.
CONFIGURATIONS = [path for path in SOURCE.rglob("*.toml") if path.name != "sensors.toml"]


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "configs").glob("*.toml"), *CONFIGURATIONS, *SOURCE.rglob("*.j2")],
    ids=lambda p: p.name,
)
def test_configurations_and_templates(path: Path) -> None:
    assert complaints(path.read_text()) == []


def test_names() -> None:
    modules = [path for path in SOURCE.rglob("*.py") if path.stem in OLD_MODULES]
    assert modules == []
    classes = [
        f"{path.name}: {node.name}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and OLD_NAMES.match(node.name)
    ]
    assert classes == []
