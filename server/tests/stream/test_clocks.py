"""What a wrong clock does in each role, an hour behind or ahead: on given clocks."""

import asyncio
import json
import logging
from decimal import Decimal
from typing import Any

import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import BusError, Outgoing, Place
from tokenwire_server.collect_role import _status
from tokenwire_server.gateway.http import Answers
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream import brokers_clock, collector_writer
from tokenwire_server.stream.brokers_clock import HEARD_MS, MAX_CLOCK_SKEW_MS, BrokersClock
from tokenwire_server.stream.records import RawEvent, encode, read_raw
from tokenwire_server.validation.wrong_clocks import MAX_FROM_THE_FUTURE, WrongClocks

from .collector_bench import collecting
from .test_follower import following
from .test_processor import TOPICS, done, running
from .test_processor import result as logged
from .virtual import run_virtual

NOW_MS = 1_774_089_400_000
HOUR_MS = 3_600_000
A = "x:A"


class Clocks:
    """Unix time, and how far the collector's and the brokers' clocks are ahead of it."""

    def __init__(self, ours_ms: int = 0, theirs_ms: int = 0) -> None:
        self.ours_ms = ours_ms
        self.theirs_ms = theirs_ms

    def now_ms(self) -> int:
        return NOW_MS + int(asyncio.get_running_loop().time() * 1_000)

    def of_brokers(self) -> int:
        return self.now_ms() + self.theirs_ms

    def of_collector(self) -> BrokersClock:
        return BrokersClock(lambda: self.now_ms() + self.ours_ms)


async def new_bus(clocks: Clocks) -> MemoryBus:
    bus = MemoryBus(clocks.of_brokers)
    await bus.ensure(TOPICS.specs())
    return bus


def trade(number: int, time_ms: int) -> Trade:
    return Trade(A, str(number), Decimal(1), Decimal(1), Side.BUY, time_ms)


def value(time_ms: int) -> TokenValue:
    return TokenValue(A, *map(Decimal, (1, 1, 1, 1, 1)), time_ms)


# --- the collector ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clocks", "is_refused"),
    [
        (Clocks(), False),
        (Clocks(ours_ms=-HOUR_MS), False),
        (Clocks(ours_ms=HOUR_MS), False),
        (Clocks(theirs_ms=-HOUR_MS), False),
        (Clocks(theirs_ms=HOUR_MS), False),
        (Clocks(ours_ms=-HOUR_MS, theirs_ms=-HOUR_MS), True),  # nobody knows better
    ],
)
def test_trades_of_the_present_are_used_if_one_of_the_clocks_is_right(clocks: Clocks, is_refused: bool) -> None:
    """By the collector, and by the processors, which know no other clock than the brokers'."""

    async def scenario() -> None:
        bus = await new_bus(clocks)
        async with collecting(bus, clock=clocks.of_collector()) as sink:
            sink.tokens("s", [TokenInfo(A, "A")])
            for number in range(1, 21):
                sink.trades("s", [trade(number, clocks.now_ms())])
                await asyncio.sleep(1)
            assert sink.brokers_clock.skew_ms == clocks.theirs_ms - clocks.ours_ms
            assert sink.rejections == ({("s", "time_in_future"): 20} if is_refused else {})
            assert bool(sink.wrong_clocks.reasons) is is_refused
        async with running(bus, "p") as one:
            await done(bus)
            assert one.rejections() == {}
        trades, _, _ = await logged(bus)
        assert trades == ({} if is_refused else {A: [(number, str(number)) for number in range(1, 21)]})

    run_virtual(scenario)


def test_what_is_from_the_future_by_both_clocks_is_refused_all_the_same() -> None:
    async def scenario() -> None:
        clocks = Clocks(ours_ms=-HOUR_MS)
        async with collecting(await new_bus(clocks), clock=clocks.of_collector()) as sink:
            sink.trades("s", [trade(1, clocks.now_ms() + HOUR_MS), trade(2, clocks.now_ms())])
            assert sink.rejections == {("s", "time_in_future"): 1}
            assert sink.wrong_clocks.reasons == {}

    run_virtual(scenario)


@pytest.mark.parametrize(("clocks", "is_refused"), [(Clocks(ours_ms=HOUR_MS), True), (Clocks(ours_ms=-HOUR_MS), False)])
def test_polled_values_that_processors_would_refuse_are_refused_where_it_is_told(
    clocks: Clocks, is_refused: bool
) -> None:
    """They are stamped by our clock, and judged by the brokers'."""

    async def scenario() -> None:
        bus = await new_bus(clocks)
        async with collecting(bus, clock=clocks.of_collector()) as sink:
            status = _status("c", sink, (), None)
            sink.state("s", SourceState.LIVE)
            sink.tokens("s", [TokenInfo(A, "A")])
            assert status.trouble is None
            for _ in range(MAX_FROM_THE_FUTURE):
                now_ms = clocks.now_ms() + clocks.ours_ms
                sink.clock("s", now_ms)
                sink.values("s", [value(now_ms)])
                await asyncio.sleep(1)
            taken = 0 if is_refused else MAX_FROM_THE_FUTURE
            assert sink.values_taken == {"s": taken}
            assert status.body()["ready"] is not is_refused
            if is_refused:
                assert "sources failing: all that s says is 3600 s ahead of" in str(status.trouble)
                clocks.ours_ms = 0  # and the brokers' clock is looked at with the next transaction
                sink.brokers_clock.skew_ms = 0
                sink.values("s", [value(clocks.now_ms())])
                assert status.trouble is None
        async with running(bus, "p") as one:
            await done(bus)
            assert one.rejections() == {}

    run_virtual(scenario)


def test_a_clock_that_is_set_is_noticed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(collector_writer, "COMPARE_INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        clocks = Clocks(ours_ms=HOUR_MS)
        async with collecting(await new_bus(clocks), clock=clocks.of_collector()) as sink:
            assert sink.brokers_clock.skew_ms == -HOUR_MS
            clocks.ours_ms = 0
            sink.offset("s", "1")
            await asyncio.sleep(1)
            assert sink.brokers_clock.skew_ms == 0
        assert [record.getMessage() for record in caplog.records if "clocks" in record.getMessage()] == [
            "clocks differ",
            "clocks agree again",
        ]

    run_virtual(scenario)


def test_a_position_that_can_not_be_read_back_is_written_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_writer, "COMPARE_INTERVAL_S", 0.0)

    async def scenario() -> None:
        clocks = Clocks()
        bus = await new_bus(clocks)
        async with collecting(bus, clock=clocks.of_collector()) as sink:

            async def refused(place: Place, first: int, end: int) -> Any:
                raise BusError("not now")

            monkeypatch.setattr(bus, "read", refused)
            sink.offset("s", "1")
            await asyncio.sleep(1)
            assert sink.failure is None
            assert sink.writer.transactions == 1

    run_virtual(scenario)


# --- the processor ---------------------------------------------------------------------------------------------------


def test_a_processor_tells_of_what_it_refuses_by_the_brokers_clock(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        clocks = Clocks(theirs_ms=-HOUR_MS)
        bus = await new_bus(clocks)
        events: list[RawEvent] = [raw.Tokens("s", (TokenInfo(A, "A"),))]
        events += [raw.Values("s", (value(clocks.now_ms()),))] * 2
        place = TOPICS.place(TOPICS.raw, A)
        await bus.write([Outgoing(place, A.encode(), encode(event)) for event in events])
        async with running(bus, "p") as one:
            await done(bus)
            assert one.rejections() == {("s", "time_in_future"): 2}
        assert caplog.text.count("data rejected") == 1
        assert [type(read_raw(record.value)) for record in await bus.read(place, 0, 9)] == [type(e) for e in events]

    run_virtual(scenario)


# --- the gateway -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours_ms", [-HOUR_MS, 0, HOUR_MS])
def test_a_gateway_says_how_far_the_brokers_clock_is_ahead(ours_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(ours_ms)
    monkeypatch.setattr(brokers_clock.time, "time_ns", lambda: (clocks.now_ms() + ours_ms) * 1_000_000)

    async def scenario() -> None:
        bus = await new_bus(clocks)
        async with running(bus, "p"), following(bus) as (one, pipeline, _):
            place = TOPICS.place(TOPICS.raw, A)
            await bus.write([Outgoing(place, b"", encode(raw.Tokens("s", (TokenInfo(A, "A"),))))])
            for number in range(1, HEARD_MS // 1_000 + 10):
                await bus.write([Outgoing(place, b"", encode(raw.Trades("s", (trade(number, clocks.now_ms()),))))])
                await asyncio.sleep(1)
            assert len(pipeline.market) == 1
            status = one.status()
            assert status.reason == ""
            assert abs(status.skew_ms + ours_ms) < 1_000

    run_virtual(scenario)


class SlowToRead:
    """A bus whose reader gives one record a second."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def reader(self) -> Any:
        reader = self._bus.reader()
        poll = reader.poll

        async def slowly(most: int, timeout_s: float) -> Any:
            await asyncio.sleep(1)
            return await poll(1, timeout_s)

        reader.poll = slowly  # type: ignore[method-assign]
        return reader


def test_a_gateway_that_is_behind_does_not_take_that_for_a_wrong_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks()
    monkeypatch.setattr(brokers_clock.time, "time_ns", lambda: clocks.now_ms() * 1_000_000)

    async def scenario() -> None:
        bus = await new_bus(clocks)
        async with running(bus, "p"), following(SlowToRead(bus)) as (one, _, _):
            place = TOPICS.place(TOPICS.raw, A)
            await bus.write([Outgoing(place, b"", encode(raw.Tokens("s", (TokenInfo(A, "A"),))))])
            for number in range(1, 4 * HEARD_MS // 1_000):
                await bus.write([Outgoing(place, b"", encode(raw.Trades("s", (trade(number, clocks.now_ms()),))))])
                await asyncio.sleep(1)
            assert one.lag_records > HEARD_MS // 1_000
            assert abs(one.clock.skew_ms) < MAX_CLOCK_SKEW_MS

    run_virtual(scenario)


def test_how_long_records_take_is_not_taken_for_a_wrong_clock() -> None:
    now_ms = NOW_MS
    clock = BrokersClock(lambda: now_ms)
    for second, delay_ms in enumerate([HOUR_MS, 40_000, 200, 30_000] * 20):
        now_ms = NOW_MS + second * 1_000
        clock.heard(now_ms - delay_ms, second * 1_000)
    assert clock.skew_ms == -200


# --- a server without brokers ----------------------------------------------------------------------------------------


class Named:
    cadence_ms = 1_000

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize("others", [(), ("other",)])
def test_a_server_whose_clock_is_behind_says_so_in_place_of_serving_nothing(others: tuple[str, ...]) -> None:
    async def scenario() -> None:
        clock = [NOW_MS - HOUR_MS]
        pipeline = Pipeline(10, lambda: 0, lambda: clock[0])
        answers = Answers(pipeline, lambda: (b"", ""))
        for name in ("s", *others):
            pipeline.add_source(Named(name))  # type: ignore[arg-type]
            pipeline.state(name, SourceState.LIVE)
        pipeline.tokens("s", [TokenInfo(A, "A")])
        for number in range(MAX_FROM_THE_FUTURE):
            assert answers.ready()[0] == 200
            pipeline.trades("s", [trade(number, NOW_MS)])
        status, body, _ = answers.ready()
        told = json.loads(body)
        assert told["clocks"]["s"].startswith(
            "all that s says is 3600 s ahead of this machine's clock, and refused: set"
        )
        if others:  # which deliver what can be used, as far as is known
            assert status == 200
        else:
            assert (status, told["reason"]) == (503, told["clocks"]["s"])
        clock[0] = NOW_MS
        pipeline.trades("s", [trade(99, NOW_MS)])
        assert answers.ready()[0] == 200
        assert "clocks" not in json.loads(answers.ready()[1])

    run_virtual(scenario)


def test_only_verdicts_in_a_row_say_that_a_clock_is_wrong() -> None:
    clocks = WrongClocks()
    for number in range(1, 2 * MAX_FROM_THE_FUTURE):
        assert clocks.refused("s", 61_000) is (number == MAX_FROM_THE_FUTURE)
    assert list(clocks.reasons) == ["s"]
    assert not clocks.taken("other")
    assert clocks.taken("s")
    assert not clocks.taken("s")
    assert clocks.reasons == {}
    for _ in range(3):
        for _ in range(MAX_FROM_THE_FUTURE - 1):
            assert not clocks.refused("s", 61_000)
        clocks.taken("s")
