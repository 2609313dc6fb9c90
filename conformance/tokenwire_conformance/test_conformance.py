"""The cases as tests: ``pytest --pyargs tokenwire_conformance --tokenwire-url ws://…``.

All selected cases run once, side by side, on a thread of their own; each test waits for the verdict on its case.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Final

import pytest

from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.drive import NothingTestedError, PeerRun, client_run, server_run
from tokenwire_conformance.model import CaseInfo, Role, Status, Verdict, judge
from tokenwire_conformance.options import OptionError, Selection, selection_of, tokens_of
from tokenwire_conformance.outcome import is_failing
from tokenwire_conformance.pytest_plugin import PROBLEM, SUMMARY
from tokenwire_conformance.reports.text import clip, one_line, printable

__all__: list[str] = []

_NEEDED: Final = (
    "the conformance suite needs somebody to test: --tokenwire-url ws://… for a server, or --tokenwire-exec "
    "'client {url}' for a client"
)
_LOG_LINES: Final = 20
_TEXT_CHARS: Final = 300
_STOP_S: Final = 30.0
_SELECTION: Final = pytest.StashKey[Selection]()
_RUN: Final = pytest.StashKey[PeerRun]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each case."""
    config = metafunc.config
    try:
        selection, run = _asked_for(config)
    except (OptionError, ModuleNotFoundError) as error:
        extra = "" if isinstance(error, OptionError) else "; install it with pip install 'tokenwire[conformance]'"
        config.stash[PROBLEM] = f"{error}{extra}"
        metafunc.parametrize("case_id", [])
        return
    config.stash[_SELECTION], config.stash[_RUN] = selection, run
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


def test_case(case_id: str, verdicts: "_Background", pytestconfig: pytest.Config) -> None:
    """The verdict on one case."""
    __tracebackhide__ = True
    selection = verdicts.selection
    try:
        verdict = verdicts.of[case_id].result()
    except NothingTestedError as error:
        pytest.exit(f"tokenwire conformance: not tested: {one_line(str(error))}", returncode=3)
    listed = case_id in selection.known
    failing = is_failing(verdict.status, selection.strict)
    if listed and failing:
        pytest.xfail(f"known failure, {selection.known.where(case_id)}")
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


def _asked_for(config: pytest.Config) -> tuple[Selection, PeerRun]:
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
            return selection, client_run(command)
        except LaunchError as error:
            raise OptionError(f"--tokenwire-exec: {error}") from error
    from tokenwire_conformance.wire.target import TargetError, parse_target  # noqa: PLC0415 - only for servers

    tokens = config.getoption("--tokenwire-tokens")
    try:
        return selection, server_run(parse_target(url), tokens=tokens_of(tokens) if tokens is not None else ())
    except TargetError as error:
        raise OptionError(str(error)) from error


class _Background:
    """The run on a thread; ``of`` has the future verdict of each case."""

    def __init__(self, run: PeerRun, selection: Selection) -> None:
        self.selection: Final = selection
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
            problem = error
        for future in self.of.values():
            if not future.done():
                future.set_exception(problem)


def _failure(verdict: Verdict, selection: Selection) -> str:
    case = verdict.case
    lines = [f"{verdict.status.value} {case.id}: {case.title}", f"sent:     {case.sends}", f"expected: {case.expects}"]
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


def _shown(text: str) -> str:
    return printable(clip(text, _TEXT_CHARS))
