"""What a recording holds, and that a tape of it delivers what its sources delivered."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection

from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.market.values import TokenFacts, TokenValue
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.sources import parse_source
from tokenwire_server.sources.exchange import Exchange
from tokenwire_server.sources.recording import Recording
from tokenwire_server.sources.recording_events import EVENT_MARK
from tokenwire_server.sources.simulation import Simulation
from tokenwire_server.sources.simulator import Simulator
from tokenwire_server.sources.tape import FORMATS, Tape
from tokenwire_server.sources.tape_file import TapeError, read_tape
from tokenwire_server.sources.tape_writer import TapeWriteError, TapeWriter

from .conftest import RecordingSink, agg_trade
from .venues import ALL, Venue

T0_MS = 1_700_000_000_000


class Ticking:
    """A clock that moves on by a millisecond whenever somebody looks."""

    def __init__(self) -> None:
        self.now_us = T0_MS * 1_000

    def __call__(self) -> int:
        self.now_us += 1_000
        return self.now_us


def a_trade(number: int, address: str = "PEPE-address", time_ms: int = T0_MS, price: str = "1.50") -> Trade:
    return Trade(address, str(number), Decimal(price), Decimal("2E+3"), Side.SELL, time_ms + number)


def recording(path: Path, *sources: str, **options: Any) -> tuple[Recording, TapeWriter]:
    writer = TapeWriter(path)
    return Recording(writer, sources or ("feed",), clock_us=Ticking(), **options), writer


def texts(path: Path) -> list[str]:
    return [line.frame for line in read_tape(str(path))]


async def replayed(path: Path) -> RecordingSink:
    sink = RecordingSink()
    await Tape(str(path), speed=0).run(sink)
    assert sink.kinds == [SourceState.LIVE, SourceState.ENDED]
    return sink


async def test_everything_that_a_source_delivers_comes_again_in_its_order(tmp_path: Path) -> None:
    taped, writer = recording(tmp_path / "tape")
    infos = [TokenInfo("PEPE-address", "PEPE", "Pepe", "solana", Decimal("4.2E+14")), TokenInfo("x", "X")]
    fact = TokenFacts(source="jupiter", chain="solana", address="x", heard_ms=T0_MS, price=Decimal("0.10"))
    value = TokenValue("x", Decimal("0.10"), Decimal(0), Decimal("1E+3"), Decimal(2), Decimal(3), T0_MS, (fact,))

    def deliver(sink: Sink) -> None:
        sink.tokens("feed", infos)
        sink.clock("feed", T0_MS)
        sink.trades("feed", [a_trade(1), a_trade(2)])
        sink.clock("feed", T0_MS + 500)
        sink.values("feed", [value])
        sink.gap("feed", "PEPE-address", 3)
        sink.rejected("feed", "bad_price", "what came\nwith a line end")
        sink.clock("feed", T0_MS + 5_000)
        sink.trades("feed", [a_trade(3)])

    live = RecordingSink()
    deliver(live_checked(live))
    deliver(taped)
    taped.flush()
    writer.finish()
    sink = await replayed(tmp_path / "tape")
    assert sink.infos[: len(infos)] == infos
    assert (sink.all, sink.stated, sink.clocks) == (live.all, live.stated, live.clocks)
    assert (sink.gaps, sink.reasons) == (live.gaps, live.reasons)
    quiet = ("offset", "state", "tokens")
    assert [each for each in sink.order if each not in quiet] == [each for each in live.order if each not in quiet]
    assert str(sink.all[0].amount) == "2E+3", "numbers keep their form"


def live_checked(sink: RecordingSink) -> RecordingSink:
    """A sink of a test that takes any detail."""
    sink.rejected = lambda source, reason, detail: RecordingSink.rejected(sink, source, reason, "")  # type: ignore[method-assign]
    return sink


def test_trades_and_clocks_share_lines(tmp_path: Path) -> None:
    taped, writer = recording(tmp_path / "tape")
    for n in range(100):  # a clock with every step, as the simulator tells it
        taped.clock("feed", T0_MS + n * 25)
        taped.trades("feed", [a_trade(n)])
    taped.flush()
    writer.finish()
    assert len(texts(tmp_path / "tape")) == 101


def test_many_trades_are_many_lines(tmp_path: Path) -> None:
    taped, writer = recording(tmp_path / "tape")
    taped.trades("feed", [a_trade(n) for n in range(1_001)])
    long = "x" * 600_000
    taped.trades("feed", [a_trade(1), Trade(long, "1", Decimal(1), Decimal(1), Side.BUY, T0_MS), a_trade(2)])
    taped.clock("feed", T0_MS + 77)
    taped.trades("feed", [Trade(2 * long, "1", Decimal(1), Decimal(1), Side.BUY, T0_MS), a_trade(3)])
    writer.finish()
    lines = [json.loads(text) for text in texts(tmp_path / "tape")[1:]]
    assert sum(len(line["trades"]) for line in lines) == 1_001 + 3 + 1
    assert [line["clock_ms"] for line in lines if "clock_ms" in line] == [T0_MS + 77], "with the first that there is"
    assert taped.unwritable == 1


async def test_frames_are_kept_verbatim_whatever_they_are(tmp_path: Path) -> None:
    taped, writer = recording(tmp_path / "tape", "binance")
    odd: list[str | bytes] = ["", " {} ", "two\nlines", b"\x00\xff", "#", '{"tokenwire":"clock"}', "\ud800", "ü\u2028"]
    source = Exchange(parsed_profile(), ["BTCUSDT"], "ws://127.0.0.1:1", name="binance")
    taped.add_source(source)
    for frame in [agg_trade(1), *odd, agg_trade(2)]:
        taped.frame("binance", frame)
    taped.flush()
    writer.finish()
    kept: list[str | bytes] = []
    for text in texts(tmp_path / "tape")[2:]:
        if not text.startswith(EVENT_MARK):
            kept.append(text)
            continue
        event = json.loads(text)
        assert event["tokenwire"] == "frame"
        kept.append(event.get("text", b"\x00\xff"))
    assert kept[1:-1] == [frame for frame in odd if frame != "\ud800"], "no venue can send half a character"
    assert (kept[0], kept[-1]) == (agg_trade(1), agg_trade(2))
    assert taped.unwritable == 1
    sink = await replayed(tmp_path / "tape")
    assert [trade.trade_id for trade in sink.all] == ["1", "2"]


def parsed_profile() -> Any:
    source = parse_source("binance:BTCUSDT@ws://127.0.0.1:1")
    assert isinstance(source, Exchange)
    return source._profile


def say(*numbers: int) -> Callable[[Venue, ServerConnection], Any]:
    async def script(venue: Venue, socket: ServerConnection) -> None:
        for number in numbers:
            for frame in venue.frame(number):
                await socket.send(frame)
        for frame in venue.spoilt():
            await socket.send(frame)
        await socket.send("<html>")

    return script


class Both:
    """A pipeline and a recording that hear the same."""

    def __init__(self, *sinks: Any) -> None:
        self._sinks = sinks

    def __getattr__(self, name: str) -> Callable[..., None]:
        def tell(*arguments: Any) -> None:
            for sink in self._sinks:
                getattr(sink, name)(*arguments)

        return tell

    async def room(self) -> None:
        for sink in self._sinks:
            await sink.room()


def market_of(pipeline: Pipeline) -> dict[str, Any]:
    """Trades with their numbers, and all bars."""
    found: dict[str, Any] = {}
    for token in pipeline.market:
        bars = pipeline.market.bars.get(token.address)
        assert bars is not None
        assert token.log is not None
        levels = range(len(pipeline.bar_plan.intervals))
        found[token.address] = (
            [list(bars.closed_bars(level, 0, 1 << 53, 10**6)) for level in levels],
            [bars.open_bar(level) for level in levels],
            token.log.after(0, 10**6),
            token.data(),
        )
    return found


def a_pipeline() -> Pipeline:
    return Pipeline(100, lambda: 0, lambda: T0_MS)


@pytest.mark.parametrize("make", ALL, ids=lambda venue: venue.kind)
async def test_a_tape_of_an_exchange_equals_what_was_live(tmp_path: Path, make: type[Venue]) -> None:
    """The venue's frames, bad ones among them, over a real socket; trades up to five minutes apart."""
    taped, writer = recording(tmp_path / "tape.zst", make.kind)
    live, heard = a_pipeline(), RecordingSink()
    venue = make(say(1, 2, 3, 60, 61, 130, 131, 400))
    async with venue:
        source = parse_source(f"{make.kind}:{make.symbol}@{venue.url}")
        assert isinstance(source, Exchange)
        live.add_source(source)
        taped.add_source(source)
        task = asyncio.create_task(source.run(Both(live, taped, heard)))
        expected = len(venue.spoilt()) + 1
        await heard.until(lambda: len(heard.all) == 8 and heard.reasons.total() >= expected)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    taped.flush()
    writer.finish()
    frames = [text for text in texts(tmp_path / "tape.zst") if not text.startswith(EVENT_MARK)]
    assert "<html>" in frames
    assert all(frame in frames for number in (1, 60, 400) for frame in venue.frame(number)), "verbatim"
    again, tape = a_pipeline(), Tape(str(tmp_path / "tape.zst"), speed=0)
    again.add_source(tape)
    await tape.run(again)
    assert again.market.trades == live.market.trades == 8
    assert market_of(again) == market_of(live)
    assert sum(again.rejections.values()) == sum(live.rejections.values())
    assert {name: gaps for gaps, name in zip(again.gaps.values(), "x", strict=False)} == {
        name: gaps for gaps, name in zip(live.gaps.values(), "x", strict=False)
    }


async def test_a_tape_of_the_simulator_equals_what_was_live(tmp_path: Path) -> None:
    """Two minutes in virtual time: trades, their numbers, bars with their revisions, values."""

    class EnoughError(Exception):
        pass

    now_ms = T0_MS

    async def sleep(seconds: float) -> None:
        nonlocal now_ms
        now_ms += round(seconds * 1_000)
        if now_ms > T0_MS + 120_000:
            raise EnoughError

    writer = TapeWriter(tmp_path / "tape.gz")
    taped = Recording(writer, ["simulator"], clock_us=lambda: now_ms * 1_000)
    simulator = Simulator(Simulation(5, tokens=20, scenario="burst"), clock=lambda: now_ms, sleep=sleep)
    live = a_pipeline()
    live.add_source(simulator)
    with pytest.raises(EnoughError):
        await simulator.run(Both(live, taped))
    taped.flush()
    writer.finish()
    again, tape = a_pipeline(), Tape(str(tmp_path / "tape.gz"), speed=0)
    again.add_source(tape)
    await tape.run(again)
    assert again.market.trades == live.market.trades > 5_000
    assert market_of(again) == market_of(live)


async def test_fetched_trades_are_on_the_tape_and_their_hole_is_not(tmp_path: Path) -> None:
    from .venues.binance import BinanceVenue

    taped, writer = recording(tmp_path / "tape", "binance")
    heard = RecordingSink()
    venue = BinanceVenue(say(1, 2, 6, 7))
    venue.history = range(1, 8)
    async with venue:
        source = parse_source(f"binance:BTCUSDT@{venue.url}|{venue.rest_url}")
        assert isinstance(source, Exchange)
        taped.add_source(source)
        task = asyncio.create_task(source.run(Both(taped, heard)))
        await heard.until(lambda: len(heard.all) == 7)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    taped.flush()
    writer.finish()
    sink = await replayed(tmp_path / "tape")
    assert {trade.trade_id for trade in sink.all} == {trade.trade_id for trade in heard.all}
    assert sorted(sink.all, key=lambda trade: trade.time_ms) == heard.all
    assert not sink.gaps


async def test_a_frame_is_played_under_the_clock_that_it_was_read_under(tmp_path: Path) -> None:
    """Else a bar would close with it live, and before it on the tape."""
    taped, writer = recording(tmp_path / "tape", "binance")
    taped.add_source(Exchange(parsed_profile(), ["BTCUSDT"], "ws://127.0.0.1:1", name="binance"))
    for n in range(3):
        taped.frame("binance", agg_trade(n))
        taped.clock("binance", T0_MS + n * 1_000)
        taped.trades("binance", [a_trade(n)])
    taped.flush()
    writer.finish()
    sink = await replayed(tmp_path / "tape")
    assert [each for each in sink.order if each in ("clock", "trades")] == ["clock", "trades"] * 3


async def test_several_sources_share_a_tape(tmp_path: Path) -> None:
    taped, writer = recording(tmp_path / "tape", "binance", "one", "two")
    taped.add_source(Exchange(parsed_profile(), ["BTCUSDT"], "ws://127.0.0.1:1", name="binance"))
    taped.frame("binance", agg_trade(1))
    taped.tokens("one", [TokenInfo("PEPE-address", "PEPE")])
    taped.tokens("two", [TokenInfo("PEPE-address", "PEPE"), TokenInfo("y", "Y")])
    taped.trades("one", [a_trade(1)])
    taped.frame("binance", agg_trade(2))
    taped.trades("two", [a_trade(1, price="7"), a_trade(1, "y")])
    taped.flush()
    writer.finish()
    sink = await replayed(tmp_path / "tape")
    assert [(trade.address, trade.trade_id) for trade in sink.all] == [
        ("binance:BTCUSDT", "1"), ("PEPE-address", "1"), ("binance:BTCUSDT", "2"), ("y", "1"),
    ]  # fmt: skip
    assert sink.all[1].price == Decimal("1.50"), "a token is its first source's"


async def test_a_tape_of_a_tape_is_the_same(tmp_path: Path) -> None:
    taped, writer = recording(tmp_path / "one")
    taped.trades("feed", [a_trade(n) for n in range(300)])
    taped.flush()
    writer.finish()
    source = Tape(str(tmp_path / "one"), speed=0)
    again, second = recording(tmp_path / "two", source.name)
    again.add_source(source)
    await source.run(again)
    again.flush()
    second.finish()
    assert (await replayed(tmp_path / "two")).all == (await replayed(tmp_path / "one")).all


@pytest.mark.parametrize("limit", [1, 5, 6, 7, 20])
def test_a_limit_is_kept_exactly(tmp_path: Path, limit: int) -> None:
    ended: list[int] = []
    taped, writer = recording(tmp_path / "tape", limit=limit, ended=lambda: ended.append(1))
    for n in range(0, 30, 6):
        taped.trades("feed", [a_trade(n + each) for each in range(6)])
    writer.finish()
    lines = [json.loads(text) for text in texts(tmp_path / "tape")[1:]]
    assert [trade["trade_id"] for line in lines for trade in line["trades"]] == [str(n) for n in range(limit)]
    assert taped.is_full
    assert ended


def test_a_disk_that_fails_ends_the_recording_and_raises_nothing(tmp_path: Path) -> None:
    ended: list[int] = []
    taped, writer = recording(tmp_path / "tape", ended=lambda: ended.append(1))
    writer.abandon()  # every write fails from now on
    for _ in range(3):
        taped.trades("feed", [a_trade(n) for n in range(2_000)])
        taped.flush()
    assert isinstance(taped.failure, TapeWriteError)
    assert ended == [1]


async def test_a_tape_goes_on_behind_the_line_where_it_was(tmp_path: Path) -> None:
    taped, writer = recording(tmp_path / "tape", "binance", "feed")
    taped.add_source(Exchange(parsed_profile(), ["BTCUSDT"], "ws://127.0.0.1:1", name="binance"))
    for n in range(10):
        taped.frame("binance", agg_trade(n))
        taped.clock("feed", T0_MS + n * 2_000)
        taped.trades("feed", [a_trade(n)])
    taped.flush()
    writer.finish()
    whole = await replayed(tmp_path / "tape")
    for position in whole.offsets[:-1]:
        tape, rest = Tape(str(tmp_path / "tape"), speed=0), RecordingSink()
        tape.resume([position])
        await tape.run(rest)
        assert rest.all == whole.all[len(whole.all) - len(rest.all) :]
        assert len(rest.offsets) == len(whole.offsets) - whole.offsets.index(position) - 1
        assert rest.clocks == sorted(rest.clocks)
        assert rest.clocks[-1] == T0_MS + 9 * 2_000
        assert not rest.reasons


def event(**fields: Any) -> str:
    return json.dumps({"tokenwire": fields.pop("kind"), "source": "feed", **fields}, separators=(",", ":"))


BEGIN = '{"tokenwire":"recording","version":1,"sources":["feed"]}'
BAD: list[tuple[str, str]] = [
    ('{"tokenwire":', "bad_event"),
    ('{"tokenwire":"unheard-of"}', "bad_event"),
    (event(kind="trades"), "bad_event"),
    (event(kind="trades", trades=[{"address": 1}]), "bad_event"),
    (event(kind="clock", time_ms=10**18), "clock_out_of_bounds"),
    (event(kind="clock", time_ms=-1), "clock_out_of_bounds"),
    (event(kind="gap", token="x", missed=-5), "bad_event"),
    (event(kind="frames", format="unheard-of"), "unknown_format"),
    (event(kind="frame", text="{}"), "frame_without_source"),
    (agg_trade(1), "frame_without_source"),
    (event(kind="rejected", reason='x"} 1\nevil 2', detail=""), "recorded"),
]


@pytest.mark.parametrize(("text", "reason"), BAD)
async def test_a_bad_line_is_counted_and_passed(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "tape"
    good = event(kind="clock", time_ms=T0_MS)
    path.write_text("".join(f"{T0_MS // 1_000 + n}.5: {line}\n" for n, line in enumerate([BEGIN, text, good])))
    sink = await replayed(path)
    assert sink.reasons == {reason: 1}
    assert sink.clocks[-1] == T0_MS


async def test_bad_numbers_reach_validation_and_nothing_else(tmp_path: Path) -> None:
    rows = [
        {"address": "a", "trade_id": str(n), "price": price, "amount": "1", "side": "Buy", "time_ms": T0_MS}
        for n, price in enumerate(["NaN", "-1", "0", "1e40", "Infinity", "1e999999", "1.5"])
    ]
    lines = [BEGIN, event(kind="tokens", tokens=[{"address": "a", "symbol": "A"}])]
    lines += [event(kind="trades", trades=[row]) for row in rows]
    path = tmp_path / "tape"
    path.write_text("".join(f"{T0_MS // 1_000}.0: {line}\n" for line in lines))
    pipeline, tape = a_pipeline(), Tape(str(path), speed=0)
    pipeline.add_source(tape)
    await tape.run(pipeline)
    assert pipeline.market.trades == 1
    assert sum(pipeline.rejections.values()) == 6


def test_a_tape_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tape"
    path.write_text(f"1.0: {BEGIN.replace(':1,', ':2,')}\n")
    with pytest.raises(TapeError, match="newer version"):
        Tape(str(path))


async def test_speed_is_a_factor_on_the_times_of_arrival(tmp_path: Path) -> None:
    """In virtual time: ten seconds of tape."""
    taped, writer = recording(tmp_path / "tape")
    clock = Ticking()
    taped._clock_us = clock
    for n in range(11):
        clock.now_us = T0_MS * 1_000 + n * 1_000_000
        taped.trades("feed", [a_trade(n)])
    writer.finish()
    for speed, expected_s in ((1.0, 10.0), (10.0, 1.0), (0.0, 0.0)):
        slept: list[float] = []

        async def sleep(seconds: float, slept: list[float] = slept) -> None:
            slept.append(seconds)

        sink = RecordingSink()
        path = str(tmp_path / "tape")
        await Tape(path, speed=speed, sleep=sleep, monotonic=partial(sum, slept)).run(sink)
        assert sum(slept) == pytest.approx(expected_s, abs=0.01)
        assert len(sink.all) == 11


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_decimals = st.decimals(allow_nan=False, allow_infinity=False, places=9)
_trades = st.builds(Trade, _texts, _texts, _decimals, _decimals, st.sampled_from(Side), st.integers(0, 2**53))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_trades, min_size=1, max_size=5), max_size=8))
def test_any_trades_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Trade]]
) -> None:
    path = tmp_path_factory.mktemp("tapes") / "tape.zst"
    taped, writer = recording(path)
    for batch in batches:
        taped.trades("feed", batch)
    writer.finish()
    sink = RecordingSink()
    asyncio.run(Tape(str(path), speed=0).run(sink))
    assert sink.all == [trade for batch in batches for trade in batch]


def test_the_formats_are_the_kinds_of_exchanges() -> None:
    for venue in ALL:
        source = parse_source(f"{venue.kind}:{venue.symbol}@ws://127.0.0.1:1")
        assert isinstance(source, Exchange)
        assert source.frame_format in FORMATS
