"""Runs a selection of cases against one peer. The command line and the pytest plugin share it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.figures import CONNECTION_TIMEOUT_S, UPDATE_INTERVAL_S
from tokenwire_conformance.model import Role, Status, Verdict
from tokenwire_conformance.options import Selection
from tokenwire_conformance.outcome import RunResult
from tokenwire_conformance.reports.text import one_line
from tokenwire_conformance.runner import CaseBrokeError, Lifeline, Observer
from tokenwire_conformance.wire.log import hide, redacted

if TYPE_CHECKING:
    from tokenwire_conformance.wire.target import Target

__all__ = ["NothingTestedError", "PeerRun", "client_run", "never_judged", "result_of", "server_run"]

_LOOK_S: Final = 120.0
"""What the look at a peer may take beside two update intervals: seconds."""


class NothingTestedError(Exception):
    """No case could begin. The text is one line that says why."""


@dataclass(slots=True)
class PeerRun:
    """One peer, and what is known of it once it was looked at."""

    run: Callable[["PeerRun", Selection, Observer], Awaitable[list[Verdict]]]
    peer: dict[str, str] = field(default_factory=dict)
    """What a reader of the report has to know of the peer."""
    lifeline: Lifeline | None = None
    """Whether the peer went away during the run."""

    async def __call__(self, selection: Selection, observer: Observer) -> list[Verdict]:
        """Look at the peer and run the cases; their verdicts.

        Raises:
            NothingTestedError: No case could begin.
            CaseBrokeError: The run is wrong itself.
        """
        try:
            return await self.run(self, selection, observer)
        except ExceptionGroup as group:  # of the runner's tasks; the first says enough
            first = _first(group)
            raise first if isinstance(first, CaseBrokeError) else CaseBrokeError(_what(first)) from group


def server_run(
    target: "Target", *, tokens: Sequence[str] = (), update_interval_s: float = UPDATE_INTERVAL_S,
    parallel: int | None = None, progress: Callable[[str], None] = lambda _: None,
) -> PeerRun:  # fmt: skip
    """The server at ``target``."""
    from tokenwire_conformance.server.bench import ServerFacts  # noqa: PLC0415
    from tokenwire_conformance.server.discovery import (  # noqa: PLC0415 - what a command needs, and no more
        TokensNeededError,
        UnreachableError,
        discover,
    )
    from tokenwire_conformance.server.run import PARALLEL, run_server_cases  # noqa: PLC0415
    from tokenwire_conformance.wire.wire import Clock  # noqa: PLC0415

    hide(value for _, value in target.headers)

    async def run(self: PeerRun, selection: Selection, observer: Observer) -> list[Verdict]:
        look_s = _LOOK_S + 2 * update_interval_s
        try:
            async with asyncio.timeout(look_s):
                facts = await discover(
                    target, tokens=tokens, update_interval_s=update_interval_s, clock=Clock(), progress=progress
                )
        except TokensNeededError as error:
            if any(case.info.profile != "rfc6455" for case in selection.cases):
                raise NothingTestedError(str(error)) from error
            # What is about WebSocket alone needs no names.
            facts = ServerFacts(target=target, update_interval_s=update_interval_s)
        except UnreachableError as error:
            raise NothingTestedError(f"{error}{_hint(str(error), target)}") from error
        except TimeoutError as error:
            raise NothingTestedError(f"the look at {target.host}:{target.port} took over {look_s:g} s") from error
        origin = "given" if facts.given else "made up" if facts.accepts_any else "as listed by the server"
        self.peer["tokens"] = f"{len(facts.tokens)} {origin}, {len(facts.live)} of them seen with values"
        self.peer["capabilities"] = ", ".join(sorted(facts.granted)) or "none granted"
        self.peer["update interval"] = f"{update_interval_s:g} s"
        self.lifeline = Lifeline(lambda: _listens(target))
        return await run_server_cases(
            facts, selection.cases, clauses=CLAUSES, declared=selection.declared, observer=observer,
            parallel=parallel or PARALLEL, lifeline=self.lifeline,
        )  # fmt: skip

    return PeerRun(run)


def client_run(
    command: str, *, parallel: int | None = None, progress: Callable[[str], None] = lambda _: None
) -> PeerRun:
    """The client that ``command`` starts.

    Raises:
        LaunchError: The command cannot be one.
    """
    from tokenwire_conformance.client.bench import ClientFacts  # noqa: PLC0415
    from tokenwire_conformance.client.launch import ExecLauncher, LaunchError  # noqa: PLC0415
    from tokenwire_conformance.client.run import (  # noqa: PLC0415
        PARALLEL,
        NoClientError,
        look_at_client,
        run_client_cases,
    )

    facts = ClientFacts(launcher=ExecLauncher(command))

    async def run(self: PeerRun, selection: Selection, observer: Observer) -> list[Verdict]:
        progress("starting the client to see that it connects")
        try:
            async with asyncio.timeout(_LOOK_S):
                seen = await look_at_client(facts)
            self.peer["events"] = ", ".join(sorted(seen.events)) or "none printed"
            return await run_client_cases(
                seen, selection.cases, clauses=CLAUSES, declared=selection.declared, observer=observer,
                parallel=parallel or PARALLEL,
            )  # fmt: skip
        except (NoClientError, LaunchError) as error:
            raise NothingTestedError(str(error)) from error
        except TimeoutError as error:
            raise NothingTestedError(f"the look at the client took over {_LOOK_S:g} s") from error

    return PeerRun(run)


def never_judged(verdicts: Iterable[Verdict]) -> Mapping[str, str]:
    """The profiles of which every case was skipped, each with the reasons."""
    of_profile: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        of_profile.setdefault(verdict.case.profile, []).append(verdict)
    return {
        name: "; ".join(dict.fromkeys(verdict.reason for verdict in found))
        for name, found in of_profile.items()
        if all(verdict.status is Status.SKIPPED for verdict in found)
    }


async def _listens(target: "Target") -> bool:
    """Whether a TCP connection can be opened. One that is not answered at all may only be slow."""
    try:
        async with asyncio.timeout(CONNECTION_TIMEOUT_S):
            _, writer = await asyncio.open_connection(target.host, target.port)
    except TimeoutError:
        return True
    except OSError:
        return False
    writer.close()
    return True


def _hint(problem: str, target: "Target") -> str:
    if "HTTP 404" not in problem:
        return ""
    path = redacted(target.path)
    return f": nothing is at the path {path} (the specification's path is only added to a URL that has none)"


def result_of(
    role: Role, target: str, selection: Selection, run: PeerRun, verdicts: Sequence[Verdict], *, started: datetime,
    interrupted: bool = False, not_tested: str = "",
) -> RunResult:  # fmt: skip
    """What a run came to that ends now. ``target`` is for a person and holds no secrets."""
    gone = run.lifeline.gone if run.lifeline else None
    untold = [
        f"nothing of the profile {name} was tested: {one_line(why)}" for name, why in never_judged(verdicts).items()
    ]
    return RunResult(
        role=role, target=target, profiles=selection.profiles, declared=selection.declared,
        started=started.isoformat(timespec="seconds"), verdicts=tuple(verdicts), clauses=CLAUSES, known=selection.known,
        duration_s=max(0.0, (datetime.now().astimezone() - started).total_seconds()), peer=run.peer,
        strict=selection.strict, interrupted=interrupted, not_tested=not_tested,
        gone=run.lifeline.reason if run.lifeline and gone else "", warnings=(gone,) if gone else tuple(untold),
    )  # fmt: skip


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _what(error: BaseException) -> Any:
    return f"{type(error).__name__}: {error}"
