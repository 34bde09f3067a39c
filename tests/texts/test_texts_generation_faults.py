"""Texts by a language model, against a server that misbehaves: they are those of one that does not."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from texts_synthetic import city, sea_with_ships

from fusar_klip.catalog import read_texts, text_versions
from fusar_klip.errors import DatasetError, FusarKlipError, ProviderError
from fusar_klip.llm.openai_chat import retry_after
from fusar_klip.texts import DescribeSettings, describe
from misbehaving_server import FAULTS, KEY, Server

MakeSettings = Callable[..., DescribeSettings]
TILES = 4


@pytest.fixture
def dataset(make_dataset: Callable[..., Path]) -> Path:
    sea = sea_with_ships([(40, 40, 150, 24, 0), (150, 50, 150, 24, 90)], size=200)
    return make_dataset(
        {
            "L": (sea, "large", None, 0, 0),
            "M0": (sea[:100, :100], "medium", "L", 0, 0),
            "M1": (sea[:100, 100:], "medium", "L", 0, 100),
            "other": (city(100), "large", None, 400, 0),
        }
    )


def texts_of(dataset: Path, version: str = "v000") -> pd.DataFrame:
    return read_texts(dataset, version)[["tile_id", "task", "field", "text"]]


def rejected(dataset: Path) -> dict[str, dict[str, object]]:
    path = dataset / "texts" / "rejected.jsonl"
    if not path.exists():
        return {}
    return {line["tile_id"]: line for line in map(json.loads, path.read_text().splitlines())}


def holds_no_key(dataset: Path) -> bool:
    return not any(KEY.encode() in path.read_bytes() for path in dataset.rglob("*") if path.is_file())


@pytest.mark.parametrize("fault", FAULTS)
def test_the_texts_are_those_without_the_fault(
    dataset: Path, server: Server, settings: MakeSettings, fault: str
) -> None:
    seen: set[str] = set()

    def first_time(_number: int, question: str) -> str | None:
        return None if question in seen else seen.add(question) or fault

    server.fault_of = first_time
    timeout = {"timeout_s": 0.5} if fault in ("hang", "drip") else {}
    faulty = describe(dataset, settings(**timeout))
    assert (faulty.tiles, faulty.rejected) == (TILES, 0)
    assert server.requests == 2 * TILES
    server.fault_of = None
    sound = describe(dataset, settings(temperature=0.0))  # another answer in the cache
    assert server.requests == 3 * TILES
    pd.testing.assert_frame_equal(texts_of(dataset, faulty.version), texts_of(dataset, sound.version))
    assert rejected(dataset) == {}
    assert holds_no_key(dataset)


def test_a_storm_of_429_is_waited_out(dataset: Path, server: Server, settings: MakeSettings) -> None:
    server.retry_after_s = 0.2
    server.faults = ["429"] * 12
    assert describe(dataset, settings()).tiles == TILES
    storm = [exchange for exchange in server.log if exchange.fault]
    assert len(storm) == 12
    # Everybody rests after a 429, not only who was told: nobody asks within the wait that the server wants.
    for told, then in zip(server.log, server.log[4:], strict=False):
        if told.fault:
            assert then.began - told.began >= 0.19


def test_a_slow_server_is_waited_for(dataset: Path, server: Server, settings: MakeSettings) -> None:
    server.latency_s = 0.4
    assert describe(dataset, settings(timeout_s=5.0)).tiles == TILES
    assert server.requests == TILES


@pytest.mark.parametrize(
    ("fault", "fix"),
    [("401", "OPENAI_API_KEY"), ("404", "--model"), ("quota", "credit")],
)
def test_what_only_the_user_can_fix(
    dataset: Path, server: Server, settings: MakeSettings, fault: str, fix: str
) -> None:
    server.fault_of = lambda *_: fault
    with pytest.raises(ProviderError, match=fix) as caught:
        describe(dataset, settings(concurrency=2))
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.requests <= 2
    assert text_versions(dataset) == []
    server.fault_of = None
    assert describe(dataset, settings()).tiles == TILES


def test_no_key(dataset: Path, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ProviderError, match="set the environment variable OPENAI_API_KEY"):
        describe(dataset, settings(base_url=None))
    assert not (dataset / "cache").exists()
    assert describe(dataset, settings()).tiles == TILES  # a server on this machine needs none


def test_a_server_that_is_not_there(dataset: Path, settings: MakeSettings) -> None:
    with pytest.raises(ProviderError, match="cannot be reached"):
        describe(dataset, settings(base_url="http://127.0.0.1:9/v1", patience_s=0.1))


def test_answers_outlive_a_server_that_goes_down(
    dataset: Path, server: Server, settings: MakeSettings
) -> None:
    server.fault_of = lambda number, _: "500" if number >= 2 else None
    with pytest.raises(ProviderError, match="same command"):
        describe(dataset, settings(patience_s=0.1))
    server.fault_of = None
    assert describe(dataset, settings()).requests == TILES - 2


def test_a_lasting_outage_stops_the_run(
    make_dataset: Callable[..., Path], server: Server, settings: MakeSettings
) -> None:
    dataset = make_dataset({f"t{i:02}": (city(60, seed=i), "large", None, 0, 60 * i) for i in range(30)})
    server.fault_of = lambda *_: "500"
    with pytest.raises(ProviderError, match="10 tiles in a row"):
        describe(dataset, settings(patience_s=0.0))
    assert server.requests < 15


def test_a_hopeless_answer_is_put_aside_with_its_words(
    dataset: Path, server: Server, settings: MakeSettings
) -> None:
    broken = "{this is no JSON, and says nothing"
    server.answer = lambda text: broken if server.requests in (1, 2) else text
    first = describe(dataset, settings(concurrency=1))  # the first tile and its repair
    assert (first.tiles, first.rejected) == (TILES - 1, 1)
    ((tile_id, line),) = rejected(dataset).items()
    assert line["answers"] == [broken, broken]
    assert line["version"] == first.version
    assert tile_id not in set(texts_of(dataset)["tile_id"])
    assert server.requests == TILES + 1
    # Nobody pays for it again,
    assert describe(dataset, settings()).requests == 0
    # unless told to; then its children, which were asked without its text, are asked with it.
    repaired = describe(dataset, settings(retry_rejected=True))
    assert (repaired.tiles, repaired.rejected) == (TILES, 0)
    assert {line["version"] for line in rejected(dataset).values()} == {first.version}
    # The better answer stays.
    assert describe(dataset, settings()).version == repaired.version


def test_the_repair_names_the_complaint(dataset: Path, server: Server, settings: MakeSettings) -> None:
    server.faults = ["empty"]
    describe(dataset, settings(concurrency=1))
    assert "The answer is empty" in server.log[1].text
    assert server.log[0].question == server.log[1].question


def test_a_refused_request_is_put_aside(dataset: Path, server: Server, settings: MakeSettings) -> None:
    server.faults = ["400"]
    summary = describe(dataset, settings(concurrency=1))
    assert (summary.tiles, summary.rejected) == (TILES - 1, 1)
    (line,) = rejected(dataset).values()
    assert "content filter" in str(line["reason"])
    assert holds_no_key(dataset)


def test_nothing_but_nonsense(dataset: Path, server: Server, settings: MakeSettings) -> None:
    server.answer = lambda _: "no"
    with pytest.raises(ProviderError, match=r"rejected\.jsonl"):
        describe(dataset, settings())
    assert len(rejected(dataset)) == TILES
    assert text_versions(dataset) == []


def test_a_count_against_the_evidence_is_flagged_not_dropped(
    dataset: Path, server: Server, settings: MakeSettings
) -> None:
    server.answer = lambda text: text.replace("The count is", "200 ships: the count is")
    summary = describe(dataset, settings())
    assert summary.tiles == TILES
    assert summary.flagged > 0
    lines = [json.loads(line) for line in (dataset / "texts" / "flagged.jsonl").read_text().splitlines()]
    assert len(lines) == summary.flagged
    assert all("count_contradicts_evidence" in line["flags"] for line in lines)


def test_the_server_quotes_the_key_in_an_answer(
    dataset: Path, server: Server, settings: MakeSettings
) -> None:
    server.answer = lambda text: text.replace("plain words", f"plain words {KEY}")
    describe(dataset, settings())
    assert holds_no_key(dataset)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_cache_that_cannot_be_written(dataset: Path, settings: MakeSettings) -> None:
    (dataset / "cache").mkdir(mode=0o500)
    with pytest.raises((FusarKlipError, OSError)):
        describe(dataset, settings())


def test_a_damaged_cache_says_so(dataset: Path, settings: MakeSettings) -> None:
    describe(dataset, settings())
    for path in (dataset / "cache").glob("answers.sqlite*"):
        path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(DatasetError, match=r"answers\.sqlite"):
        describe(dataset, settings())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "100000"}, 600.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
        # Our clock says another year; the server's own is what its date is read against.
        ({"date": "Tue, 01 Jan 2030 00:00:00 GMT", "retry-after": "Tue, 01 Jan 2030 00:00:07 GMT"}, 7.0),
        ({"date": "Tue, 01 Jan 2030 00:00:09 GMT", "retry-after": "Tue, 01 Jan 2030 00:00:07 GMT"}, 0.0),
        ({"retry-after": "Tue, 01 Jan 2030 00:00:07 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_time_is_not_the_wall_clock(
    dataset: Path, server: Server, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    server.faults = ["429", "429-date"]
    assert describe(dataset, settings(requests_per_minute=6000)).tiles == TILES
