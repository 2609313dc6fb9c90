"""The simulator: the same seed makes the same market, and it looks like one."""

import asyncio
from collections import Counter, defaultdict
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.market.trades import Trade
from tokenwire_server.ports import SourceState
from tokenwire_server.sources.base58 import base58
from tokenwire_server.sources.simulation import BAD_EVERY, DEFAULT_RATE, Scenario, Simulation
from tokenwire_server.sources.simulator import Simulator
from tokenwire_server.validation.trades import validate_token, validate_trade

from .conftest import RecordingSink

T0 = 1_700_000_000_000
MAJORS = ["PEPE", "DOGE", "SHIB", "FLOKI"]


def play(simulation: Simulation, for_ms: int, step_ms: int = 250) -> list[Trade]:
    return [trade for now_ms in range(T0, T0 + for_ms + 1, step_ms) for trade in simulation.step(now_ms)]


def test_a_seed_determines_everything() -> None:
    one, two, other = Simulation(7), Simulation(7), Simulation(8)
    assert one.tokens() == two.tokens()
    assert one.tokens() != other.tokens()
    assert play(one, 5_000) == play(two, 5_000) != play(other, 5_000)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**64), st.lists(st.integers(1, 1_000), min_size=1, max_size=20))
def test_how_finely_time_is_stepped_makes_no_difference(seed: int, steps: list[int]) -> None:
    coarse, fine = Simulation(seed, tokens=10), Simulation(seed, tokens=10)
    now_ms, made = T0, coarse.step(T0)
    for step_ms in steps:
        now_ms += step_ms
        made += coarse.step(now_ms)
    assert made == [t for ms in range(T0, now_ms + 1) for t in fine.step(ms)]


def test_the_four_keep_their_addresses_whatever_the_seed() -> None:
    for seed in (1, 2):
        four = Simulation(seed, tokens=4).tokens()
        assert [info.symbol for info in four] == MAJORS
        assert [info.address for info in four] == [
            "3sefeHvNh7KShSG34ivcA1Afyby8cCDaKrMvAiYhAF3i",
            "CACBoV6bJG6PSiqv9MrRtMkxreFCst8fSVpyWDXb1aVG",
            "Emx8UbhtE8qERiRwri2354R98RB5p5UmKAZZxzfRhfyL",
            "GppbQHCgJMTsFziKK4aGLsezoYhJWYoGqUQgaAKw71ER",
        ]


def test_tokens_are_usable_and_unique() -> None:
    infos = Simulation(3, tokens=2_000).tokens()
    assert len({info.address for info in infos}) == len({info.symbol.casefold() for info in infos}) == 2_000
    assert all(validate_token(info) is None for info in infos)
    assert all(32 <= len(info.address) <= 44 for info in infos)


def test_paces_and_magnitudes() -> None:
    simulation = Simulation(5)
    symbols = {info.address: info.symbol for info in simulation.tokens()}
    trades = play(simulation, 60_000)
    assert 100 <= len(trades) / 60 <= 250
    assert all(validate_trade(trade, T0 + 60_000) is None for trade in trades)
    assert [trade.time_ms for trade in trades] == sorted(trade.time_ms for trade in trades)
    prices: dict[str, list[Decimal]] = defaultdict(list)
    newest: dict[str, Trade] = {}
    for trade in trades:
        symbol = symbols[trade.address]
        prices[symbol].append(trade.price)
        assert len(trade.price.as_tuple().digits) <= 6
        if (before := newest.get(symbol)) is not None:
            assert trade.time_ms - before.time_ms <= (100 if symbol in MAJORS else 5_000)
            assert int(trade.trade_id) == int(before.trade_id) + 1
        newest[symbol] = trade
    assert len(newest) == 300
    assert len(set(prices["DOGE"])) > 100
    for symbol, low, high in (("DOGE", "0.1", "0.3"), ("PEPE", "0.000005", "0.00003"), ("FLOKI", "0.00005", "0.0002")):
        assert all(Decimal(low) < price < Decimal(high) for price in prices[symbol])
    assert all(newest[s].time_ms > T0 + 55_000 - 100 for s in newest)


@pytest.mark.parametrize("factor", [0.5, 10])
def test_the_rate_scales_every_pace(factor: float) -> None:
    simulation = Simulation(5, rate=DEFAULT_RATE * factor)
    assert simulation.cadence_ms == 5_000 / factor
    assert 0.6 * factor * DEFAULT_RATE < (len(play(simulation, 20_000)) - 300) / 20 < 1.5 * factor * DEFAULT_RATE


def test_burst_trades_faster_for_a_while() -> None:
    per_second = Counter((trade.time_ms - T0) // 1_000 for trade in play(Simulation(1, scenario="burst"), 20_000))
    assert per_second[11] > 5 * per_second[5]


def test_crash_takes_most_of_every_price() -> None:
    trades = play(Simulation(1, scenario=Scenario.CRASH), 60_000)
    first = {trade.address: trade for trade in reversed(trades)}
    last = {trade.address: trade for trade in trades}
    assert all(last[a].price < first[a].price / 2 for a in last if int(last[a].trade_id) > 200)


def test_bad_data_is_mixed_in_and_rejected_for_every_reason() -> None:
    trades = play(Simulation(1, scenario="bad-data"), 10_000)
    verdicts = [validate_trade(trade, T0 + 10_000) for trade in trades]
    reasons = Counter(verdict.reason for verdict in verdicts if verdict is not None)
    assert set(reasons) == {"price_not_positive", "price_out_of_bounds", "amount_out_of_bounds", "time_in_future"}
    good = verdicts.count(None)
    assert sum(reasons.values()) == good // BAD_EVERY
    assert all(t.trade_id.startswith("bad") == (v is not None) for t, v in zip(trades, verdicts, strict=True))


def test_a_long_pause_is_not_made_up_for() -> None:
    simulation = Simulation(1)
    simulation.step(T0)
    trades = simulation.step(T0 + 3_600_000)
    assert len(trades) < 3_000
    assert min(trade.time_ms for trade in trades) >= T0 + 3_600_000 - 5_000


@pytest.mark.parametrize("arguments", [{"tokens": 3}, {"tokens": 10**6}, {"rate": 0}, {"scenario": "merry"}])
def test_arguments_out_of_range(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|not a valid"):
        Simulation(1, **arguments)  # type: ignore[arg-type]


def test_base58() -> None:
    assert base58(b"") == ""
    assert base58(bytes(32)) == "1" * 32
    assert base58(b"\0\0hello world") == "11StV1DL6CwTryKyV"


class Time:
    """A clock that only sleeping moves; it ends the run after a while."""

    def __init__(self, until_ms: int) -> None:
        self.now_ms, self.until_ms = T0, until_ms

    def clock(self) -> int:
        return self.now_ms

    async def sleep(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1_000)
        if self.now_ms > T0 + self.until_ms:
            raise asyncio.CancelledError


async def test_the_source_announces_then_delivers(sink: RecordingSink) -> None:
    time = Time(1_000)
    source = Simulator(Simulation(1), clock=time.clock, sleep=time.sleep)
    with pytest.raises(asyncio.CancelledError):
        await source.run(sink)
    assert sink.order[:4] == ["tokens", "state", "clock", "trades"]
    assert sink.kinds == [SourceState.LIVE]
    assert len(sink.infos) == 300
    assert {trade.address for trade in sink.all} == {info.address for info in sink.infos}
    assert sink.clocks == list(range(T0, T0 + 1_001, 25))
    assert source.name == "simulator"
    assert source.cadence_ms >= 5_000


async def test_stalled_falls_silent_yet_stays_live(sink: RecordingSink) -> None:
    time = Time(3_000)
    simulation = Simulation(1, scenario="stalled", stall_after_ms=1_000)
    with pytest.raises(asyncio.CancelledError):
        await Simulator(simulation, clock=time.clock, sleep=time.sleep).run(sink)
    assert max(sink.clocks) == T0 + 975
    assert max(trade.time_ms for trade in sink.all) < T0 + 1_000
    assert sink.kinds == [SourceState.LIVE]


async def test_a_clock_set_back_reorders_nothing(sink: RecordingSink) -> None:
    times = iter([T0, T0 + 500, T0 - 10_000, T0 + 600])

    async def sleep(seconds: float) -> None:
        pass

    with pytest.raises(RuntimeError, match="StopIteration"):
        await Simulator(Simulation(1), clock=times.__next__, sleep=sleep).run(sink)
    assert sink.clocks == sorted(sink.clocks)
    assert [t.time_ms for t in sink.all] == sorted(t.time_ms for t in sink.all)
