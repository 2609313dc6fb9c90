"""Cycles of one poller in virtual time, against a service on a virtual network."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohappyeyeballs
import async_solipsism
import pytest

from tokenwire_server.ports import SourceState
from tokenwire_server.sources.dexscreener import DexScreener
from tokenwire_server.sources.jupiter import Jupiter
from tokenwire_server.sources.poller import (
    BREAKER_OPENS_AFTER,
    BREAKER_PAUSE_S,
    MAX_ATTEMPTS,
    MAX_WAIT_IN_CYCLE_S,
    Poller,
)
from tokenwire_server.sources.poller_findings import Findings
from tokenwire_server.sources.poller_http import Pace, poll_session

from .poller_service import HTML, JUP, PAIRS, SYMMETRY, TOKENS, Reply, Service

T0_MS = 1_700_000_000_000
TOKENS_PATH = "/latest/dex/tokens/"
SEARCH_PATH = "/tokens/v2/search"
LIVE, RECONNECTING, STARTING = SourceState.LIVE, SourceState.RECONNECTING, SourceState.STARTING


@dataclass
class Reports:
    """Remembers what a poller told, and when."""

    states: list[tuple[SourceState, str]] = field(default_factory=list)
    rejections: list[tuple[str, str]] = field(default_factory=list)
    cycles: list[tuple[float, Findings]] = field(default_factory=list)

    def state(self, poller: str, state: SourceState, detail: str = "") -> None:
        self.states.append((state, detail))

    def rejected(self, poller: str, reason: str, detail: str) -> None:
        self.rejections.append((reason, detail))

    def found(self, poller: str, findings: Findings) -> None:
        self.cycles.append((asyncio.get_running_loop().time(), findings))

    async def room(self) -> None:
        pass


class Story:
    """One poller and its service; ``tell`` runs both for a while of virtual time."""

    def __init__(self) -> None:
        self.service = Service()
        self.reports = Reports()
        self.poller: Poller | None = None

    def tell(self, seconds: float, poller: Callable[[], Poller] | None = None) -> None:
        async def main() -> None:
            self.poller = (poller or self.dexscreener)()
            async with self.service.running(port=80), poll_session() as session:
                task = asyncio.create_task(self.poller.run(session, self.reports))
                await asyncio.sleep(seconds)
                assert not task.done()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        run_virtually(main)

    def dexscreener(self, **options: Any) -> Poller:
        api = DexScreener([SYMMETRY])
        return Poller("dexscreener", api, "http://127.0.0.1", 30_000, wall_ms=wall_ms, rng=Random(1), **options)

    @property
    def at_s(self) -> list[float]:
        return [round(asked.at_s, 3) for asked in self.service.asked]


def wall_ms() -> int:
    return T0_MS + int(asyncio.get_running_loop().time() * 1_000)


@contextmanager
def virtual_network() -> Iterator[None]:
    connect = aiohappyeyeballs.start_connection
    aiohappyeyeballs.start_connection = async_solipsism.aiohappyeyeballs_start_connection
    try:
        yield
    finally:
        aiohappyeyeballs.start_connection = connect


def run_virtually(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with virtual_network(), asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(main())


def test_a_cycle_every_interval() -> None:
    story = Story()
    story.service.always[TOKENS_PATH] = Reply(PAIRS)
    story.tell(100)
    assert story.at_s == [0, 30, 60, 90]
    assert story.service.paths() == [TOKENS_PATH + SYMMETRY] * 4
    assert story.reports.states == [(STARTING, ""), (LIVE, "")]
    assert [[fact.heard_ms - T0_MS for fact in found.facts] for _, found in story.reports.cycles] == [
        [0],
        [30_000],
        [60_000],
        [90_000],
    ]


def test_cycles_never_overlap_and_late_ones_fall_out() -> None:
    story = Story()
    story.service.always[TOKENS_PATH] = Reply(PAIRS)
    story.service.queued[TOKENS_PATH].append(Reply(PAIRS, gate=lambda: asyncio.sleep(65)))
    story.tell(130, lambda: story.dexscreener(timeout_s=70))
    assert story.at_s == [0, 90, 120]
    assert story.service.most_under_way == 1
    assert story.poller is not None
    assert (story.poller.cycles, story.poller.skipped) == (3, 2)


def test_an_error_of_the_server_is_asked_again_and_recovers() -> None:
    story = Story()
    story.service.queued[TOKENS_PATH] += [Reply("oops", 500), Reply("oops", 502)]
    story.service.always[TOKENS_PATH] = Reply(PAIRS)
    story.tell(25)
    first, second, third = story.at_s
    assert (first, story.reports.states) == (0, [(STARTING, ""), (LIVE, "")])
    assert 0 < second <= 1
    assert second < third <= second + 2
    assert story.poller is not None
    assert story.poller.failures == {"http_500": 1, "http_502": 1}


def test_a_request_is_tried_three_times_then_the_next_cycle_has_its_turn() -> None:
    story = Story()
    story.service.queued[TOKENS_PATH] += [Reply("oops", 500)] * MAX_ATTEMPTS
    story.service.always[TOKENS_PATH] = Reply(PAIRS)
    story.tell(35)
    assert len(story.at_s) == MAX_ATTEMPTS + 1
    assert story.at_s[-1] == 30
    assert [state for state, _ in story.reports.states] == [STARTING, RECONNECTING, LIVE]
    assert story.reports.states[1][1] == "http://127.0.0.1: http_500"
    assert len(story.reports.cycles) == 1


def test_a_short_retry_after_is_waited_for_within_the_cycle() -> None:
    story = Story()
    story.service.queued[TOKENS_PATH].append(Reply("slow down", 429, {"Retry-After": "7"}))
    story.service.always[TOKENS_PATH] = Reply(PAIRS)
    story.tell(25)
    assert story.at_s == [0, 7]
    assert story.reports.states == [(STARTING, ""), (LIVE, "")]


def test_a_long_retry_after_ends_the_cycle_and_is_honoured_by_the_next() -> None:
    story = Story()
    story.service.queued[TOKENS_PATH].append(Reply("slow down", 429, {"Retry-After": "75"}))
    story.service.always[TOKENS_PATH] = Reply(PAIRS)
    story.tell(100)
    # At 60 s the wait that is left is longer than a cycle waits; at 75 s nothing is due; then all is as ever.
    assert MAX_WAIT_IN_CYCLE_S < 15
    assert story.at_s == [0, 90]
    assert [state for state, _ in story.reports.states] == [STARTING, RECONNECTING, LIVE]


def test_two_pollers_of_one_service_share_its_patience() -> None:
    service, reports = Service(), Reports()
    service.queued[TOKENS_PATH].append(Reply("slow down", 429, {"Retry-After": "9"}))
    service.always[TOKENS_PATH] = Reply(PAIRS)

    async def main() -> None:
        pace = Pace(300)
        pollers = [
            Poller(name, DexScreener([name]), "http://127.0.0.1", 30_000, pace=pace, wall_ms=wall_ms)
            for name in ("a1", "b1")
        ]
        async with service.running(port=80), poll_session() as session:
            await pollers[0].cycle(session)
            assert service.asked[-1].at_s == 9
            pace.hold(20)
            await pollers[1].cycle(session)
            assert len(service.asked) == 2
            await asyncio.sleep(2)
            await pollers[1].cycle(session)

    run_virtually(main)
    assert [asked.at_s for asked in service.asked] == [0, 9, 20]
    assert not reports.states


def test_the_rate_of_the_service_is_kept() -> None:
    story = Story()
    mints = [f"{'1' * 39}{number:05}".replace("0", "A") for number in range(3_000)]  # 30 requests, 27 a minute allowed
    story.service.always[SEARCH_PATH] = Reply("[]")
    story.service.always["/price"] = Reply("{}")
    story.tell(125, lambda: Poller("jupiter", Jupiter(mints), "http://127.0.0.1", 30_000, wall_ms=wall_ms))
    times = story.at_s
    assert times == [0] * 27 + [60] * 27 + [120] * 27
    assert all(later - earlier >= 60 for earlier, later in zip(times, times[27:], strict=False))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(HTML), "not_json"),
        (Reply(PAIRS[:500]), "not_json"),
        (Reply('{"error":"x"}'), "no_pairs"),
        (Reply("{}", 404), "http_404"),
    ],
)
def test_an_answer_of_no_use_is_not_asked_for_again(reply: Reply, reason: str) -> None:
    story = Story()
    story.service.always[TOKENS_PATH] = reply
    story.tell(35)
    assert story.at_s == [0, 30]
    assert story.poller is not None
    assert story.poller.failures == {reason: 2}
    assert [state for state, _ in story.reports.states] == [STARTING, RECONNECTING]
    assert reason in story.reports.states[1][1]
    assert [why for why, _ in story.reports.rejections] == ([] if reason == "http_404" else [reason] * 2)
    assert not story.reports.cycles


def test_null_pairs_and_empty_pages_are_answers() -> None:
    story = Story()
    story.service.queued[TOKENS_PATH] += [Reply('{"schemaVersion":"1.0.0","pairs":null}'), Reply('{"pairs":[]}')]
    story.tell(35)
    assert story.reports.states == [(STARTING, ""), (LIVE, "")]
    assert [found.missing for _, found in story.reports.cycles] == [1, 1]


def test_a_slow_service_times_out() -> None:
    story = Story()
    story.service.always[TOKENS_PATH] = Reply(PAIRS, gate=lambda: asyncio.sleep(1_000))
    story.tell(29)
    assert story.poller is not None
    assert story.poller.failures == {"timeout": 2}
    assert 10 < story.at_s[1] <= 11


def test_the_circuit_breaker_pauses_and_probes() -> None:
    story = Story()
    story.service.always[TOKENS_PATH] = Reply("oops", 500)
    story.tell(300)
    times = story.at_s
    opened_s = times[BREAKER_OPENS_AFTER - 1]
    assert opened_s < 35
    assert times[BREAKER_OPENS_AFTER] == 120  # the first cycle after the pause, with one attempt instead of three
    assert opened_s + BREAKER_PAUSE_S < 120
    assert times[BREAKER_OPENS_AFTER + 1] == 240  # a pause of twice the length
    assert [detail for _, detail in story.reports.states if "paused" in detail]


def test_a_probe_that_succeeds_closes_the_circuit() -> None:
    story = Story()
    story.service.queued[TOKENS_PATH] += [Reply("oops", 500)] * BREAKER_OPENS_AFTER
    story.service.always[TOKENS_PATH] = Reply(PAIRS)
    story.tell(160)
    assert story.at_s[BREAKER_OPENS_AFTER:] == [120, 150]
    assert story.reports.states[-1] == (LIVE, "")


def test_the_key_is_sent_and_never_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "tokenwire_server")
    story = Story()
    story.service.queued[SEARCH_PATH] += [Reply(TOKENS), Reply('{"error":"Unauthorized"}', 401)]
    story.tell(35, lambda: Poller("jupiter", Jupiter([JUP], "hunter2"), "http://127.0.0.1", 30_000, wall_ms=wall_ms))
    assert [asked.headers["x-api-key"] for asked in story.service.asked] == ["hunter2"] * 2
    told = repr([story.reports, [(record.msg, record.args, record.__dict__) for record in caplog.records]])
    assert "poll cycle completed" in told
    assert "hunter2" not in told
    assert "key" in story.reports.states[-1][1]


def test_each_cycle_is_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tokenwire_server")
    story = Story()
    story.service.always[TOKENS_PATH] = Reply(PAIRS, gate=lambda: asyncio.sleep(1.5))
    story.tell(35)
    lines = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "poll cycle completed"]
    assert len(caplog.records) == len(lines) == 2
    assert lines[0] == {"source": "dexscreener", "ms": 1500, "tokens": 1, "missing": 0, "requests": 1, "failed": 0}


def test_the_log_tells_of_the_first_failure_of_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tokenwire_server")
    story = Story()
    story.service.queued[TOKENS_PATH] += [Reply("no", 429), Reply("no", 500), Reply("no", 429)]
    story.tell(25)
    warnings = [record.__dict__["fields"]["problem"] for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["http_429", "http_500"]
