"""The verb on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from texts_synthetic import city
from typer.testing import CliRunner

from fusar_klip.cli import app
from misbehaving_server import KEY, Server


@pytest.fixture
def dataset(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset({"t": (city(100), "large", None, 0, 0), "u": (city(50), "medium", "t", 0, 0)})


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["describe", *map(str, arguments), "--set", "workers=1"])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_ahead_and_done(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server().running() as server:
        options = (dataset, "--provider", "openai", "--model", "gpt-4.1", "--base-url", server.url)
        ahead = json.loads(run(*options, "--dry-run", "--json"))
        assert (ahead["requests"], server.requests) == (2, 0)
        said = run(*options, "--dry-run")
        assert "2 requests to openai/gpt-4.1" in said
        assert f"{ahead['cost_usd']:.2f} USD" in said
        done = json.loads(run(*options, "--mode", "chain", "--budget", "1", "--json"))
    assert (done["tiles"], done["requests"], done["version"]) == (2, 10, "v000")
    assert 0 < done["cost_usd"] < 1
    assert KEY not in json.dumps(done)


def test_the_default_measures(dataset: Path) -> None:
    assert "16 texts of 2 tiles" in run(dataset)
