"""From a text to a source."""

from pathlib import Path

import pytest

from tokenwire_server.errors import UserError
from tokenwire_server.settings import Settings
from tokenwire_server.sources import SourceSpecError, build_sources, parse_source
from tokenwire_server.sources.binance import DEFAULT_URL, Binance
from tokenwire_server.sources.bybit import bybit
from tokenwire_server.sources.coinbase import COINBASE
from tokenwire_server.sources.exchange import Exchange
from tokenwire_server.sources.kraken import KRAKEN
from tokenwire_server.sources.okx import OKX
from tokenwire_server.sources.probe import Probe
from tokenwire_server.sources.simulation import Scenario
from tokenwire_server.sources.simulator import Simulator
from tokenwire_server.sources.tape import Tape, TapeError

from .conftest import agg_trade, write_tape


def test_every_form(tmp_path: Path) -> None:
    tape = write_tape(tmp_path / "tape", [agg_trade(1)])
    assert isinstance(parse_source("simulator"), Simulator)
    crash = parse_source(" simulator:crash ", seed=1)
    assert isinstance(crash, Simulator)
    assert crash._simulation.scenario is Scenario.CRASH
    assert isinstance(parse_source(f"tape:{tape}"), Tape)
    pair = parse_source("binance:btcusdt,ETHUSDT@ws://127.0.0.1:9443/")
    assert isinstance(pair, Binance)
    assert (pair._url, pair._symbols) == ("ws://127.0.0.1:9443", ("BTCUSDT", "ETHUSDT"))
    for text, tokens in (("probe", 100), ("probe:3", 3)):
        probe = parse_source(text)
        assert isinstance(probe, Probe)
        assert len(probe._addresses) == tokens
    assert parse_source("none") is None


def test_every_exchange_has_its_form() -> None:
    for text, symbols, url, rest_url in (
        (
            "coinbase:btc-usd, ETH-USD",
            ("BTC-USD", "ETH-USD"),
            COINBASE.default_url,
            "https://api.exchange.coinbase.com",
        ),
        ("kraken:btc/usd,AAPLx/USD", ("BTC/USD", "AAPLx/USD"), KRAKEN.default_url, "https://api.kraken.com"),
        ("bybit:BTCUSDT@ws://h:1/v5/public/linear", ("BTCUSDT",), "ws://h:1/v5/public/linear", None),
        ("okx:BTC-USDT@ws://h:1|http://h:2/", ("BTC-USDT",), "ws://h:1", "http://h:2/"),
        ("okx:BTC-USDT@|http://h:2", ("BTC-USDT",), OKX.default_url, "http://h:2"),
        ("binance:BTCUSDT", ("BTCUSDT",), DEFAULT_URL, "https://api.binance.com"),
        ("binance:BTCUSDT@ws://h:1|https://h:2", ("BTCUSDT",), "ws://h:1", "https://h:2"),
    ):
        source = parse_source(text)
        assert isinstance(source, Exchange)
        assert (source.name, source._symbols) == (text.partition(":")[0], symbols)
        assert (source._url, source._rest_url) == (url, rest_url), text


def test_several_exchanges_have_names_of_their_own() -> None:
    settings = Settings(source=("kraken:BTC/USD", "coinbase:BTC-USD", "kraken:ETH/USD@ws://h|http://h"))
    assert [source.name for source in build_sources(settings)] == ["kraken", "coinbase", "kraken#2"]


def test_a_url_without_a_path_gets_the_venues_own() -> None:
    assert KRAKEN.endpoint("ws://h:1/") == "ws://h:1/v2"
    assert KRAKEN.endpoint("ws://h:1/x") == "ws://h:1/x"
    assert COINBASE.endpoint("ws://h:1") == "ws://h:1"
    assert bybit("ws://h").endpoint("ws://h") == "ws://h/v5/public/spot"
    assert OKX.endpoint("wss://h") == "wss://h/ws/v5/public"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a source"),
        ("nonsense", "not a source"),
        ("simulator:merry", "not a scenario; use one of calm, burst"),
        ("tape:", "needs a path"),
        ("binance:", "needs symbols"),
        ("binance:BTC/USDT", "not a Binance symbol"),
        ("binance:BTCUSDT@http://x", "not a WebSocket URL"),
        ("binance:BTCUSDT@ws://x:0", "not a WebSocket URL"),
        ("coinbase:", "coinbase needs symbols: coinbase:BTC-USD,ETH-USD"),
        ("coinbase:BTCUSD", "'BTCUSD' is not a Coinbase symbol; they look like BTC-USD"),
        ("kraken:BTC-USD", "not a Kraken symbol; they look like BTC/USD"),
        ("bybit:BTC/USDT", "not a Bybit symbol"),
        ("bybit:BTCUSD@ws://h/v5/public/inverse", "counted in contracts; use spot or linear"),
        ("okx:BTC-USDT-SWAP", "not a spot OKX symbol; they look like BTC-USDT"),
        ("okx:" + ",".join(f"S{n}-USDT" for n in range(201)), "okx takes at most 200 symbols, not 201"),
        ("kraken:BTC/USD@ws://h|", "'' is not a REST URL"),
        ("kraken:BTC/USD@ws://h|ws://h", "not a REST URL; it looks like http://HOST:PORT"),
        ("kraken:BTC/USD@", "not a WebSocket URL"),
        ("ccxt:", "ccxt needs an exchange and symbols: ccxt:kucoin:BTC/USDT"),
        ("ccxt:kucoin", "ccxt needs symbols: ccxt:EXCHANGE:BTC/USDT,ETH/USDT"),
        ("ccxt:KuCoin:BTC/USDT", "ccxt needs an exchange"),
        ("probe:", "1 to 10000 tokens, not ''"),
        ("probe:0", "1 to 10000 tokens"),
        ("probe:10001", "1 to 10000 tokens"),
        ("probe:many", "1 to 10000 tokens, not 'many'"),
        ("probe:²", "1 to 10000 tokens"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SourceSpecError, match=message) as caught:
        parse_source(text)
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


def test_a_missing_tape_is_the_users_error() -> None:
    with pytest.raises(TapeError, match="check the path"):
        parse_source("tape:/nowhere/at/all")


def test_sources_of_the_settings_have_names_of_their_own(tmp_path: Path) -> None:
    tape = write_tape(tmp_path / "tape", [agg_trade(1)])
    (tmp_path / "more").mkdir()
    tape2 = write_tape(tmp_path / "more" / "tape", [agg_trade(1)])
    settings = Settings(
        source=("simulator", "binance:BTCUSDT", "binance:ETHUSDT", f"tape:{tape}", f"tape:{tape2}"),
        seed=5,
        simulator_scenario="burst",
        simulator_rate=2.0,
    )
    sources = build_sources(settings)
    assert [source.name for source in sources] == ["simulator", "binance", "binance#2", "tape:tape", "tape:tape#2"]
    simulator = sources[0]
    assert isinstance(simulator, Simulator)
    assert simulator._simulation.scenario is Scenario.BURST
    assert simulator.cadence_ms == 2_525
    assert build_sources(Settings(source=("none",))) == []


def test_exchanges_take_trades_for_those_of_the_future_by_the_clock_that_is_given() -> None:
    texts = ("binance:BTCUSDT", "coinbase:BTC-USD", "kraken:BTC/USD", "bybit:BTCUSDT", "okx:BTC-USDT")
    sources = build_sources(Settings(source=texts), lambda: 7)
    assert [source._clock() for source in sources] == [7] * len(texts)  # type: ignore[attr-defined]
