"""The market's tasks run, small, and judge what they find. No figure is looked at."""

import dataclasses
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import pytest

from loadtests.bench.__main__ import main
from loadtests.bench.market_client import Client, plan_of
from loadtests.bench.market_feed import NaiveMarket, trades
from loadtests.bench.market_ingest import Ingest, ingest_row, ours
from loadtests.bench.market_replay import Replayed, replay_row, write_tape
from loadtests.bench.market_rest import percentile
from loadtests.bench.market_rows import Figure, MarketRow, beside, market_section, market_table, median_row
from loadtests.bench.market_server import number_of, steady_price
from loadtests.bench.market_tasks import COMMANDS, MARKET_TASKS, TITLES, market_targets, run_task
from loadtests.bench.market_watcher import Watcher, judge
from loadtests.bench.plan import PLANS
from tokenwire_server.market.decimals import canonical
from tokenwire_server.sources.tape_file import read_tape

needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: server and reader need two")
needs_compiler = pytest.mark.skipif(
    not os.environ.get("CI") and shutil.which("cc") is None, reason="no C compiler: the sink is written in C"
)


LONG = {"M2", "M5", "M6", "M7", "M8", "M9"}


@needs_two_cores
@needs_compiler
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.proof(only=True)] if name in LONG else []) for name in MARKET_TASKS],
)
def test_each_task_runs(name: str) -> None:
    rows = run_task(name, "tiny")
    faults = [row.invalid for row in rows if row.invalid]
    # So short a run may lag, or see nothing of the server's CPU time; what came must be right all the same.
    assert all("CPU time was below" in fault or "within the window" in fault for fault in faults), faults
    assert any(row.family == "ours" and row.figures for row in rows)
    assert all(row.task == name and row.measures for row in rows)
    text = market_table(rows, TITLES, COMMANDS)
    assert COMMANDS[name] in text
    assert all(row.label in text for row in rows)


def test_every_task_is_in_the_plans_that_are_not_quick() -> None:
    assert list(PLANS["daily"].market) == list(PLANS["full"].market) == list(MARKET_TASKS)
    assert not PLANS["quick"].market


@needs_two_cores
def test_a_task_is_asked_for_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = MarketRow("M1", "tokenwire, busy", "ours", "this", [Figure("trades/s of CPU time", 123_456.0)])
    monkeypatch.setattr("loadtests.bench.__main__.run_task", lambda name, size: [row])
    assert main(["--workloads", "M1", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("123,456") == 3  # when it is done, in the table, and as a target
    assert "met          M1" in shown
    content = json.loads((tmp_path / "custom.json").read_text())
    assert content["market"][0]["command"] == COMMANDS["M1"]
    assert "123,456" in (tmp_path / "custom.html").read_text()
    assert main(["--workloads", "M99", "--out", str(tmp_path)]) == 2
    monkeypatch.setattr("loadtests.bench.__main__.run_task", lambda name, size: [dataclasses.replace(row, invalid="x")])
    assert main(["--workloads", "M1", "--out", str(tmp_path)]) == 1


# --- rows and targets ------------------------------------------------------------------------------------------------


def row(
    value: float, task: str = "M1", label: str = "tokenwire, busy", name: str = "trades/s of CPU time"
) -> MarketRow:
    return MarketRow(task, label, "ours", "what", [Figure(name, value)])


def met(rows: list[MarketRow], text: str) -> bool | None:
    (target,) = [target for target in market_targets(rows) if text in target.text]
    return target.is_met


def test_targets_are_met_missed_or_not_measured() -> None:
    assert met([row(100_000)], "100,000 trades/s on one core") is True
    assert met([row(99_999)], "100,000 trades/s on one core") is False
    assert met([], "100,000 trades/s on one core") is None
    assert met([dataclasses.replace(row(200_000), invalid="x")], "100,000 trades/s on one core") is None
    for value, is_met in ((5.0, True), (5.01, False)):
        assert met([row(value, "M2", "tokenwire while W2 runs", "klines p99")], "klines: p99") is is_met
    for rate, behind, is_met in ((19_800, 0.1, True), (19_000, 0.1, False), (20_000, 1.5, False)):
        figures = [Figure("trades/s stored", rate), Figure("behind at the end", behind)]
        stored = MarketRow("M3", "tokenwire at 20,000/s", "ours", "", figures)
        assert met([stored], "without falling behind") is is_met


def test_memory_is_judged_by_the_long_tape_alone() -> None:
    run = Replayed(10_000_000, 100.0, 90.0, 10, 200, 5, 7, 0, memory=[(40.0, 50), (60.0, 100), (100.0, 111)])
    assert met([replay_row(run)], "memory grows") is False
    assert met([replay_row(dataclasses.replace(run, memory=[(60.0, 100), (100.0, 109)]))], "memory grows") is True
    assert met([replay_row(dataclasses.replace(run, trades=100_000))], "memory grows") is None
    assert "gaps" in replay_row(dataclasses.replace(run, gaps=2)).invalid


def test_rounds_become_medians_without_the_invalid_ones() -> None:
    rounds = [row(5), row(9), row(7), dataclasses.replace(row(99), invalid="broken")]
    (figure,) = median_row(rounds).figures
    assert (figure.value, figure.low, figure.high) == (7, 5, 9)
    assert median_row(rounds[3:]).invalid == "broken"


def test_a_ratio_needs_both() -> None:
    assert beside(row(6), row(4), "trades/s of CPU time", "x").value("x") == 1.5
    assert beside(row(6), dataclasses.replace(row(4), invalid="x"), "trades/s of CPU time", "x").value("x") is None


def test_the_page_escapes_and_names_what_is_invalid() -> None:
    html = market_section([dataclasses.replace(row(5), invalid="a <b>")], TITLES, COMMANDS)
    assert "a &lt;b&gt;" in html
    assert ">5<" not in html


def test_a_plot_has_few_points_and_keeps_the_highest() -> None:
    series = {"rows": [(float(at), 7_777.0 if at == 13 else 5.0) for at in range(20)]}
    html = market_section([dataclasses.replace(row(5), series=series)], TITLES, COMMANDS)
    assert html.count("<circle") == 5
    assert ">7777.0<" in html


def test_percentiles() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.99, 1.0)] == [51, 100, 100]
    assert percentile([], 0.5) == 0


# --- feeds and oracles -----------------------------------------------------------------------------------------------


async def test_the_naive_program_and_ours_have_the_same_bars() -> None:
    found = await ours(3_000, 2_000.0)
    assert found.fault == ""
    assert found.trades == 3_000


async def test_a_wrong_bar_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    take = NaiveMarket.take

    def forgetful(market: NaiveMarket, trade: object) -> None:
        if getattr(trade, "trade_id", "") != "12999":
            take(market, trade)  # type: ignore[arg-type]

    monkeypatch.setattr(NaiveMarket, "take", forgetful)
    assert "is not what it should be" in (await ours(3_000, 2_000.0)).fault
    assert ingest_row("ours", "busy", Ingest(1, 1, 1, fault="it is wrong")).invalid == "it is wrong"


def test_the_same_seed_gives_the_same_trades() -> None:
    first, second = (list(islice(trades(5, 50.0), 500)) for _ in range(2))
    assert first == second
    assert first != list(islice(trades(5, 50.0, seed=2), 500))


def test_a_tape_has_all_its_frames(tmp_path: Path) -> None:
    write_tape(tmp_path / "tape.gz", 500)
    lines = list(read_tape(str(tmp_path / "tape.gz")))
    assert len(lines) == 500
    assert json.loads(lines[-1].frame)["data"]["e"] == "aggTrade"


@pytest.mark.parametrize("number", [0, 1, 9, 123_456])
def test_a_price_tells_its_trade(number: int) -> None:
    assert number_of(canonical(steady_price(number))) == number


def watched(*numbers: int) -> Watcher:
    watcher = Watcher()
    watcher.arrivals = [(1_000_000_000 + n * 10_000_000, [n]) for n in numbers]
    return watcher


def test_a_watcher_misses_nothing() -> None:
    end = 2_000_000_000
    good = judge([watched(*range(3, 20))], 1_000_000_000, 100.0, 1_000_000_000, end)
    assert (good["fault"], good["trades"], good["messages"], good["writes"]) == ("", 17, 17, 17)
    assert set(good["delays_us"]) == {0}
    for wrong in (watched(3, 5), watched(3, 3), watched(4, 3), watched()):
        assert "every trade" in judge([wrong], 0, 100.0, 0, end)["fault"]


# --- the client of M2 ------------------------------------------------------------------------------------------------


@contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """A server that gives these answers, one to each request, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                for answer in answers:
                    sock.recv(4_096)
                    piece = max(7, len(answer) // 20)
                    for at in range(0, len(answer), piece):
                        sock.sendall(answer[at : at + piece])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(5)


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def test_the_client_counts_answers_and_delays_from_the_plan() -> None:
    large = b"x" * 1_000_000  # which comes in several reads
    with answering(ok(large), ok(b""), ok(b"three")) as port:
        with closing(Client(port, ["/a", "/b"], 1)) as client:
            client.run(plan_of(time.monotonic_ns() - 3_000_000_000, 1.5, 2.0))  # some time ago
        assert client.fault == ""
        assert [len(delays) for delays in client.delays_us] == [2, 1]
        assert all(delay > 1_000_000 for delays in client.delays_us for delay in delays)
        assert client.kept == [(0, large)]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\n\r\n", "429"),
        (b"", "closed a connection"),
        (b"HTTP/1.1 200", "closed"),
    ],
)
def test_the_client_notices_what_is_no_answer(answer: bytes, fault: str) -> None:
    with answering(answer) as port:
        with closing(Client(port, ["/a"], 1)) as client:
            client.run([time.monotonic_ns()])
        assert fault in client.fault


def test_requests_are_planned_within_their_slots() -> None:
    plan = plan_of(1_000, 2.0, 100.0)
    assert [(instant - 1_000) // 10_000_000 for instant in plan] == list(range(200))
