"""What ``tokenwire-server record`` does: whatever sources deliver, onto a tape, until it is told to stop."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tokenwire_server.command_progress import Progress, counted, size_text, stopping
from tokenwire_server.errors import UserError
from tokenwire_server.feeding import feed
from tokenwire_server.ports import Source, SourceState
from tokenwire_server.settings import Settings
from tokenwire_server.sources import build_sources
from tokenwire_server.sources.recording import Recording
from tokenwire_server.sources.simulator import wall_ms
from tokenwire_server.sources.tape_writer import FLUSH_INTERVAL_S, TapeWriter

__all__ = ["RecordRequest", "RecordSummary", "asked_sources", "print_record", "record"]


@dataclass(frozen=True, kw_only=True)
class RecordRequest:
    """What to record where. ``limit`` counts frames, trades and values; None: until stopped."""

    output: Path
    duration_s: float | None = None
    limit: int | None = None
    force: bool = False
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class RecordSummary:
    """What is on the tape."""

    output: Path
    frames: int
    trades: int
    values: int
    gaps: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    unwritable: int = 0
    size_bytes: int
    seconds: float
    is_failed: bool = False
    """Every source failed for good."""


def asked_sources(settings: Settings, command: str, clock: Callable[[], int] = wall_ms) -> list[Source]:
    """The sources that were asked for: by name, for these commands do not make up data unasked. ``clock`` as of
    ``build_sources``.

    Raises:
        UserError: none was, or one can't be built.
    """
    if "source" not in settings.model_fields_set or not settings.sources:
        raise UserError(f"{command} needs a source: --source binance:BTCUSDT, say, or --source simulator")
    return build_sources(settings, clock)


async def record(settings: Settings, request: RecordRequest) -> RecordSummary:
    """Record until Ctrl-C or SIGTERM, the end of the time or the sources, or the limit.

    Raises:
        UserError: a source can't be built, or the tape can't be written; what is on it by then can be replayed.
    """
    sources = asked_sources(settings, "record")
    writer = TapeWriter(request.output, force=request.force)
    begun_s = time.monotonic()
    with stopping() as stop:
        try:
            recording = Recording(writer, [source.name for source in sources], limit=request.limit, ended=stop.set)

            def line() -> str:
                seconds = time.monotonic() - begun_s
                states = ", ".join(f"{name} {state}" for name, state in recording.states.items())
                return (
                    f"recording: {recording.taken:,} frames, trades and values, {recording.taken / seconds:,.0f}/s, "
                    f"{size_text(recording.size_bytes)}, {seconds:.0f} s; {states}"
                )

            async with Progress(line, quiet=request.quiet):
                for source in sources:
                    recording.add_source(source)
                beside = _keep(recording), _tick(recording, settings.update_interval_s)
                await feed(sources, recording, stop, request.duration_s, *beside)
            recording.flush()
        except BaseException:
            writer.abandon()
            raise
    if recording.failure is not None:
        writer.abandon()
        raise recording.failure
    if not recording.taken:
        writer.discard()
    else:
        writer.finish()
    return RecordSummary(
        output=request.output,
        frames=recording.frames,
        trades=recording.trades_taken,
        values=recording.values_taken,
        gaps=recording.gaps,
        rejected=recording.rejected_by_reason,
        unwritable=recording.unwritable,
        size_bytes=writer.size_bytes,
        seconds=time.monotonic() - begun_s,
        is_failed=all(recording.states.get(source.name) is SourceState.FAILED for source in sources),
    )


async def _keep(recording: Recording) -> None:
    while True:
        await asyncio.sleep(FLUSH_INTERVAL_S)
        recording.flush()


async def _tick(recording: Recording, interval_s: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(interval_s)
        recording.tick(loop.time())


def print_record(summary: RecordSummary) -> None:
    """One line on standard output, and one on standard error for what is not on the tape."""
    parts = [
        f"{count:,} {name}"
        for name, count in (("frames", summary.frames), ("trades", summary.trades), ("values", summary.values))
        if count
    ]
    out = Console(soft_wrap=True, highlight=False, markup=False)
    if parts:
        size = size_text(summary.size_bytes)
        out.print(f"{', '.join(parts)} in {summary.output} ({size}, {summary.seconds:.1f} s)")
    else:
        out.print(f"nothing came in {summary.seconds:.1f} s; no tape was written")
    notes = []
    if summary.gaps:
        notes.append(f"holes: {summary.gaps:,}")
    if summary.rejected:
        notes.append(f"rejected: {counted(summary.rejected)}")
    if summary.unwritable:
        notes.append(f"too long for a tape: {summary.unwritable:,}")
    if notes:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print("; ".join(notes))
