"""From a text to a source."""

from pathlib import Path

import pytest

from tokenwire_server.errors import UserError
from tokenwire_server.settings import Settings
from tokenwire_server.sources import SourceSpecError, build_sources, parse_source
from tokenwire_server.sources.binance import Binance
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
