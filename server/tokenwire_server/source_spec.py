"""The text form of a source, as flags and settings give it: ``kind[:argument]``.

=============================  =====================================================================
``simulator[:SCENARIO]``       the embedded market simulator; without one, the scenario of the settings
``tape:PATH``                  a captured tape, replayed in process
``binance:SYM,SYM[@URL]``      Binance-format streams of these symbols, from URL or the public endpoint
``probe[:TOKENS]``             a measuring instrument: prices that tell when each tick was planned
``none``                       no source at all
=============================  =====================================================================
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

__all__ = ["SimulatorScenario", "SourceKind", "SourceSpec", "check_url", "parse_source", "parse_sources"]

SimulatorScenario = Literal["calm", "burst", "crash", "stalled", "bad-data"]
SourceKind = Literal["simulator", "tape", "binance", "probe", "none"]

MAX_SYMBOLS: Final = 200  # streams that one Binance connection is allowed to combine
_SYMBOL: Final = re.compile(r"[A-Za-z0-9_]{2,32}")
_SCENARIOS: Final[tuple[SimulatorScenario, ...]] = get_args(SimulatorScenario)
_FORMS: Final = "simulator, tape:PATH, binance:SYM,SYM[@URL], probe[:TOKENS] or none"
DEFAULT_PROBES: Final = 100
MAX_PROBES: Final = 10_000


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One source as asked for. ``scenario`` belongs to the simulator, ``path`` to a tape, ``tokens``
    (how many) to the probe, the rest to binance."""

    kind: SourceKind
    text: str
    scenario: SimulatorScenario | None = None
    path: str = ""
    symbols: tuple[str, ...] = ()
    url: str | None = None
    tokens: int = 0


def parse_source(text: str) -> SourceSpec:
    """Read one source.

    Raises:
        ValueError: with a one-line message that says what is wrong and what is possible.
    """
    kind, colon, argument = text.strip().partition(":")
    match kind:
        case "none" if not colon:
            return SourceSpec("none", kind)
        case "simulator":
            return SourceSpec("simulator", text.strip(), scenario=_scenario(argument) if colon else None)
        case "tape":
            if not argument:
                raise ValueError("a tape needs a path: tape:PATH")
            return SourceSpec("tape", text.strip(), path=argument)
        case "binance":
            return _binance(text.strip(), argument)
        case "probe":
            return SourceSpec("probe", text.strip(), tokens=_probes(argument) if colon else DEFAULT_PROBES)
    raise ValueError(f"{text.strip()!r} is not a source; use {_FORMS}")


def _scenario(name: str) -> SimulatorScenario:
    for scenario in _SCENARIOS:
        if name.strip().lower() == scenario:
            return scenario
    raise ValueError(f"{name.strip()!r} is not a scenario; use {', '.join(_SCENARIOS)}")


def _binance(text: str, argument: str) -> SourceSpec:
    listed, at, url = argument.partition("@")
    symbols = tuple(dict.fromkeys(symbol.strip().upper() for symbol in listed.split(",") if symbol.strip()))
    if not symbols:
        raise ValueError("binance needs symbols: binance:BTCUSDT,ETHUSDT")
    if len(symbols) > MAX_SYMBOLS:
        raise ValueError(f"binance takes at most {MAX_SYMBOLS} symbols, not {len(symbols)}")
    for symbol in symbols:
        if not _SYMBOL.fullmatch(symbol):
            raise ValueError(f"{symbol!r} is not a Binance symbol; they look like BTCUSDT")
    if at:
        check_url(url)
    return SourceSpec("binance", text, symbols=symbols, url=url or None)


def _probes(number: str) -> int:
    if number.isascii() and number.isdigit() and len(number) < 9 and 1 <= int(number) <= MAX_PROBES:
        return int(number)
    raise ValueError(f"the probe has 1 to {MAX_PROBES} tokens, not {number!r}; probe:100, say")


def check_url(url: str) -> None:
    """Raises ValueError, in one line, unless ``url`` is a ws or wss URL with a host."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        usable = False
    if not usable:
        raise ValueError(f"{url!r} is not a WebSocket URL; it looks like ws://HOST:PORT or wss://HOST")


def parse_sources(texts: tuple[str, ...]) -> tuple[SourceSpec, ...]:
    """Read all sources of one server; ``none`` stands alone and is returned as an empty tuple.

    Raises:
        ValueError: as :func:`parse_source`, or for a repeated source, or ``none`` beside another.
    """
    specs = tuple(parse_source(text) for text in texts)
    if any(spec.kind == "none" for spec in specs):
        if len(specs) > 1:
            raise ValueError("none stands alone: remove it, or the other sources")
        return ()
    if len({spec.text for spec in specs}) != len(specs):
        raise ValueError("the same source is named twice")
    return specs
