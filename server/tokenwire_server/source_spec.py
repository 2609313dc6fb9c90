"""The text form of a source, as flags and settings give it: ``kind[:argument]``.

=============================  =====================================================================
``simulator[:SCENARIO]``       the embedded market simulator; without one, the scenario of the settings
``tape:PATH``                  a captured tape, replayed in process
``binance:SYM,SYM[@URL]``      Binance-format streams of these symbols, from URL or the public endpoint
``coinbase:SYM,SYM[@URL]``     Coinbase Exchange matches; so too ``kraken:``, ``bybit:`` and ``okx:``
``ccxt:EXCHANGE:SYM,SYM``      trades of any exchange that ccxt can watch (extra ``ccxt``)
``dexscreener:ADDR,ADDR``      tokens polled from DexScreener, or ``dexscreener:search=QUERY``; both take ``@URL``
``jupiter:MINT,MINT[@URL]``    tokens polled from Jupiter
``probe[:TOKENS]``             a measuring instrument: prices that tell when each tick was planned
``none``                       no source at all
=============================  =====================================================================

The URL of an exchange is that of its stream; ``URL|RESTURL`` names beside it where missing trades are fetched. At the
public endpoint that is the public REST host, at any other URL nothing is fetched unless it is named.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from tokenwire_server.poller_spec import polled_tokens, split_url

__all__ = [
    "EXCHANGES",
    "MAX_TAPE_SPEED",
    "ExchangeForm",
    "SimulatorScenario",
    "SourceKind",
    "SourceSpec",
    "check_rest_url",
    "check_url",
    "clean_symbols",
    "parse_source",
    "parse_sources",
    "parse_tape_speed",
]

SimulatorScenario = Literal["calm", "burst", "crash", "stalled", "bad-data"]
SourceKind = Literal[
    "simulator",
    "tape",
    "binance",
    "coinbase",
    "kraken",
    "bybit",
    "okx",
    "ccxt",
    "dexscreener",
    "jupiter",
    "probe",
    "none",
]

MAX_SYMBOLS: Final = 200  # of one source
_SCENARIOS: Final[tuple[SimulatorScenario, ...]] = get_args(SimulatorScenario)
_FORMS: Final = (
    "simulator, tape:PATH, binance:SYM,SYM[@URL] (coinbase, kraken, bybit, okx likewise), ccxt:EXCHANGE:SYM,SYM, "
    "dexscreener:ADDR,ADDR, dexscreener:search=QUERY, jupiter:MINT,MINT, probe[:TOKENS] or none"
)
DEFAULT_PROBES: Final = 100
MAX_TAPE_SPEED: Final = 1_000_000.0
MAX_PROBES: Final = 10_000


@dataclass(frozen=True, slots=True)
class ExchangeForm:
    """How an exchange is called and what its symbols look like. ``keeps_case``: only a symbol without any capital
    is capitalised, because case has a meaning (Kraken's AAPLx/USD)."""

    title: str
    symbol: re.Pattern[str]
    example: str
    keeps_case: bool = False


EXCHANGES: Final[Mapping[str, ExchangeForm]] = {
    "binance": ExchangeForm("Binance", re.compile(r"[A-Z0-9_]{1,32}"), "BTCUSDT"),
    "coinbase": ExchangeForm("Coinbase", re.compile(r"[A-Z0-9]{1,16}-[A-Z0-9]{1,16}"), "BTC-USD"),
    "kraken": ExchangeForm("Kraken", re.compile(r"[A-Za-z0-9.]{1,16}/[A-Za-z0-9.]{1,16}"), "BTC/USD", keeps_case=True),
    "bybit": ExchangeForm("Bybit", re.compile(r"[A-Z0-9]{2,32}"), "BTCUSDT"),
    # Two parts: a spot pair. The amounts of other instruments are counted in contracts.
    "okx": ExchangeForm("spot OKX", re.compile(r"[A-Z0-9]{1,16}-[A-Z0-9]{1,16}"), "BTC-USDT"),
    "ccxt": ExchangeForm("ccxt", re.compile(r"[^\s,@;]{1,64}"), "BTC/USDT", keeps_case=True),
}
"""Exchanges by their kind in a source's text."""

_CCXT_ID: Final = re.compile(r"[a-z][a-z0-9]{1,31}")


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One source as asked for. ``scenario`` belongs to the simulator, ``path`` to a tape, ``tokens``
    (how many) to the probe, ``search`` to DexScreener, the rest to exchanges: ``exchange`` is the one that ccxt is to
    watch. What is polled has its tokens in ``symbols`` and its API's URL in ``rest_url``."""

    kind: SourceKind
    text: str
    scenario: SimulatorScenario | None = None
    path: str = ""
    symbols: tuple[str, ...] = ()
    url: str | None = None
    tokens: int = 0
    rest_url: str | None = None
    exchange: str = ""
    search: str = ""


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
        case "binance" | "coinbase" | "kraken" | "bybit" | "okx":
            return _exchange(kind, text.strip(), argument)
        case "ccxt":
            return _ccxt(text.strip(), argument)
        case "dexscreener" | "jupiter":
            return _polled(kind, text.strip(), argument)
        case "probe":
            return SourceSpec("probe", text.strip(), tokens=_probes(argument) if colon else DEFAULT_PROBES)
    raise ValueError(f"{text.strip()!r} is not a source; use {_FORMS}")


def _scenario(name: str) -> SimulatorScenario:
    for scenario in _SCENARIOS:
        if name.strip().lower() == scenario:
            return scenario
    raise ValueError(f"{name.strip()!r} is not a scenario; use {', '.join(_SCENARIOS)}")


def _exchange(kind: SourceKind, text: str, argument: str) -> SourceSpec:
    listed, at, urls = argument.partition("@")
    symbols = clean_symbols(kind, listed.split(","), MAX_SYMBOLS)
    url, bar, rest_url = urls.partition("|")
    if at and (url or not bar):
        check_url(url)
    if bar:
        check_rest_url(rest_url)
    return SourceSpec(kind, text, symbols=symbols, url=url or None, rest_url=rest_url or None)


def _ccxt(text: str, argument: str) -> SourceSpec:
    exchange, _, listed = argument.partition(":")
    if not _CCXT_ID.fullmatch(exchange):
        raise ValueError("ccxt needs an exchange and symbols: ccxt:kucoin:BTC/USDT,ETH/USDT")
    return SourceSpec("ccxt", text, symbols=clean_symbols("ccxt", listed.split(","), MAX_SYMBOLS), exchange=exchange)


def _polled(kind: SourceKind, text: str, argument: str) -> SourceSpec:
    listed, url = split_url(argument)
    tokens, search = polled_tokens(kind, listed)
    if url:
        check_rest_url(url)
    return SourceSpec(kind, text, symbols=tokens, rest_url=url or None, search=search)


def clean_symbols(kind: str, symbols: Iterable[str], max_symbols: int) -> tuple[str, ...]:
    """The symbols as this exchange writes them, each once.

    Raises:
        ValueError: in one line, for none, too many, or one that is no symbol there.
    """
    form = EXCHANGES[kind]
    stripped = (symbol.strip() for symbol in symbols)
    cleaned = tuple(dict.fromkeys(_capitals(symbol, form) for symbol in stripped if symbol))
    if not cleaned:
        second = form.example.replace("BTC", "ETH")
        first = f"{kind}:EXCHANGE" if kind == "ccxt" else kind
        raise ValueError(f"{kind} needs symbols: {first}:{form.example},{second}")
    if len(cleaned) > max_symbols:
        raise ValueError(f"{kind} takes at most {max_symbols} symbols, not {len(cleaned)}")
    for symbol in cleaned:
        if not form.symbol.fullmatch(symbol):
            raise ValueError(f"{symbol!r} is not a {form.title} symbol; they look like {form.example}")
    return cleaned


def _capitals(symbol: str, form: ExchangeForm) -> str:
    return symbol if form.keeps_case and symbol != symbol.lower() else symbol.upper()


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


def check_rest_url(url: str) -> None:
    """Raises ValueError, in one line, unless ``url`` is an http or https URL with a host."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{url!r} is not a REST URL; it looks like http://HOST:PORT or https://HOST")


def parse_tape_speed(text: str) -> float:
    """A factor on a tape's own pace; ``max`` and 0 mean as fast as possible, which is 0.

    Raises:
        ValueError: in one line, for anything else.
    """
    word = text.strip().lower()
    if word == "max":
        return 0.0
    try:
        speed = float(word)
    except ValueError:
        speed = -1.0
    if not 0 <= speed <= MAX_TAPE_SPEED:
        raise ValueError(f"expected 1 (as recorded), 10 (ten times as fast; up to {MAX_TAPE_SPEED:.0f}) or max")
    return speed


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
