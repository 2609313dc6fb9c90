"""What ``tokenwire-server replay`` does: a tape through the whole pipeline, without clients, and how that went."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tokenwire_server.command_progress import Progress, counted, peak_memory_bytes, size_text, stopping
from tokenwire_server.feeding import attach, build_pipeline
from tokenwire_server.history.service import DataDirectory
from tokenwire_server.market.bars import BarChange, BarEvent
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import SourceState
from tokenwire_server.settings import Settings
from tokenwire_server.sources.tape import Tape

__all__ = ["ReplaySummary", "print_replay", "replay", "tape_at"]


@dataclass(kw_only=True)
class ReplaySummary:
    """What a replay amounted to. ``trades`` and ``values`` were taken over, ``bars`` closed, by interval;
    ``corrected`` counts corrections of closed ones. ``problem`` is why the tape could not be read to its end."""

    tape: str
    seconds: float = 0.0
    tape_seconds: float = 0.0
    trades: int = 0
    values: int = 0
    tokens: int = 0
    bars: Counter[str] = field(default_factory=Counter)
    corrected: int = 0
    duplicates: int = 0
    late: int = 0
    set_aside: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    doubts: Mapping[str, int] = field(default_factory=dict)
    gaps: int = 0
    missed: int = 0
    lost_trades: int = 0
    skipped_lines: int = 0
    peak_bytes: int = 0
    is_stopped: bool = False
    problem: str = ""


def tape_at(path: str, speed: float) -> Tape:
    """The tape, under the name that it has as a source of a server: so a history goes on where it was.

    Raises:
        TapeError: it can't be replayed.
    """
    return Tape(path, speed=speed, name=f"tape:{Path(path).name}")


async def replay(tape: Tape, settings: Settings, data: Path | None, *, quiet: bool = False) -> ReplaySummary:
    """Play the tape to its end, or until Ctrl-C or SIGTERM. With ``data`` all of it is stored there.

    Raises:
        UserError: the data directory can't be used.
    """
    summary = ReplaySummary(tape=tape.name)
    kept = None if data is None else await DataDirectory.open(data, settings.retention)
    try:
        pipeline = build_pipeline(settings, kept)
        pipeline.add_source(tape)
        if kept is not None:
            await attach(pipeline, [tape], kept)
        # Behind the history: what was restored did not happen now.
        pipeline.bar_listeners.append(lambda _, change: _note(summary, change))
        await _play(tape, pipeline, summary, quiet=quiet)
    finally:
        if kept is not None:
            await kept.close()
    if pipeline.recorder is not None:
        summary.lost_trades = pipeline.recorder.lost_trades + pipeline.recorder.builder.given_up_trades
    return summary


async def _play(tape: Tape, pipeline: Pipeline, summary: ReplaySummary, *, quiet: bool) -> None:
    market = pipeline.market
    begun_s = time.perf_counter()

    def line() -> str:
        seconds = time.perf_counter() - begun_s
        return (
            f"replaying {tape.name}: {tape.progress():.0%}, {market.trades:,} trades, "
            f"{market.trades / max(seconds, 1e-9):,.0f}/s, {len(market):,} tokens, {seconds:.0f} s"
        )

    with stopping() as stop:
        playing = asyncio.create_task(tape.run(pipeline))
        stopped = asyncio.create_task(stop.wait())
        try:
            async with Progress(line, quiet=quiet):
                await asyncio.wait((playing, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            summary.is_stopped = not playing.done()
            stopped.cancel()
            playing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await playing
    summary.seconds = time.perf_counter() - begun_s
    summary.tape_seconds = tape.played_ms / 1_000
    summary.trades, summary.values, summary.tokens = market.trades, market.stated, len(market)
    summary.duplicates = market.duplicates
    summary.late = market.late
    summary.set_aside = _counts(
        {"unknown_token": market.unknown, "foreign_token": market.foreign, "mixed_kind": market.mixed}
    )
    summary.rejected = _counts({reason: count for (_, reason), count in pipeline.rejections.items()})
    summary.doubts = _counts({doubt: count for (_, doubt), count in pipeline.doubts.items()})
    summary.gaps, summary.missed = tape.gaps, tape.missed
    summary.skipped_lines = tape.skipped
    summary.peak_bytes = peak_memory_bytes()
    if pipeline.states.get(tape.name) is SourceState.FAILED:
        summary.problem = tape.problem


def _note(summary: ReplaySummary, change: BarChange) -> None:
    if change.event is BarEvent.CLOSED:
        summary.bars[change.interval.text] += 1
    else:
        summary.corrected += 1


def _counts(counts: Mapping[str, int]) -> Mapping[str, int]:
    return {name: count for name, count in counts.items() if count}


def print_replay(summary: ReplaySummary) -> None:
    """The summary on standard output; on standard error why it is not of the whole tape."""
    rate = summary.trades / max(summary.seconds, 1e-9)
    bars = ", ".join(f"{count:,} of {name}" for name, count in summary.bars.items()) or "none"
    rows = {
        "tape": f"{summary.tape}{' (stopped)' if summary.is_stopped else ''}, {summary.tape_seconds:,.1f} s long",
        "trades": f"{summary.trades:,} in {summary.seconds:.2f} s: {rate:,.0f}/s",
        "values": f"{summary.values:,}" if summary.values else "",
        "tokens": f"{summary.tokens:,}",
        "bars closed": f"{bars}; {summary.corrected:,} corrections",
        "duplicates": f"{summary.duplicates:,}",
        "late": f"{summary.late:,}",
        "set aside": counted(summary.set_aside) if summary.set_aside else "",
        "rejected": counted(summary.rejected),
        "in doubt": counted(summary.doubts) if summary.doubts else "",
        "holes": f"{summary.gaps:,}, {summary.missed:,} trades in them" if summary.gaps else "",
        "peak memory": size_text(summary.peak_bytes),
    }
    out = Console(soft_wrap=True, highlight=False, markup=False)
    for name, text in rows.items():
        if text:
            out.print(f"{name + ':':<14}{text}")
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    if summary.skipped_lines:
        errors.print(f"the history had {summary.skipped_lines:,} lines of this tape already: they were left out")
    if summary.lost_trades:
        errors.print(f"{summary.lost_trades:,} trades could not be stored")
    if summary.problem:
        errors.print(summary.problem)
