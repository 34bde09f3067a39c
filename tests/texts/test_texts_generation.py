"""Texts by a language model, against a server that answers well."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from texts_synthetic import city, sea_with_ships

from fusar_klip.catalog import FIELDS, read_text_metadata, read_texts, text_versions
from fusar_klip.errors import BudgetError, ProviderError, SettingsError
from fusar_klip.texts import DescribeSettings, describe, estimate
from fusar_klip.texts.hcot.prompts import LAYERS
from fusar_klip.texts.hcot.schedule import Schedule
from fusar_klip.texts.measure.evidence_store import ensure_evidence
from fusar_klip.texts.text_writer import UnansweredTile
from fusar_klip.texts.tile_images import tile_png
from misbehaving_server import KEY, Server

MakeSettings = Callable[..., DescribeSettings]
TILES = 10


@pytest.fixture
def dataset(make_dataset: Callable[..., Path]) -> Path:
    """Two families: one of a large tile, two medium and four small ones, one of three tiles."""
    sea = sea_with_ships([(40, 40, 150, 24, 0), (150, 50, 150, 24, 90)], size=200)
    land = city(200)
    tiles = {}
    for name, pixels, row in (("A", sea, 0), ("B", land, 400)):
        tiles[f"{name}_L"] = (pixels, "large", None, row, 0)
        for i in range(2 if name == "A" else 1):
            tiles[f"{name}_M{i}"] = (
                pixels[:100, 100 * i : 100 * i + 100],
                "medium",
                f"{name}_L",
                row,
                100 * i,
            )
            for j in range(2 if name == "A" else 1):
                part = pixels[:50, 100 * i + 50 * j : 100 * i + 50 * j + 50]
                tiles[f"{name}_S{i}{j}"] = (part, "small", f"{name}_M{i}", row, 100 * i + 50 * j)
    return make_dataset(tiles)


def texts_of(dataset: Path, version: str = "v000") -> pd.DataFrame:
    return read_texts(dataset, version)[["tile_id", "task", "field", "text"]]


def tile_of_image(dataset: Path, side_px: int = 512) -> dict[str, str]:
    """Map the digest of a picture, as the server logs it, to its tile."""
    import base64

    found = {}
    store = ensure_evidence(dataset)
    for tile_id in store.tile_ids():
        context = store.context(tile_id)
        png = tile_png(dataset / context.path, side_px, False, context.gsd_m)
        url = "data:image/png;base64," + base64.b64encode(png).decode()
        found[sha256(url.encode()).hexdigest()[:16]] = tile_id
    store.close()
    return found


def test_every_tile_gets_its_eight_fields(dataset: Path, server: Server, settings: MakeSettings) -> None:
    summary = describe(dataset, settings())
    texts = read_texts(dataset, summary.version)
    assert summary.tiles == summary.requests == server.requests == TILES
    assert len(texts) == summary.texts == 8 * TILES
    for _, rows in texts.groupby("tile_id"):
        assert tuple(rows["field"]) == FIELDS[rows["task"].iloc[0]]
    assert set(texts["source"]) == {"openai/gpt-4.1"}
    maker = read_text_metadata(dataset, summary.version)["maker"]
    assert (maker["provider"], maker["mode"]) == ("openai", "single")
    assert summary.cost_usd == pytest.approx((summary.input_tokens * 2 + summary.output_tokens * 8) / 1e6)
    assert server.authorizations == {f"Bearer {KEY}"}


def test_no_text_stands_under_a_wrong_tile(dataset: Path, server: Server, settings: MakeSettings) -> None:
    describe(dataset, settings(concurrency=8))
    tiles = tile_of_image(dataset)
    said = texts_of(dataset).groupby("tile_id")["text"].agg(list)
    assert len(server.log) == TILES
    for exchange in server.log:
        fields = list(json.loads(exchange.answer)["fields"].values())
        assert said[tiles[exchange.image]] == fields


def test_children_wait_for_their_parent_and_read_its_text(
    dataset: Path, server: Server, settings: MakeSettings
) -> None:
    server.latency_s = 0.02
    describe(dataset, settings(concurrency=8))
    tiles = tile_of_image(dataset)
    exchanges = {tiles[exchange.image]: exchange for exchange in server.log}
    said = texts_of(dataset).groupby("tile_id")["text"].agg(list)
    store = ensure_evidence(dataset)
    parents = {tile: parent for tile, parent in store.graph() if parent is not None}
    store.close()
    assert len(parents) == TILES - 2
    for tile, parent in parents.items():
        assert exchanges[parent].ended <= exchanges[tile].began
        for sentence in said[parent]:
            assert sentence.rstrip(".") in exchanges[tile].question
    # What does not have to wait does not: both families are in flight at the same time.
    assert exchanges["B_L"].began < exchanges["A_L"].ended


@pytest.mark.parametrize(("mode", "requests_a_tile"), [("plain", 1), ("chain", len(LAYERS))])
def test_modes(
    dataset: Path, server: Server, settings: MakeSettings, mode: str, requests_a_tile: int
) -> None:
    summary = describe(dataset, settings(mode=mode))
    assert (summary.tiles, summary.rejected) == (TILES, 0)
    assert server.requests == TILES * requests_a_tile
    if mode == "chain":  # each layer sees the answers before it
        last = max(server.log, key=lambda exchange: len(exchange.text))
        assert last.text.count("is seen here in plain words") >= len(LAYERS) - 1


def test_a_rerun_asks_nothing_and_writes_nothing(
    dataset: Path, server: Server, settings: MakeSettings
) -> None:
    first = describe(dataset, settings())
    again = describe(dataset, settings(concurrency=2))
    assert server.requests == TILES
    assert (again.version, again.requests, again.cached) == (first.version, 0, TILES)
    assert again.cost_usd == first.cost_usd
    assert text_versions(dataset) == ["v000"]


def test_other_parameters_are_other_answers(dataset: Path, server: Server, settings: MakeSettings) -> None:
    describe(dataset, settings())
    describe(dataset, settings(temperature=0.5))
    assert server.requests == 2 * TILES
    assert text_versions(dataset) == ["v000", "v001"]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_is_a_limit(
    dataset: Path, server: Server, settings: MakeSettings, concurrency: int
) -> None:
    server.latency_s = 0.3
    describe(dataset, settings(concurrency=concurrency))
    assert server.most_in_flight == concurrency


def test_a_dry_run_asks_nobody(
    dataset: Path, server: Server, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    ahead = estimate(dataset, settings(base_url="https://example.org/v1"))
    assert (ahead.tiles, ahead.requests, ahead.cached, server.requests) == (TILES, TILES, 0, 0)
    assert ahead.cost_usd is not None
    assert ahead.cost_usd == pytest.approx((ahead.input_tokens * 2 + ahead.output_tokens * 8) / 1e6)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    paid = describe(dataset, settings())
    assert paid.cost_usd is not None
    assert paid.cost_usd / 3 < ahead.cost_usd < paid.cost_usd * 3
    after = estimate(dataset, settings())
    assert (after.requests, after.cached, after.cost_usd) == (0, TILES, 0.0)
    assert after.spent_usd == paid.cost_usd


def test_the_budget_is_never_exceeded(dataset: Path, server: Server, settings: MakeSettings) -> None:
    whole = estimate(dataset, settings(max_output_tokens=700)).cost_usd
    assert whole is not None
    with pytest.raises(BudgetError, match="--budget"):
        describe(dataset, settings(max_output_tokens=700, budget_usd=whole / 3))
    assert 0 < server.requests < TILES
    assert text_versions(dataset) == []
    spent = estimate(dataset, settings(max_output_tokens=700)).spent_usd
    assert spent is not None
    assert 0 < spent <= whole / 3
    before = server.requests
    with pytest.raises(BudgetError):  # what an earlier run has spent counts
        describe(dataset, settings(max_output_tokens=700, budget_usd=whole / 3))
    assert server.requests <= before + 1
    finished = describe(dataset, settings(max_output_tokens=700, budget_usd=100.0))
    assert finished.tiles == server.requests == TILES


def test_part_of_a_version_where_it_is_wanted(dataset: Path, server: Server, settings: MakeSettings) -> None:
    whole = estimate(dataset, settings(max_output_tokens=700)).cost_usd
    assert whole is not None
    summary = describe(dataset, settings(max_output_tokens=700, budget_usd=whole / 2, leave_unanswered=True))
    assert 0 < summary.tiles < TILES
    assert summary.tiles + summary.unanswered == TILES


def test_a_budget_needs_a_price(dataset: Path, settings: MakeSettings) -> None:
    with pytest.raises(SettingsError, match="input_usd"):
        describe(dataset, settings(model="my-own-model", budget_usd=1.0))
    summary = describe(dataset, settings(model="my-own-model", budget_usd=1.0, input_usd=0.1, output_usd=0.2))
    assert summary.cost_usd == pytest.approx((summary.input_tokens * 0.1 + summary.output_tokens * 0.2) / 1e6)


def run_describe(dataset: Path, server: Server, **settings: object) -> "subprocess.Popen[str]":
    """Describe in a process of its own."""
    code = (
        "import sys, json, pathlib; from fusar_klip.texts import DescribeSettings, describe\n"
        "s = DescribeSettings(**json.loads(sys.argv[2]))\n"
        "print(json.dumps(describe(pathlib.Path(sys.argv[1]), s).version))"
    )
    known = {"provider": "openai", "model": "gpt-4.1", "base_url": server.url, "workers": 1} | settings
    return subprocess.Popen(
        [sys.executable, "-c", code, str(dataset), json.dumps(known)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_killed_run_pays_at_most_what_was_in_flight_twice(
    dataset: Path, server: Server, settings: MakeSettings, after: int
) -> None:
    ensure_evidence(dataset).close()
    server.latency_s = 0.05
    concurrency = 2
    process = run_describe(dataset, server, concurrency=concurrency)
    wait_until(lambda: server.requests >= after)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: server.in_flight == 0)
    server.latency_s = 0.0
    summary = describe(dataset, settings(concurrency=concurrency))
    assert summary.tiles == TILES
    times = Counter(exchange.image for exchange in server.log)
    assert sum(times.values()) - TILES <= concurrency
    assert max(times.values()) <= 2
    tiles = tile_of_image(dataset)
    said = texts_of(dataset).groupby("tile_id")["text"].agg(list)
    for exchange in server.log:
        assert said[tiles[exchange.image]] == list(json.loads(exchange.answer)["fields"].values())


def test_ctrl_c_waits_for_what_is_paid_for(dataset: Path, server: Server, settings: MakeSettings) -> None:
    ensure_evidence(dataset).close()
    server.latency_s = 0.3
    process = run_describe(dataset, server, concurrency=2)
    wait_until(lambda: server.requests == 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert server.requests == 2
    server.latency_s = 0.0
    assert describe(dataset, settings()).requests == TILES - 2


def test_two_processes_share_the_work(dataset: Path, server: Server) -> None:
    ensure_evidence(dataset).close()
    server.latency_s = 0.1
    processes = [run_describe(dataset, server, concurrency=3) for _ in range(2)]
    for process in processes:
        said, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
        assert json.loads(said) == "v000"
    assert server.requests == TILES
    assert text_versions(dataset) == ["v000"]


def test_batches_come_to_the_same_texts(dataset: Path, server: Server, settings: MakeSettings) -> None:
    one_by_one = describe(dataset, settings())
    batched = describe(dataset, settings(batch=True, temperature=0.0))
    pd.testing.assert_frame_equal(texts_of(dataset, batched.version), texts_of(dataset, one_by_one.version))
    assert len(server.batches) == 3  # a scale each
    assert not list((dataset / "cache" / "batches").glob("*.json*"))
    assert batched.requests == TILES
    assert batched.cost_usd is not None
    assert one_by_one.cost_usd is not None
    assert batched.cost_usd == pytest.approx(1.5 * one_by_one.cost_usd)  # both, the batch at half the price


@pytest.mark.parametrize("record", ["kept", "lost"])
def test_a_killed_process_leaves_its_batch_to_the_next(
    dataset: Path, server: Server, settings: MakeSettings, record: str
) -> None:
    ensure_evidence(dataset).close()
    server.batch_polls = 1 << 30
    folder = dataset / "cache" / "batches"
    process = run_describe(dataset, server, batch=True, batch_poll_s=0.05)
    wait_until(lambda: bool(list(folder.glob("*.json"))))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if record == "lost":  # killed between the request and writing its number down
        next(iter(folder.glob("*.json"))).unlink()
    server.batch_polls = 1
    assert describe(dataset, settings(batch=True)).tiles == TILES
    assert len(server.batches) == 3
    assert max(Counter(exchange.image for exchange in server.log).values()) == 1


def test_bad_lines_of_a_batch_are_asked_for_again(
    dataset: Path, server: Server, settings: MakeSettings
) -> None:
    server.faults = ["500", "not-json"]
    summary = describe(dataset, settings(batch=True))
    assert (summary.tiles, summary.rejected) == (TILES, 0)
    server.batch_answers = False
    with pytest.raises(ProviderError, match="no answer"):
        describe(dataset, settings(batch=True, temperature=1.0))


def test_a_schedule_holds_few_families() -> None:
    """Children go before new families, so what is held does not grow with the graph."""
    import asyncio

    def graph() -> Iterator[tuple[str, str | None]]:
        for family in range(2000):
            yield f"{family}", None
            for child in range(3):
                yield f"{family}.{child}", f"{family}"

    async def run() -> tuple[int, int]:
        schedule, done, most = Schedule(graph()), 0, 0
        while (job := await schedule.take()) is not None:
            if "." in job.tile_id:
                assert isinstance(job.parent, UnansweredTile)
                assert job.parent.tile_id == job.tile_id.split(".")[0]
            await schedule.finish(job, UnansweredTile(job.tile_id, None))
            done += 1
            most = max(most, len(schedule._ready))
        return done, most

    done, most = asyncio.run(run())
    assert done == 8000
    assert most <= 3
