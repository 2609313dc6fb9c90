"""The commands ``server`` and ``client``: one run with everything that a person and a CI want from it."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.drive import NothingTestedError, PeerRun, client_run, result_of, server_run
from tokenwire_conformance.model import CaseInfo, Role, Verdict
from tokenwire_conformance.options import OptionError, Selection, headers_of, seconds_of, selection_of, tokens_of
from tokenwire_conformance.outcome import ExitStatus, RunResult, exit_status
from tokenwire_conformance.reports import Console, check_paths, write_reports
from tokenwire_conformance.reports.text import one_line
from tokenwire_conformance.wire.log import redacted, redacted_command
from tokenwire_conformance.wire.target import TargetError, parse_target

__all__ = ["run_command"]

_TICK_S: Final = 0.25


def run_command(role: Role, arguments: argparse.Namespace) -> ExitStatus:
    """Run what ``arguments`` ask for, tell of it, write the reports.

    Raises:
        OptionError, ReportError: What was asked for cannot be done.
        NothingTestedError: No case could begin; the reports say so, too.
        CaseBrokeError: The run is wrong itself.
    """
    selection = selection_of(
        role, profiles=arguments.profile, cases=arguments.case, declared=arguments.declare,
        known_failures=arguments.known_failures, strict=arguments.strict,
    )  # fmt: skip
    if role is Role.SERVER:
        target, run = _server(arguments)
    else:
        target, run = _client(arguments)
    check_paths(arguments.json, arguments.junit, arguments.html)
    watch = _Watch(selection, arguments)
    started = datetime.now().astimezone()
    interrupted, not_tested = False, ""
    verdicts: list[Verdict] = []
    if not sys.flags.dev_mode:
        # It tells of peers that end connections, which they may; what matters of it is in the verdicts.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        with watch.console, _terminated_as_interrupted():
            verdicts = asyncio.run(_drive(run, selection, watch))
    except KeyboardInterrupt:
        if not watch.verdicts:
            raise
        interrupted, verdicts = True, watch.in_order()
    except NothingTestedError as error:
        not_tested = str(error)
    result = result_of(
        role, target, selection, run, verdicts, started=started, interrupted=interrupted, not_tested=not_tested
    )
    if not not_tested:
        watch.end(result, hint="" if arguments.html else "run with --html FILE for wire logs")
    for path in write_reports(result, arguments.json, arguments.junit, arguments.html):
        watch.say(f"written: {path}")
    if not_tested:
        raise NothingTestedError(not_tested)
    return exit_status(result)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, by which a CI cancels, ends the run as Ctrl-C does: with its clients, and with its reports."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _server(arguments: argparse.Namespace) -> tuple[str, PeerRun]:
    headers = headers_of(arguments.header, arguments.header_file)
    try:
        target = parse_target(arguments.url, headers=headers, ca=arguments.ca, insecure=arguments.insecure)
    except TargetError as error:
        raise OptionError(str(error)) from error
    if target.tls is None and (arguments.ca or arguments.insecure):
        raise OptionError("--ca and --insecure are for wss:// only")
    run = server_run(
        target, tokens=tokens_of(arguments.tokens) if arguments.tokens is not None else (),
        update_interval_s=seconds_of(arguments.update_interval), parallel=arguments.parallel, progress=_progress(),
    )  # fmt: skip
    return redacted(target.url()), run


def _client(arguments: argparse.Namespace) -> tuple[str, PeerRun]:
    from tokenwire_conformance.client.launch import LaunchError  # noqa: PLC0415 - only this command needs it

    try:
        run = client_run(arguments.exec_, parallel=arguments.parallel, progress=_progress())
        return redacted_command(arguments.exec_), run
    except LaunchError as error:
        raise OptionError(f"--exec: {error}") from error


def _progress() -> Callable[[str], None]:
    """Where the look at the peer tells of its steps: a line of the terminal that each step replaces."""
    if not sys.stderr.isatty():
        return lambda _: None
    return lambda text: print(f"\r\x1b[K{one_line(text)}…", end="", file=sys.stderr, flush=True)


async def _drive(run: PeerRun, selection: Selection, watch: "_Watch") -> list[Verdict]:
    watching = asyncio.create_task(watch.tick())
    try:
        return await run(selection, watch)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


class _Watch:
    """Tells the console of the run, and keeps the verdicts in case that the run is interrupted."""

    def __init__(self, selection: Selection, arguments: argparse.Namespace) -> None:
        self.console = Console(
            sys.stdout, colour=False if arguments.no_colour else None, verbose=arguments.verbose, quiet=arguments.quiet
        )
        self.verdicts: dict[str, Verdict] = {}
        self._selection = selection
        self._begun = False

    def in_order(self) -> list[Verdict]:
        """The verdicts so far, in the order of the cases."""
        return [self.verdicts[case.info.id] for case in self._selection.cases if case.info.id in self.verdicts]

    def started(self, case: CaseInfo) -> None:
        with self._pipe():
            self._begin()
            self.console.started(case)

    def finished(self, verdict: Verdict) -> None:
        self.verdicts[verdict.case.id] = verdict
        with self._pipe():
            self.console.finished(verdict)

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if self._begun:
                with self._pipe():
                    self.console.tick()

    def end(self, result: RunResult, hint: str) -> None:
        with self._pipe():
            self.console.end(result, hint=hint)

    def say(self, text: str) -> None:
        with self._pipe():
            print(one_line(text), flush=True)

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        chosen = self._selection
        self.console.begin(
            [case.info for case in chosen.cases], clauses=CLAUSES, declared=chosen.declared, known=chosen.known,
            strict=chosen.strict,
        )  # fmt: skip

    @contextlib.contextmanager
    def _pipe(self) -> Iterator[None]:
        """A reader that has seen enough does not end the run: its verdict and its reports are wanted all the same."""
        try:
            yield
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
