"""Feeds: the simulator, captured tapes, exchanges' streams, a probe; and the venue that replays a tape.

Every exchange has a pure normaliser (``…_format``) and a thin shell around it. All prices are Decimals from
the first byte on.
"""

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tokenwire_server.errors import UserError
from tokenwire_server.ports import Source
from tokenwire_server.settings import Settings
from tokenwire_server.source_spec import parse_source as parse_spec
from tokenwire_server.sources.binance import Binance
from tokenwire_server.sources.bybit import bybit
from tokenwire_server.sources.ccxt_source import CcxtSource
from tokenwire_server.sources.coinbase import COINBASE
from tokenwire_server.sources.exchange import Exchange
from tokenwire_server.sources.kraken import KRAKEN
from tokenwire_server.sources.okx import OKX
from tokenwire_server.sources.pollers import POLLED, build_aggregator
from tokenwire_server.sources.probe import Probe
from tokenwire_server.sources.simulation import DEFAULT_RATE, Scenario, Simulation
from tokenwire_server.sources.simulator import Simulator, wall_ms
from tokenwire_server.sources.tape import Tape

__all__ = ["SourceSpecError", "build_sources", "parse_source"]

_PROFILES: Final = {profile.kind: profile for profile in (COINBASE, KRAKEN, OKX)}
_SCENARIOS: Final = ", ".join(Scenario)


class SourceSpecError(UserError, ValueError):
    """The text names no usable source; the message says what is wrong and what is possible."""


def parse_source(
    spec: str,
    *,
    seed: int | None = None,
    scenario: Scenario | str = Scenario.CALM,
    rate: float = DEFAULT_RATE,
    tape_speed: float = 1.0,
    name: str | None = None,
    clock: Callable[[], int] = wall_ms,
) -> Source | None:
    """Build the source that ``spec`` names; None for ``none``.

    Forms: ``simulator``, ``simulator:SCENARIO``, ``tape:PATH``, ``binance:SYM,SYM[@URL[|RESTURL]]`` and likewise
    ``coinbase:``, ``kraken:``, ``bybit:`` and ``okx:``, ``ccxt:EXCHANGE:SYM,SYM``, ``probe[:TOKENS]``, ``none``.
    ``seed``, ``scenario`` and ``rate`` (trades a second) are for the simulator, ``tape_speed`` is a factor
    (0: as fast as possible), ``name`` replaces the source's own. Without a seed the simulator is different every time.
    By ``clock`` (Unix ms) an exchange's trades are taken for those of the future.

    Raises:
        SourceSpecError: the text is none of these forms, or its symbols, URL or scenario are wrong.
        TapeError: the tape cannot be replayed.
        UserError: the source needs an extra that is not installed.
    """
    text = spec.strip()
    if text.startswith("simulator:"):
        scenario = text.removeprefix("simulator:")
        if scenario not in set(Scenario):
            raise SourceSpecError(f"{scenario!r} is not a scenario; use one of {_SCENARIOS}")
        text = "simulator"
    try:
        parsed = parse_spec(text)
        match parsed.kind:
            case "none":
                return None
            case "tape":
                return Tape(parsed.path, speed=tape_speed, name=name)
            case "binance":
                return Binance(parsed.symbols, parsed.url, parsed.rest_url, name=name or "binance", clock=clock)
            case "coinbase" | "kraken" | "bybit" | "okx":
                profile = bybit(parsed.url) if parsed.kind == "bybit" else _PROFILES[parsed.kind]
                return Exchange(profile, parsed.symbols, parsed.url, parsed.rest_url, name=name, clock=clock)
            case "ccxt":
                return CcxtSource(parsed.exchange, parsed.symbols, name=name, clock=clock)
            case "dexscreener" | "jupiter":
                return build_aggregator([parsed], Settings.model_validate({}))
            case "probe":
                return Probe(parsed.tokens, name=name or "probe")
            case "simulator":
                make = partial(Simulation, rate=rate, scenario=scenario)
                simulation = make(secrets.randbits(64) if seed is None else seed)
                return Simulator(simulation, name=name or "simulator", reseed=make if seed is None else None)
    except UserError:
        raise
    except ValueError as error:
        raise SourceSpecError(str(error)) from None


def build_sources(settings: Settings, clock: Callable[[], int] = wall_ms) -> list[Source]:
    """The sources that the settings ask for, each under a name of its own; ``clock`` as of :func:`parse_source`.

    Raises:
        SourceSpecError, TapeError: as :func:`parse_source`.
    """
    sources: list[Source] = []
    names: set[str] = set()
    for text in settings.source:
        # Two sources of one kind would share a name and so their counters: the later get a number.
        kind, _, argument = text.strip().partition(":")
        if kind in POLLED:
            continue
        # The file's name, not its path: names appear in /ready and /metrics.
        name = base = f"tape:{Path(argument).name}" if kind == "tape" else kind
        number = 1
        while name in names:
            number += 1
            name = f"{base}#{number}"
        source = parse_source(
            text,
            seed=settings.seed,
            scenario=settings.simulator_scenario,
            rate=settings.simulator_rate * DEFAULT_RATE,
            tape_speed=settings.tape_speed,
            name=name,
            clock=clock,
        )
        if source is not None:
            names.add(source.name)
            sources.append(source)
    polled = [spec for spec in settings.sources if spec.kind in POLLED]
    if polled:  # together they are one source: a token has one writer
        sources.append(build_aggregator(polled, settings))
    return sources
