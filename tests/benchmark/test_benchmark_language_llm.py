"""General language models asked the questions of a row, on a local server that misbehaves."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusar_klip.benchmark import benchmark
from fusar_klip.benchmark.tasks.llm_vqa import encode_image, request_for
from fusar_klip.datasets.label_texts.language_data import Question
from fusar_klip.errors import DatasetError, ProviderError

sys.path.insert(0, str(Path(__file__).parents[1] / "texts"))

from misbehaving_server import KEY, Server

NAMES = ("dry", "flooded")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server().running() as server:
        yield server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four training and three test images, the last one with a flooded upper left."""
    for part, count in (("train", 4), ("test", 3)):
        for number in range(count):
            mask = np.zeros((20, 20), np.uint8)
            if number == 2:
                mask[:10, :10] = 255
            for folder, array in (("images", mask // 2 + number), ("masks", mask)):
                file = tmp_path / "set" / part / folder / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(file)
    (tmp_path / "set" / "classes.csv").write_text("value,name\n0,dry\n255,flooded\n")
    (tmp_path / "suite.toml").write_text(
        'name = "asked"\n[[row]]\ntask = "vqa"\ndataset = "Set"\nreader = "mask_folders"\npath = "set"\n'
        'split = "given"\nconcurrency = 3\n'
    )
    return tmp_path


@pytest.fixture
def ask(data: Path, server: Server) -> Callable[..., dict[str, float]]:
    def run(model: str = "llm:gpt-4o", out: str = "out") -> dict[str, float]:
        summary = benchmark([model], data / out, suite=data / "suite.toml", data=data, base_url=server.url)
        return {e["metric"]: e["value"] for e in json.loads(Path(summary.results).read_text())}

    return run


def answering(answer: str) -> Callable[[str], str]:
    return lambda _text: json.dumps({"answer": answer})


def test_a_language_model_is_asked_and_scored(
    ask: Callable[..., dict[str, float]], server: Server, data: Path
) -> None:
    server.answer = answering("It is dry.")
    assert ask() == {
        "overall_accuracy": pytest.approx((3 + 2 + 11) / 18),
        "main_land": 1,
        "all_land": pytest.approx(2 / 3),
        "regional_land": pytest.approx(11 / 12),
    }
    assert server.requests == 18
    questions = {exchange.question for exchange in server.log}
    assert "What is the main landform in this SAR image?\nAnswer with one of: dry, flooded." in questions
    assert all(exchange.image for exchange in server.log)
    report = (data / "out" / "report.md").read_text()
    assert "llm:gpt-4o" in report
    assert "not trained; " in report
    ask()
    assert server.requests == 18  # the row is kept


def test_answers_are_kept_though_the_row_was_not_finished(
    ask: Callable[..., dict[str, float]], server: Server, data: Path
) -> None:
    server.answer = answering("dry")
    server.fault_of = lambda number, _question: "401" if number >= 9 else None
    with pytest.raises(ProviderError, match="refuses the key"):
        ask()
    kept = 9
    server.fault_of = None
    before = server.requests
    assert ask()["main_land"] == 1
    assert server.requests - before == 18 - kept
    assert f"{kept} answers came from the cache" in (data / "out" / "report.md").read_text()
    assert KEY.encode() not in b"".join(f.read_bytes() for f in (data / "out").rglob("*") if f.is_file())


def test_faults_are_lived_with(ask: Callable[..., dict[str, float]], server: Server) -> None:
    server.answer = answering("dry")
    server.faults = ["500", "429", "cut", "page", "no-choices", "empty", "not-json", "400"]
    scores = ask()
    # Nothing that came back empty, as prose or refused is right; all else is.
    assert scores["overall_accuracy"] == pytest.approx((16 - 3) / 18, abs=2 / 18)


def test_a_server_that_refuses_everything_is_no_score_of_zero(
    ask: Callable[..., dict[str, float]], server: Server, data: Path
) -> None:
    server.fault_of = lambda _number, _question: "400"
    with pytest.raises(ProviderError, match="the server refused every question"):
        ask()
    assert not (data / "out" / "results.json").exists()


def test_two_models_have_answers_of_their_own(ask: Callable[..., dict[str, float]], server: Server) -> None:
    server.answer = answering("dry")
    ask("llm:one")
    server.answer = answering("flooded")
    assert ask("llm:two")["main_land"] == 0
    assert server.requests == 36


def test_each_kind_of_question_says_which_form_its_answer_has() -> None:
    def user(answers: tuple[str, ...], answer_type: str) -> str:
        return request_for(Question(0, "all_land", "Which?", answers, answer_type), NAMES).user  # type: ignore[arg-type]

    assert user(("3",), "number") == "Which?\nAnswer with one whole number."
    assert user(("dry",), "name") == "Which?\nAnswer with one of: dry, flooded."
    assert "numbered row by row from 1 in the upper left" in user(("1", "5"), "set")
    assert user(("dry", "flooded"), "set").startswith("Which?\nAnswer with all that apply of: dry, flooded;")
    request = request_for(Question(0, "all_land", "Which?", ("dry",), "set"), NAMES)
    assert request.with_image
    assert request.schema is not None


def test_pictures_are_made_smaller_and_never_larger(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), (9, 9, 9)).save(tmp_path / "a.jpg")
    for side, size in ((50, (50, 25)), (400, (200, 100))):
        picture = encode_image(tmp_path / "a.jpg", side)
        (tmp_path / "b.png").write_bytes(picture.png)
        with Image.open(tmp_path / "b.png") as image:
            assert (image.size, image.mode) == (size, "L")
        assert picture == encode_image(tmp_path / "a.jpg", side)
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="replace or remove it"):
        encode_image(tmp_path / "c.png", 50)
