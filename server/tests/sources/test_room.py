"""Whoever is told that there is no room delivers nothing more, holds little, and then misses nothing."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection

from tokenwire_server.market.trades import Trade
from tokenwire_server.metered_sink import MeteredSink
from tokenwire_server.sources import exchange_socket
from tokenwire_server.sources.probe import Probe
from tokenwire_server.sources.recording import Recording
from tokenwire_server.sources.simulation import Simulation
from tokenwire_server.sources.simulator import Simulator
from tokenwire_server.sources.tape import Tape
from tokenwire_server.sources.tape_writer import TapeWriter

from .conftest import RecordingSink, agg_trade, write_tape
from .test_exchanges import collector, hang_up, ids, numbered, running, say, venues
from .test_poller import PAIRS, RECONNECTING, TOKENS_PATH, Reply, Reports, Story
from .venues import BinanceVenue, Venue


class Narrow(RecordingSink):
    """Has room for so many trades, and then none until it is opened again."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def trades(self, source: str, trades: Sequence[Trade]) -> None:
        super().trades(source, trades)
        if len(self.all) >= self.most:
            self.has_room.clear()

    def open(self) -> None:
        self.most = 1 << 30
        self.has_room.set()


async def settled(count: Callable[[], int]) -> int:
    """The count once it has stopped to rise."""
    while True:
        before = count()
        await asyncio.sleep(0.2)
        if count() == before:
            return before


async def full(sink: Narrow) -> int:
    """How many trades were delivered before the source began to wait; it delivers no further one."""
    await sink.until(lambda: sink.waits > 0)
    return await settled(lambda: len(sink.all))


async def test_a_tape_waits(tmp_path: Path) -> None:
    sink = Narrow(250)
    path = write_tape(tmp_path / "tape", [agg_trade(number) for number in range(1_000)])
    source = Tape(path, speed=0)
    task = asyncio.create_task(source.run(sink))
    assert await full(sink) == 250
    assert source.lines == 250
    sink.open()
    await task
    assert [int(trade.trade_id) for trade in sink.all] == list(range(1_000))
    assert sink.gaps == {}


async def test_a_recording_waits(tmp_path: Path) -> None:
    simulation = Simulation(3, 20)
    recording = Recording(TapeWriter(tmp_path / "tape"), ["simulator"])
    recording.tokens("simulator", simulation.tokens())
    made = [simulation.step(1_774_000_000_000 + at_ms) for at_ms in range(0, 30_000, 500)]
    for trades in made:
        recording.trades("simulator", trades)
    recording._writer.finish()
    sink = Narrow(30)
    task = asyncio.create_task(Tape(str(tmp_path / "tape"), speed=0).run(sink))
    held = await full(sink)
    assert 30 <= held < 30 + max(map(len, made))
    sink.open()
    await task
    assert sink.all == [trade for trades in made for trade in trades]


async def test_the_simulated_market_pauses() -> None:
    now_ms = 1_774_000_000_000
    sink = Narrow(400)

    async def sleep(seconds: float) -> None:
        nonlocal now_ms
        now_ms += round(seconds * 1_000)
        await asyncio.sleep(0)

    task = asyncio.create_task(Simulator(Simulation(3), clock=lambda: now_ms, sleep=sleep).run(sink))
    held = await full(sink)
    clocks = len(sink.clocks)
    now_ms += 86_400_000  # a day without room
    assert await full(sink) == held
    assert len(sink.clocks) == clocks
    sink.open()
    await sink.until(lambda: len(sink.all) > held + 100)
    assert len({(trade.address, trade.trade_id) for trade in sink.all}) == len(sink.all)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@venues
async def test_an_exchange_is_not_read(make: type[Venue]) -> None:
    sink = Narrow(3)
    async with make(say(*range(1, 300))) as venue:
        source = collector(venue)
        async with running(source, sink):
            assert await full(sink) == 3
            frames = source.frames
            assert await settled(lambda: source.frames) == frames
            sink.open()
            await sink.until(lambda: len(sink.all) == 299)
        assert (source.gaps, source.reconnects) == (0, 0)
    assert ids(sink) == list(range(1, 300))


async def test_an_exchange_feels_it() -> None:
    """What nobody reads stays with the venue: it can't send more than the sockets hold."""
    frames, sent = 400, 0

    async def script(venue: Venue, socket: ServerConnection) -> None:
        nonlocal sent
        await say(1)(venue, socket)
        for _ in range(frames):
            await socket.send(secrets.token_hex(50_000))
            sent += 1
        await say(2)(venue, socket)

    sink = Narrow(1)
    async with BinanceVenue(script) as venue:
        async with running(collector(venue), sink):
            await full(sink)
            assert await settled(lambda: sent) < frames
            assert not sink.reasons
            sink.open()
            await sink.until(lambda: len(sink.all) == 2)
        assert sent == frames
        assert sink.reasons.total() == frames


@numbered
async def test_an_exchange_that_cuts_who_does_not_read_is_asked_for_the_rest(make: type[Venue]) -> None:
    sink = Narrow(2)
    async with make(say(1, 2, 3, 4, 5, then=hang_up), say(9)) as venue:
        venue.history = range(1, 10)
        source = collector(venue)
        async with running(source, sink):
            assert await full(sink) == 2
            assert venue.connections == 1
            sink.open()
            await sink.until(lambda: len(sink.all) == 9)
        assert (source.reconnects, source.backfilled, source.missed) == (1, 3, 0)
    assert ids(sink) == list(range(1, 10))
    assert not sink.gaps


async def test_a_silence_of_ours_is_not_taken_for_the_venues(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SILENCE_S", "REPLY_TIMEOUT_S"):
        monkeypatch.setattr(exchange_socket, name, 0.5)
    monkeypatch.setattr(exchange_socket, "WATCH_INTERVAL_S", 0.05)
    go_on = asyncio.Event()

    async def script(venue: Venue, socket: ServerConnection) -> None:
        await say(1)(venue, socket)
        await go_on.wait()
        await say(2)(venue, socket)

    sink = Narrow(1)
    async with BinanceVenue(script) as venue:
        source = collector(venue)
        async with running(source, sink):
            await full(sink)
            clocks = len(sink.clocks)
            await asyncio.sleep(1.5)
            assert len(sink.clocks) == clocks, "the clock waits for what is still to be read"
            go_on.set()
            sink.open()
            await sink.until(lambda: len(sink.all) == 2)
            assert source.reconnects == 0
            await sink.until(lambda: RECONNECTING in sink.kinds)  # but now it is
        assert "no byte for" in sink.states[-1][1]


def test_a_poller_asks_nothing_that_nobody_has_room_for() -> None:
    class Gated(Reports):
        async def room(self) -> None:
            now_s = asyncio.get_running_loop().time()
            if 25 < now_s < 100:
                await asyncio.sleep(100 - now_s)

    story = Story()
    story.reports = Gated()
    story.service.always[TOKENS_PATH] = Reply(PAIRS)
    story.tell(130)
    assert story.at_s == [0, 100, 120]
    assert [at_s for at_s, _ in story.reports.cycles] == pytest.approx([0, 100, 120], abs=0.1)
    assert story.poller is not None
    assert story.poller.skipped == 2


def test_a_poller_keeps_what_it_found_until_there_is_room() -> None:
    class Gated(Reports):
        asked = 0

        async def room(self) -> None:
            self.asked += 1
            if self.asked == 2:
                await asyncio.sleep(50)

    story = Story()
    story.reports = Gated()
    story.service.always[TOKENS_PATH] = Reply(PAIRS)
    story.tell(70)
    assert story.at_s == [0, 60]
    assert [at_s for at_s, _ in story.reports.cycles] == pytest.approx([50, 60], abs=0.1)


async def test_a_probe_waits() -> None:
    sink = RecordingSink()
    sink.has_room.clear()
    task = asyncio.create_task(Probe(2).run(MeteredSink(sink, None)))
    await sink.until(lambda: sink.waits > 0)
    assert sink.order == ["room"]
    sink.has_room.set()
    await sink.until(lambda: bool(sink.callbacks))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
