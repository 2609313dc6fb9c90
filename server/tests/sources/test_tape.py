"""Tapes: the file format, pacing, and the market's values against an independent reading of real frames."""

import asyncio
import gzip
import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal, localcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tokenwire_server.market.market import Market
from tokenwire_server.market.trades import Trade
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import tape as tape_module
from tokenwire_server.sources.tape import Tape, UnsupportedTape, tape_format
from tokenwire_server.sources.tape_file import MAX_LINE_BYTES, TapeError, read_tape
from tokenwire_server.validation.trades import validate_trade

from .conftest import RecordingSink, agg_trade, write_tape
from .venues.bybit import TRADE
from .venues.kraken import UPDATE


class MarketSink(RecordingSink):
    """Feeds a market as the server does, and notes the price after every trade."""

    def __init__(self) -> None:
        super().__init__()
        self.market = Market(lambda token: None, 0)
        self.price_after: dict[tuple[str, str], Decimal | None] = {}

    def tokens(self, source: str, tokens: Sequence[Any]) -> None:
        super().tokens(source, tokens)
        self.market.add_tokens(source, tokens)

    def trades(self, source: str, trades: Sequence[Trade]) -> None:
        super().trades(source, trades)
        for trade in trades:
            assert validate_trade(trade, self.market.event_now_ms(source)) is None
            self.market.apply(source, trade)
            token = self.market.get(trade.address)
            assert token is not None
            self.price_after[trade.address, trade.trade_id] = token.price

    def clock(self, source: str, event_time_ms: int) -> None:
        super().clock(source, event_time_ms)
        self.market.advance(source, event_time_ms)


def events_of(path: Path, kind: str) -> list[dict[str, Any]]:
    """The test's own reading of a tape: shares no code with the source."""
    found = []
    for line in path.read_text().splitlines():
        event = json.loads(line[line.index(": ") + 2 :]).get("data", {})
        if event.get("e") == kind:
            found.append(event)
    return found


@pytest.mark.tapes
@pytest.mark.parametrize("name", ["binance-futures-2021-07-22.txt", "binance-spot-2021-10-12.txt"])
async def test_values_equal_an_independent_fold(tapes: Path, name: str) -> None:
    path = tapes / name
    sink = MarketSink()
    source = Tape(str(path), speed=0)
    await source.run(sink)
    assert sink.kinds == [SourceState.LIVE, SourceState.ENDED]
    assert not sink.reasons
    assert source.gaps == 0

    last_ms = int(Decimal(path.read_text().splitlines()[-1].split(":")[0]) * 1000)
    by_symbol: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events_of(path, "aggTrade"):
        by_symbol[event["s"]].append(event)
    assert {token.symbol for token in sink.market} == set(by_symbol)
    for symbol, events in by_symbol.items():
        token = sink.market.get(f"binance:{symbol}")
        assert token is not None
        ours = [t for t in sink.all if t.address == token.address]
        assert [t.trade_id for t in ours] == [str(e["a"]) for e in events]
        assert [t.side for t in ours] == ["Sell" if e["m"] else "Buy" for e in events]
        newest = max(events, key=lambda e: (e["T"], e["a"]))
        data = token.data()
        assert Decimal(data.price) == Decimal(newest["p"])
        assert token.source_time_ms == newest["T"]
        assert data.market_cap == "0"
        now_ms = max(last_ms, newest["T"])
        for shown, width_ms, buckets in (
            (data.volume.h24, 60_000, 1_440),
            (data.volume.h1, 10_000, 360),
            (data.volume.m5, 1_000, 300),
        ):
            held = [e for e in events if now_ms // width_ms - buckets < e["T"] // width_ms]
            with localcontext(prec=100):
                assert Decimal(shown) == sum(Decimal(e["p"]) * Decimal(e["q"]) for e in held)


@pytest.mark.tapes
async def test_prices_and_turnover_equal_the_exchanges_own_candles(tapes: Path) -> None:
    """The exchange published the forming minute beside its trades: both must say the same."""
    path = tapes / "binance-futures-2021-07-22.txt"
    sink = MarketSink()
    await Tape(str(path), speed=0).run(sink)
    ours = {(trade.address, trade.trade_id): trade for trade in sink.all}
    events = events_of(path, "aggTrade")
    compared = 0
    for candle in (e["k"] for e in events_of(path, "kline")):
        if candle["t"] != 1_626_992_760_000:
            continue
        symbol = candle["s"]
        closing = [e for e in events if e["s"] == symbol and e["l"] == candle["L"]]
        if not closing:
            continue
        address = f"binance:{symbol}"
        assert sink.price_after[address, str(closing[0]["a"])] == Decimal(candle["c"])
        inside = [e for e in events if e["s"] == symbol and candle["f"] <= e["f"] and e["l"] <= candle["L"]]
        # Complete only when its trades leave no hole between the candle's first and last.
        assert inside[0]["f"] == candle["f"]
        assert all(a["l"] + 1 == b["f"] for a, b in itertools.pairwise(inside))
        trades = [ours[address, str(e["a"])] for e in inside]
        with localcontext(prec=100):
            assert sum(t.price * t.amount for t in trades) == Decimal(candle["q"])
            assert sum(t.amount for t in trades) == Decimal(candle["v"])
            assert sum(t.price * t.amount for t in trades if t.side == "Buy") == Decimal(candle["Q"])
        assert trades[0].price == Decimal(candle["o"])
        assert max(t.price for t in trades) == Decimal(candle["h"])
        assert min(t.price for t in trades) == Decimal(candle["l"])
        compared += 1
    assert compared == 15


@pytest.mark.tapes
async def test_a_coinbase_tape_in_the_takers_view(tapes: Path, sink: RecordingSink) -> None:
    path = tapes / "coinbase-exchange-2021-04-17.txt"
    events = [json.loads(line[line.index(": ") + 2 :]) for line in path.read_text().splitlines()]
    matches = [event for event in events if event["type"] in ("match", "last_match")]
    source = Tape(str(path), speed=0)
    await source.run(sink)
    assert len(matches) == 107
    assert [(t.address, t.trade_id, str(t.price), str(t.amount)) for t in sink.all] == [
        (f"coinbase:{m['product_id']}", str(m["trade_id"]), m["price"], m["size"]) for m in matches
    ]
    assert [t.side for t in sink.all] == ["Buy" if m["side"] == "sell" else "Sell" for m in matches]
    assert (source.gaps, source.ignored) == (0, 3)
    assert not sink.reasons


@pytest.mark.tapes
async def test_an_okx_tape(tapes: Path, sink: RecordingSink) -> None:
    path = tapes / "okx-2022-05-13.txt"
    events = [json.loads(line[line.index(": ") + 2 :]) for line in path.read_text().splitlines()]
    rows = [row for event in events if "data" in event for row in event["data"]]
    source = Tape(str(path), speed=0)
    await source.run(sink)
    assert len(rows) == 74
    assert [(t.address, t.trade_id, str(t.price), str(t.time_ms)) for t in sink.all] == [
        (f"okx:{row['instId']}", row["tradeId"], row["px"], row["ts"]) for row in rows
    ]
    assert [t.side.lower() for t in sink.all] == [row["side"] for row in rows]
    assert (source.gaps, source.ignored) == (0, 18)


async def test_documented_frames_of_the_others_make_a_tape(tmp_path: Path, sink: RecordingSink) -> None:
    for number, (frame, address) in enumerate(((UPDATE, "kraken:MATIC/USD"), (TRADE, "bybit:BTCUSDT"))):
        await Tape(write_tape(tmp_path / str(number), [frame]), speed=0).run(sink)
        assert sink.all[-1].address == sink.infos[-1].address == address


def test_frames_of_nobody_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTape, match="unknown format; supported are binance, coinbase, kraken, bybit, okx"):
        Tape(write_tape(tmp_path / "tape", ['{"hello":1}']))


@pytest.mark.parametrize(
    ("frame", "form"),
    [
        (agg_trade(1), "binance"),
        ('{"e":"trade","E":1}', "binance"),
        ('{"type":"match","product_id":"X"}', "coinbase"),
        ('{"type":"subscriptions","channels":[]}', "coinbase"),
        ('{"arg":{"channel":"trades"},"data":[]}', "okx"),
        ('{"channel":"trade","data":[]}', "kraken"),
        ('{"topic":"publicTrade.X","data":[]}', "bybit"),
        ("[]", "unknown"),
        ("nonsense", "unknown"),
    ],
)
def test_formats_are_told_apart(frame: str, form: str) -> None:
    assert tape_format(frame) == form


async def test_gzip_is_recognised_by_content(tmp_path: Path, sink: RecordingSink) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(f"1626992741.0: {agg_trade(1)}\n1626992742.0: {agg_trade(2)}\n".encode()))
    await Tape(str(packed), speed=0).run(sink)
    assert [trade.trade_id for trade in sink.all] == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file.*check the path"),
        (b"", "empty"),
        (b"\n\n# a comment\n", "not a captured tape"),
        (b"garbage\n" * 2_000, "not a captured tape; lines look like"),
        (bytes(range(256)) * 100, "not a captured tape"),
        (b"\x1f\x8bnot gzip", "damaged gzip data"),
        (gzip.compress(b"1.0: {}\n" * 1000, mtime=0)[:40], "damaged gzip data"),
        (b"1626992741.0: hello\n", "unknown format"),
    ],
)
def test_unusable_files_say_what_to_do(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "tape"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TapeError, match=message) as caught:
        Tape(str(path))
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_tape(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="directory"):
        Tape(str(tmp_path))


def test_lines_are_bounded_and_times_exact(tmp_path: Path) -> None:
    path = tmp_path / "tape"
    path.write_bytes(
        b"1626992742.2895691: {}\n"
        + b"1.0: "
        + b"x" * (3 * MAX_LINE_BYTES)
        + b"\nno time: {}\n1626992743: []\n1626992744.5: \xff\n1626992745.07: {}"
    )
    bad: list[tuple[int, str]] = []
    lines = list(read_tape(str(path), lambda number, reason: bad.append((number, reason))))
    assert [(line.number, line.time_ms, line.frame) for line in lines] == [
        (1, 1_626_992_742_289, "{}"),
        (4, 1_626_992_743_000, "[]"),
        (6, 1_626_992_745_070, "{}"),
    ]
    assert bad == [(2, "line_too_long"), (3, "line_without_time"), (5, "line_not_utf8")]


async def test_damage_and_holes_are_counted_and_passed(tmp_path: Path, sink: RecordingSink) -> None:
    frames = [agg_trade(1), "{broken", agg_trade(4), '{"e":"kline","E":1}\nnot a line']
    source = Tape(write_tape(tmp_path / "tape", frames), speed=0)
    await source.run(sink)
    assert sink.reasons == {"not_json": 1, "line_without_time": 1}
    assert (source.gaps, source.missed, source.ignored) == (1, 2, 1)
    assert sink.kinds[-1] is SourceState.ENDED


async def test_a_tape_damaged_later_fails(tmp_path: Path, sink: RecordingSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape_module, "SCAN_LINES", 3)
    plain = "".join(f"{1_626_992_741 + n}.0: {agg_trade(n, price=str(n * n + 1))}\n" for n in range(3_000))
    packed = tmp_path / "tape.gz"
    packed.write_bytes(gzip.compress(plain.encode())[:-2_000])
    await Tape(str(packed), speed=0).run(sink)
    assert sink.kinds == [SourceState.LIVE, SourceState.FAILED]
    assert "damaged gzip" in sink.states[-1][1]
    assert sink.all


async def test_one_kind_of_trade_counts_per_symbol(tmp_path: Path, sink: RecordingSink) -> None:
    single = agg_trade(9).replace("aggTrade", "trade").replace('"a":', '"t":')
    source = Tape(write_tape(tmp_path / "tape", [agg_trade(1), single, agg_trade(2)]), speed=0)
    await source.run(sink)
    assert [trade.trade_id for trade in sink.all] == ["1", "2"]
    assert source.ignored == 1


async def test_pace_follows_the_receive_times(tmp_path: Path, sink: RecordingSink) -> None:
    now_s = 50.0
    slept: list[float] = []
    told: list[tuple[float, int]] = []

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        slept.append(seconds)
        now_s += seconds
        await asyncio.sleep(0)
        told.append((now_s, len(sink.all)))

    path = write_tape(tmp_path / "tape", [agg_trade(1), agg_trade(2), agg_trade(3)], step_ms=10_000)
    source = Tape(path, speed=2.0, sleep=sleep, monotonic=lambda: now_s)
    await source.run(sink)
    assert sum(slept) == pytest.approx(10.0)
    assert max(slept) <= 1.0
    assert len(sink.all) == 3
    assert told[3][1] == 1  # 4 s in, at double speed: 8 s of tape
    # The tape's clock ticks on between the frames, never beyond the next one, never back.
    assert sink.clocks == sorted(sink.clocks)
    assert sink.clocks[0] == 1_626_992_741_000
    assert sink.clocks[-1] == 1_626_992_761_000
    assert max(b - a for a, b in pairwise(sink.clocks)) <= 2_001


async def test_sleeping_too_long_does_not_carry_the_clock_past_a_frame(tmp_path: Path, sink: RecordingSink) -> None:
    now_s = 0.0

    async def oversleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds + 0.4

    path = write_tape(tmp_path / "tape", [agg_trade(1), agg_trade(2), agg_trade(3)], step_ms=5_000)
    await Tape(path, sleep=oversleep, monotonic=lambda: now_s).run(sink)
    assert {1_626_992_741_000, 1_626_992_746_000, 1_626_992_751_000} <= set(sink.clocks)
    assert sink.clocks == sorted(sink.clocks)


async def test_tokens_are_announced_before_anything(tmp_path: Path, sink: RecordingSink) -> None:
    source = Tape(write_tape(tmp_path / "tape", [agg_trade(1), agg_trade(1, "ETHUSDT")]), speed=0)
    await source.run(sink)
    assert sink.order[:2] == ["tokens", "state"]
    assert {info.symbol for info in sink.infos[:2]} == {"BTCUSDT", "ETHUSDT"}
    assert source.name.startswith("tape:")
    assert source.cadence_ms == 5_000


@pytest.mark.parametrize("speed", [-1, float("nan"), float("inf")])
def test_speeds_out_of_range(tmp_path: Path, speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        Tape(write_tape(tmp_path / "tape", [agg_trade(1)]), speed=speed)
