"""Cases that judge every connection of the run: what they look at, and how they tell what they found."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tokenwire_conformance.figures import REPLY_S, SLACK_S
from tokenwire_conformance.model import NotTestableError
from tokenwire_conformance.server.bench import Bench, History
from tokenwire_conformance.server.checkers import TYPES, Checker, Finding
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.wire.messages import Received
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__ = ["evidence", "judge_connections", "judge_run", "report"]

_REQUESTS: Final = ("ping", "ack", "replay")
_ENOUGH: Final = 20
"""Messages, or connections, that say enough about a server."""
_SHOWN: Final = 3
"""Findings told for each clause; the rest is counted."""


async def judge_run(bench: Bench, clause: str, checker: Checker, *, kind: str | None = None) -> None:
    """Hold what every strict connection of the run received against ``checker``.

    ``clause`` is violated when there is nothing to judge; the case is skipped when no message of the type ``kind``
    came, if the checker is about that.
    """
    await judge_connections(bench, clause, lambda peer: checker(peer.messages), kind=kind)


async def judge_connections(
    bench: Bench, clause: str, check: Callable[[Peer], Iterable[Finding]], *, kind: str | None = None
) -> None:
    """The same with a check that needs more of a connection than its messages."""
    found = await evidence(bench, clause, kind)
    report(bench, ((history, finding) for history in found for finding in check(history.peer)))


async def evidence(bench: Bench, clause: str, kind: str | None = None) -> list[History]:
    """The strict connections of the run that received something, with one of the case's own where the others saw too
    little or no message of the type ``kind``.

    Requests of extensions take answers that are not strict, so connections that sent one are left out.
    """
    before = _strict(bench.run_histories)
    silent = f"nothing came on any of {len(bench.run_histories)} connections"
    bench.require(len(bench.run_histories) < _ENOUGH or before, clause, silent)
    if sum(len(history.peer.messages) for history in before) < _ENOUGH or not _has(before, kind):
        await _session(bench)
    found = _strict((*bench.run_histories, *bench.histories))
    told = "no connection saw more than one message of the specification's types, so there is nothing to judge"
    bench.require(
        any(sum(_is_ours(m, history.peer) for m in history.peer.messages) > 1 for history in found), clause, told
    )
    bench.need(_has(found, kind), f"no {kind} message came on any connection")
    return found


def report(bench: Bench, findings: Iterable[tuple[History, Finding]]) -> None:
    """Turn findings into violations of the case: the first few of each clause, and how many more there are."""
    count: Counter[str] = Counter()
    for history, finding in findings:
        count[finding.clause] += 1
        if count[finding.clause] <= _SHOWN:
            own = history in bench.histories
            where = "" if own else f" ({history.case_id}, connection {history.peer.number})"
            bench.expect(
                False, finding.clause, f"message {finding.index + 1}{where}: {finding.message}",
                history.peer if own else None,
            )  # fmt: skip
    for clause, number in count.items():
        if number > _SHOWN:
            bench.note(f"{number - _SHOWN} further findings of {clause}")


def _strict(histories: Sequence[History]) -> list[History]:
    return [history for history in histories if history.strict and history.peer.messages and not _extended(history)]


def _extended(history: History) -> bool:
    sent = [value.get("type") for _, value in history.peer.sent_json if isinstance(value, dict)]
    return any(kind in sent for kind in _REQUESTS)


def _has(histories: Sequence[History], kind: str | None) -> bool:
    return kind is None or any(message.type == kind for history in histories for message in history.peer.messages)


def _is_ours(message: Received, peer: Peer) -> bool:
    return message.type in TYPES and bool(message.data) and not peer.is_echo(message)


async def _session(bench: Bench) -> None:
    """Bring about a message of each of the four types; what does not come is up to other cases."""
    peer = await bench.strict()
    with contextlib.suppress(NotTestableError, SilenceError, EndedError):
        tokens = bench.facts.live[:2] or bench.tokens(2)
        await peer.send_json(peer.subscription("subscribe", tokens))
        await peer.send_text("this is not JSON")
        with contextlib.suppress(SilenceError):
            await peer.until(lambda _: _complete(peer), max(REPLY_S, bench.facts.update_interval_s + SLACK_S))
        await peer.send_json(peer.subscription("unsubscribe", tokens))
        await peer.until("subscription")


def _complete(peer: Peer) -> bool:
    return set(TYPES) <= {message.type for message in peer.messages}
