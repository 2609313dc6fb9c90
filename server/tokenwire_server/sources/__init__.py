"""Feeds: the simulator, captured tapes, Binance-format streams, a probe; and the venue that replays a tape.

Every exchange has a pure normaliser (``…_format``) and a thin shell around it. All prices are Decimals from
the first byte on.
"""

import secrets
from pathlib import Path
from typing import Final

from tokenwire_server.errors import UserError
from tokenwire_server.ports import Source
from tokenwire_server.settings import Settings
from tokenwire_server.source_spec import parse_source as parse_spec
from tokenwire_server.sources.binance import DEFAULT_URL, Binance
from tokenwire_server.sources.probe import Probe
from tokenwire_server.sources.simulation import DEFAULT_RATE, Scenario, Simulation
from tokenwire_server.sources.simulator import Simulator
from tokenwire_server.sources.tape import Tape

__all__ = ["SourceSpecError", "build_sources", "parse_source"]

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
) -> Source | None:
    """Build the source that ``spec`` names; None for ``none``.

    Forms: ``simulator``, ``simulator:SCENARIO``, ``tape:PATH``, ``binance:SYM,SYM[@URL]``, ``probe[:TOKENS]``,
    ``none``. ``seed``, ``scenario`` and ``rate`` (trades a second) are for the simulator, ``tape_speed`` is a factor
    (0: as fast as possible), ``name`` replaces the source's own. Without a seed the simulator is different every time.

    Raises:
        SourceSpecError: the text is none of these forms, or its symbols, URL or scenario are wrong.
        TapeError: the tape cannot be replayed.
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
                return Binance(parsed.symbols, parsed.url or DEFAULT_URL, name=name or "binance")
            case "probe":
                return Probe(parsed.tokens, name=name or "probe")
            case "simulator":
                seed = secrets.randbits(64) if seed is None else seed
                simulation = Simulation(seed, rate=rate, scenario=scenario)
                return Simulator(simulation, name=name or "simulator")
    except UserError:
        raise
    except ValueError as error:
        raise SourceSpecError(str(error)) from None


def build_sources(settings: Settings) -> list[Source]:
    """The sources that the settings ask for, each under a name of its own.

    Raises:
        SourceSpecError, TapeError: as :func:`parse_source`.
    """
    sources: list[Source] = []
    names: set[str] = set()
    for text in settings.source:
        # Two sources of one kind would share a name and so their counters: the later get a number.
        kind, _, argument = text.strip().partition(":")
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
            name=name,
        )
        if source is not None:
            names.add(source.name)
            sources.append(source)
    return sources
