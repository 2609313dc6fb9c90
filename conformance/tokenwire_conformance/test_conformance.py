"""The cases as tests: ``pytest --pyargs tokenwire_conformance --tokenwire-url ws://…``.

All selected cases run once, side by side, on a thread of their own; each test waits for the verdict on its case.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import datetime
from typing import Final

import pytest

from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.drive import NothingTestedError, PeerRun, client_run, result_of, server_run
from tokenwire_conformance.model import CaseInfo, Role, Status, Verdict, judge
from tokenwire_conformance.options import OptionError, Selection, selection_of, tokens_of
from tokenwire_conformance.outcome import RunResult, is_failing
from tokenwire_conformance.pytest_plugin import PROBLEM, SUMMARY
from tokenwire_conformance.reports import ReportError, check_paths, write_reports
from tokenwire_conformance.reports.text import clip, one_line, printable
from tokenwire_conformance.wire.log import redacted, redacted_command

__all__: list[str] = []

_NEEDED: Final = (
    "the conformance suite needs somebody to test: --tokenwire-url ws://… for a server, or --tokenwire-exec "
    "'client {url}' for a client"
)
_LOG_LINES: Final = 20
_TEXT_CHARS: Final = 300
_STOP_S: Final = 30.0
_SELECTION: Final = pytest.StashKey[Selection]()
_TARGET: Final = pytest.StashKey[str]()
_RUN: Final = pytest.StashKey[PeerRun]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each case."""
    config = metafunc.config
    try:
        selection, run, target = _asked_for(config)
        check_paths(**_paths(config))
    except (OptionError, ReportError, ModuleNotFoundError) as error:
        extra = (
            ""
            if not isinstance(error, ModuleNotFoundError)
            else "; install it with pip install 'tokenwire[conformance]'"
        )
        config.stash[PROBLEM] = f"{error}{extra}"
        metafunc.parametrize("case_id", [])
        return
    config.stash[_SELECTION], config.stash[_RUN], config.stash[_TARGET] = selection, run, target
    names = [case.info.id for case in selection.cases]
    metafunc.parametrize("case_id", names, ids=names)


@pytest.fixture(scope="session")
def verdicts(request: pytest.FixtureRequest) -> "Iterator[_Background]":
    """The run, begun with the first case."""
    config = request.config
    wanted = {item.callspec.params.get("case_id") for item in request.session.items if hasattr(item, "callspec")}
    selection = config.stash[_SELECTION]
    chosen = tuple(case for case in selection.cases if case.info.id in wanted)
    # What -k and the like take out of the collection is not run either.
    background = _Background(
        config.stash[_RUN],
        Selection(selection.profiles, chosen, selection.declared, selection.known, selection.strict),
    )
    background.thread.start()
    try:
        yield background
    finally:
        background.stop()
        _report(config, background)


def test_case(case_id: str, verdicts: "_Background", pytestconfig: pytest.Config) -> None:
    """The verdict on one case."""
    selection = verdicts.selection
    try:
        verdict = verdicts.of[case_id].result()
    except NothingTestedError as error:
        pytest.exit(f"tokenwire conformance: not tested: {one_line(str(error))}", returncode=3)
    except Exception as error:
        pytest.exit(f"tokenwire conformance: the suite itself is at fault, please report it: {error}", returncode=70)
    if verdict.broken:
        pytest.fail(f"the suite itself is at fault, please report it: {one_line(verdict.reason)}", pytrace=False)
    lifeline = verdicts.run.lifeline
    if lifeline is not None and lifeline.gone is not None and verdict.reason == lifeline.reason:
        pytest.fail(lifeline.gone, pytrace=False)
    listed = case_id in selection.known
    failing = is_failing(verdict.status, selection.strict)
    if listed and failing:
        raise pytest.xfail.Exception(f"known failure, {selection.known.where(case_id)}", pytrace=False)
    if listed and verdict.status is not Status.SKIPPED:
        pytest.fail(f"{case_id} passes and is a known failure: remove {selection.known.where(case_id)}", pytrace=False)
    if verdict.status is Status.SKIPPED:
        pytest.skip(one_line(verdict.reason))
    if failing:
        pytest.fail(_failure(verdict, selection), pytrace=False)
    if verdict.status is not Status.OK:
        lines = pytestconfig.stash.setdefault(SUMMARY, [])
        lines += [
            f"{verdict.status.value} {case_id} {violation.clause} ({CLAUSES[violation.clause].source}): "
            f"{_shown(violation.message)}"
            for violation in verdict.violations
        ]


def _paths(config: pytest.Config) -> dict[str, str | None]:
    return {f"{kind}_path": config.getoption(f"--tokenwire-{kind}") for kind in ("json", "junit", "html")}


def _report(config: pytest.Config, background: "_Background") -> None:
    paths = _paths(config)
    if not any(paths.values()) or not background.of:
        return
    lines = config.stash.setdefault(SUMMARY, [])
    try:
        lines += [f"written: {path}" for path in write_reports(background.result(config.stash[_TARGET]), **paths)]
    except ReportError as error:
        lines.append(str(error))


def _asked_for(config: pytest.Config) -> tuple[Selection, PeerRun, str]:
    url, command = config.getoption("--tokenwire-url"), config.getoption("--tokenwire-exec")
    if bool(url) == bool(command):
        raise OptionError(_NEEDED if not url else "--tokenwire-url and --tokenwire-exec exclude each other")
    selection = selection_of(
        Role.SERVER if url else Role.CLIENT, profiles=config.getoption("--tokenwire-profile"),
        declared=config.getoption("--tokenwire-declare"),
        known_failures=config.getoption("--tokenwire-known-failures"),
    )  # fmt: skip
    if not url:
        from tokenwire_conformance.client.launch import LaunchError  # noqa: PLC0415 - only for clients

        try:
            return selection, client_run(command), redacted_command(command)
        except LaunchError as error:
            raise OptionError(f"--tokenwire-exec: {error}") from error
    from tokenwire_conformance.wire.target import TargetError, parse_target  # noqa: PLC0415 - only for servers

    tokens = config.getoption("--tokenwire-tokens")
    try:
        target = parse_target(url)
        run = server_run(target, tokens=tokens_of(tokens) if tokens is not None else ())
        return selection, run, redacted(target.url())
    except TargetError as error:
        raise OptionError(str(error)) from error


class _Background:
    """The run on a thread; ``of`` has the future verdict of each case."""

    def __init__(self, run: PeerRun, selection: Selection) -> None:
        self.run: Final = run
        self.selection: Final = selection
        self.begun: Final = datetime.now().astimezone()
        self.problem: BaseException | None = None
        self.of: Final[dict[str, Future[Verdict]]] = {case.info.id: Future() for case in selection.cases}
        self.thread: Final = threading.Thread(target=self._work, args=(run,), name="tokenwire-conformance", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def started(self, case: CaseInfo) -> None:
        """Nobody is told."""

    def finished(self, verdict: Verdict) -> None:
        """Hand the verdict to the test that waits for it."""
        self.of[verdict.case.id].set_result(verdict)

    def stop(self) -> None:
        """End the run, if it still goes on, with all its connections."""
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the run is over
                self._loop.call_soon_threadsafe(self._task.cancel)
        self.thread.join(_STOP_S)

    def result(self, target: str) -> RunResult:
        """What the run came to, once it was stopped."""
        told = [future.result() for future in self.of.values() if future.done() and future.exception() is None]
        nothing = isinstance(self.problem, NothingTestedError)
        return result_of(
            self.selection.cases[0].info.role, target, self.selection, self.run, told, started=self.begun,
            interrupted=len(told) < len(self.of) and not nothing, not_tested=str(self.problem) if nothing else "",
        )  # fmt: skip

    def _work(self, run: PeerRun) -> None:
        async def all_cases() -> None:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            await run(self.selection, self)

        problem: BaseException = RuntimeError("the run ended without this verdict")
        try:
            asyncio.run(all_cases())
        except asyncio.CancelledError:
            pass
        except Exception as error:  # every test that waits has to hear of it
            self.problem = problem = error
        for future in self.of.values():
            if not future.done():
                future.set_exception(problem)


def _failure(verdict: Verdict, selection: Selection) -> str:
    case = verdict.case
    lines = [
        f"{case.title}: {_shown(_came(verdict))}",
        f"{verdict.status.value} {case.id}",
        f"sent:     {case.sends}",
        f"expected: {case.expects}",
    ]
    for violation in verdict.violations:
        clause = CLAUSES[violation.clause]
        earned = judge(violation, CLAUSES, selection.declared)
        lines += [
            f"{earned.value:<9} {_shown(violation.message)}",
            f"clause:   {clause.id} ({clause.level.value}, {clause.authority.value}, {clause.source}): "
            f'"{one_line(clause.quote)}"',
        ]
    number = next((violation.connection for violation in verdict.violations if violation.connection), None)
    log = next((log for log in verdict.logs if log.number == number), verdict.logs[-1] if verdict.logs else None)
    if log is not None:
        lines.append(f"the last lines of connection {log.number}, {printable(log.url)} (ms, direction, kind, bytes):")
        lines += [
            f"  {entry.at_ms:>7} {entry.direction:<8} {entry.kind:<12} {entry.size:>7}  {_shown(entry.text)}"
            for entry in log.entries[-_LOG_LINES:]
        ]
    return "\n".join(lines)


def _came(verdict: Verdict) -> str:
    return verdict.violations[0].message if verdict.violations else verdict.reason


def _shown(text: str) -> str:
    return printable(clip(text, _TEXT_CHARS))
