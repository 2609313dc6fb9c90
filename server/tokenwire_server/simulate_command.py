"""What ``tokenwire-server simulate`` does: trades of a market that never was, onto a tape, into a history, or posted to
a running server; at their own pace or as fast as these take them."""

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rich.console import Console

from tokenwire_server.command_progress import Progress, counted, size_text, stopping
from tokenwire_server.errors import UserError
from tokenwire_server.feeding import attach, build_pipeline
from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.service import DataDirectory
from tokenwire_server.metered_sink import MeteredSink
from tokenwire_server.ports import Sink
from tokenwire_server.settings import Settings
from tokenwire_server.sources.recording import Recording
from tokenwire_server.sources.simulation import DEFAULT_RATE, DEFAULT_TOKENS, MAX_RATE, Scenario, Simulation
from tokenwire_server.sources.simulator import STEP_MS, Simulator, wall_ms
from tokenwire_server.sources.tape_writer import FLUSH_INTERVAL_S, TapeWriter
from tokenwire_server.trade_poster import TradePoster

__all__ = ["SEEDED_START_MS", "SimulateRequest", "SimulateSummary", "print_simulate", "simulate"]

SEEDED_START_MS: Final = 1_767_225_600_000  # 2026-01-01T00:00:00Z
MAX_UNSTORED_ROWS: Final = 20_000  # more may not wait for the history
YIELD_INTERVAL_S: Final = 0.05
SOURCE: Final = "simulator"

# Trades a second at the simulation's own pace: its four majors together, and each other token on average.
_MAJORS: Final = 4
_MAJORS_RATE: Final = 50.0
_OTHERS_RATE: Final = math.log(2.5) / (0.75 * 3.0)


@dataclass(frozen=True, kw_only=True)
class SimulateRequest:
    """What to simulate, and for whom: exactly one of ``output`` (a tape), ``data`` (a history's directory) and ``url``
    (of a server that takes trades). ``speed`` is a factor on the market's time, 0 as fast as possible; None: 1 for a
    server, else 0. The market opens at ``start_ms`` (Unix ms)."""

    output: Path | None = None
    data: Path | None = None
    url: str | None = None
    rate: float = DEFAULT_RATE
    tokens: int = DEFAULT_TOKENS
    scenario: Scenario = Scenario.CALM
    seed: int | None = None
    start_ms: int | None = None
    speed: float | None = None
    duration_s: float | None = None
    limit: int | None = None
    force: bool = False
    quiet: bool = False


@dataclass(kw_only=True)
class SimulateSummary:
    """What came of it. ``seed`` makes the same market again; ``market_s`` is how long that lasted."""

    seed: int
    target: str
    trades: int = 0
    market_s: float = 0.0
    seconds: float = 0.0
    size_bytes: int = 0
    posts: int = 0
    duplicates: int = 0
    waits: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    lost_trades: int = 0


class _EnoughError(Exception):
    """The market closes."""


class _Pace:
    """The market's clock: it moves on in steps, as fast as ``speed`` and whoever takes the trades allow."""

    def __init__(self, start_ms: int, speed: float, end_ms: float, stop: asyncio.Event) -> None:
        self.now_ms = start_ms
        self.start_ms = start_ms
        self.is_enough: Callable[[], bool] = lambda: False
        self.deliver: Callable[[], Awaitable[None]] = _nothing
        self._speed = speed
        self._end_ms = end_ms
        self._stop = stop
        self._begun_s = self._yielded_s = time.monotonic()

    def clock(self) -> int:
        """The market's time, Unix ms."""
        return self.now_ms

    @property
    def is_stopping(self) -> bool:
        """Somebody wants it to end."""
        return self._stop.is_set()

    async def wait(self, seconds: float) -> None:
        """Sleep, unless it is to end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def sleep(self, _: float) -> None:
        """One step on. Raises _EnoughError at the end."""
        await self.deliver()
        if self._stop.is_set() or self.is_enough() or self.now_ms + STEP_MS >= self._end_ms:
            raise _EnoughError
        self.now_ms += STEP_MS
        if self._speed:
            due_s = self._begun_s + (self.now_ms - self.start_ms) / 1_000 / self._speed
            wait_s = due_s - time.monotonic()
            if wait_s > 0:
                await self.wait(wait_s)
                return
        if time.monotonic() - self._yielded_s >= YIELD_INTERVAL_S:
            await asyncio.sleep(0)
            self._yielded_s = time.monotonic()


async def _nothing() -> None:
    pass


async def simulate(settings: Settings, request: SimulateRequest) -> SimulateSummary:
    """Simulate until Ctrl-C or SIGTERM, the end of the time, or the limit.

    Raises:
        UserError: the request makes no sense, or its target can't be used.
    """
    speed = _checked(request)
    seed = secrets.randbits(64) if request.seed is None else request.seed
    start_ms = request.start_ms
    if start_ms is None:  # with a seed, everything is to be the same again
        start_ms = wall_ms() if request.seed is None or request.url is not None else SEEDED_START_MS
    make = partial(_simulation, request)
    summary = SimulateSummary(seed=seed, target=str(request.output or request.data or request.url))
    end_ms = math.inf if request.duration_s is None else start_ms + request.duration_s * 1_000
    begun_s = time.monotonic()
    with stopping() as stop:
        pace = _Pace(start_ms, speed, end_ms, stop)
        reseed = make if request.seed is None else None
        simulator = Simulator(make(seed), clock=pace.clock, sleep=pace.sleep, name=SOURCE, reseed=reseed)
        target = _to_tape if request.output is not None else _to_history if request.data is not None else _to_server
        await target(settings, request, simulator, pace, summary)
    summary.seconds = time.monotonic() - begun_s
    summary.market_s = (pace.now_ms - start_ms + STEP_MS) / 1_000
    return summary


def _checked(request: SimulateRequest) -> float:
    """The speed in force."""
    targets = (request.output, request.data, request.url)
    if sum(target is not None for target in targets) != 1:
        raise UserError("say where the trades go, one of: -o FILE (a tape), --data DIR (a history), --url http://…")
    if request.url is not None:
        try:
            parts = urlsplit(request.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise UserError(f"--url: {request.url!r} is none; it looks like http://127.0.0.1:8080/api/v1/trades")
    speed = request.speed if request.speed is not None else float(request.url is not None)
    if not speed and request.duration_s is None and request.limit is None:
        raise UserError("as fast as possible has no end: say how much with --duration SECONDS or --limit TRADES")
    return speed


def _simulation(request: SimulateRequest, seed: int) -> Simulation:
    own_rate = _MAJORS_RATE + max(0, request.tokens - _MAJORS) * _OTHERS_RATE
    factor = own_rate / DEFAULT_RATE
    try:
        if not factor <= request.rate <= MAX_RATE * min(1.0, factor):
            raise ValueError(
                f"with {request.tokens} tokens the rate is {math.ceil(factor)} to {MAX_RATE * min(1.0, factor):.0f} "
                f"trades a second, not {request.rate:g}"
            )
        return Simulation(seed, request.tokens, request.rate / factor, request.scenario)
    except ValueError as error:
        raise UserError(str(error)) from None


async def _to_tape(
    settings: Settings, request: SimulateRequest, simulator: Simulator, pace: _Pace, summary: SimulateSummary
) -> None:
    assert request.output is not None
    writer = TapeWriter(request.output, force=request.force)
    try:
        recording = Recording(writer, [SOURCE], clock_us=lambda: pace.now_ms * 1_000, limit=request.limit)
        flushed_s = time.monotonic()

        async def flush() -> None:
            nonlocal flushed_s
            if recording.failure is not None:
                raise recording.failure
            if time.monotonic() - flushed_s >= FLUSH_INTERVAL_S:
                recording.flush()
                flushed_s = time.monotonic()

        pace.deliver = flush
        pace.is_enough = lambda: recording.is_full
        await _run(simulator, recording, request, lambda: recording.trades_taken)
        recording.flush()
        if recording.failure is not None:
            raise recording.failure
    except BaseException:
        writer.abandon()
        raise
    writer.finish()
    summary.trades, summary.size_bytes = recording.trades_taken, writer.size_bytes


async def _to_history(
    settings: Settings, request: SimulateRequest, simulator: Simulator, pace: _Pace, summary: SimulateSummary
) -> None:
    assert request.data is not None
    kept = await DataDirectory.open(request.data, settings.retention)
    try:
        pipeline = build_pipeline(settings, kept, pace.clock)
        await attach(pipeline, [simulator], kept)
        pipeline.add_source(simulator)
        recorder = pipeline.recorder
        assert recorder is not None

        async def settle() -> None:
            if recorder.builder.rows > MAX_UNSTORED_ROWS:
                await recorder.settled()

        metered = MeteredSink(pipeline, request.limit)
        pace.deliver = settle
        pace.is_enough = lambda: metered.is_full
        await _run(simulator, metered, request, lambda: pipeline.market.trades)
        await recorder.settled()
    except HistoryError as error:
        raise UserError(f"{request.data} can't be written: {error}") from None
    finally:
        await kept.close()
    summary.trades, summary.duplicates = pipeline.market.trades, pipeline.market.duplicates
    summary.rejected = {reason: count for (_, reason), count in pipeline.rejections.items()}
    summary.lost_trades = recorder.lost_trades + recorder.builder.given_up_trades


async def _to_server(
    settings: Settings, request: SimulateRequest, simulator: Simulator, pace: _Pace, summary: SimulateSummary
) -> None:
    assert request.url is not None
    secret = settings.ingest_token
    token = None if secret is None else secret.get_secret_value()
    async with TradePoster(
        request.url,
        prefix=f"{summary.seed}-",
        token=token,
        sleep=pace.wait,
        is_stopping=lambda: pace.is_stopping,
    ) as poster:
        metered = MeteredSink(poster, request.limit)
        pace.deliver = poster.send
        pace.is_enough = lambda: metered.is_full
        await _run(simulator, metered, request, lambda: poster.accepted)
        await poster.send(everything=True)
    summary.trades, summary.duplicates, summary.posts = poster.accepted, poster.duplicates, poster.posts
    summary.rejected, summary.waits = poster.rejected_by_reason, poster.waits
    summary.lost_trades = poster.unsent


async def _run(simulator: Simulator, sink: Sink, request: SimulateRequest, count: Callable[[], int]) -> None:
    begun_s = time.monotonic()

    def line() -> str:
        seconds = time.monotonic() - begun_s
        return f"simulating: {count():,} trades, {count() / max(seconds, 1e-9):,.0f}/s, {seconds:.0f} s"

    async with Progress(line, quiet=request.quiet):
        with suppress(_EnoughError):
            await simulator.run(sink)


def print_simulate(summary: SimulateSummary) -> None:
    """One line on standard output; what did not arrive on standard error."""
    rate = summary.trades / max(summary.seconds, 1e-9)
    size = f", {size_text(summary.size_bytes)}" if summary.size_bytes else ""
    Console(soft_wrap=True, highlight=False, markup=False).print(
        f"{summary.trades:,} trades in {summary.target}{size}: {summary.market_s:,.1f} s of the market with seed "
        f"{summary.seed} in {summary.seconds:.1f} s, {rate:,.0f}/s"
    )
    notes = []
    if summary.duplicates:
        notes.append(f"there already: {summary.duplicates:,}")
    if summary.rejected:
        notes.append(f"rejected: {counted(summary.rejected)}")
    if summary.waits:
        notes.append(f"waits for the server: {summary.waits:,}")
    if summary.lost_trades:
        notes.append(f"neither stored nor posted: {summary.lost_trades:,}")
    if notes:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print("; ".join(notes))
