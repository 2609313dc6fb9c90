"""Peers that mean no good never pass, never hang the suite, and are told of in one clear line."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import async_solipsism
import pytest

from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.model import CaseInfo, Role, Status, Verdict
from tokenwire_conformance.options import selection_of
from tokenwire_conformance.outcome import ExitStatus, RunResult, exit_status
from tokenwire_conformance.server.discovery import discover
from tokenwire_conformance.server.run import run_server_cases
from tokenwire_conformance.wire.target import parse_target
from tokenwire_conformance.wire.wire import Clock

from . import hostile
from .hostile import Handler, serving

COMMAND = [sys.executable, "-m", "tokenwire_conformance"]
PAUSE_S = 0.05
"""Between two pieces of an endless peer in virtual time, which only passes when nothing else is to do."""


# --- nobody to test: told at once, in one line -------------------------------------------------------------------
async def command(*arguments: str, limit_s: float) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(limit_s):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


NO_SERVER: list[tuple[Handler, str, str]] = [
    (hostile.silent, "ws", "did not answer the upgrade request within 5 s"),
    (hostile.dropping, "ws", "the connection"),
    (hostile.slow_handshake, "ws", "did not answer the upgrade request within 5 s"),
    (hostile.endless_header, "ws", "not HTTP"),
    (hostile.endless_headers, "ws", "did not answer the upgrade request within 5 s"),
    (hostile.garbage_instead_of_http, "ws", "not HTTP"),
    (hostile.web_page, "ws", "HTTP 200"),
    (hostile.redirect, "ws", "HTTP 302"),
    (hostile.wrong_accept, "ws", "Sec-WebSocket-Accept"),
    (hostile.no_upgrade, "ws", "101 without"),
    (hostile.garbage_instead_of_http, "wss", "no connection to"),
    (hostile.silent, "wss", "did not accept the connection within 5 s"),
    (hostile.dropping, "wss", "no connection to"),
]


async def test_who_is_no_websocket_server_is_not_tested() -> None:
    gate = asyncio.Semaphore(8)  # most of them only wait

    async def one(handler: Handler, scheme: str) -> tuple[int, str, str]:
        async with gate, serving(handler) as port:
            return await command("server", f"{scheme}://127.0.0.1:{port}", limit_s=40)

    results = await asyncio.gather(*(one(handler, scheme) for handler, scheme, _ in NO_SERVER))
    for (_, _, words), (status, out, err) in zip(NO_SERVER, results, strict=True):
        assert status == ExitStatus.NOT_TESTED, err
        assert out == ""
        assert err.count("\n") == 1
        assert words in err


# --- floods in real time: bounded by the suite's own limits -------------------------------------------------------
FLOODS: list[Handler] = [
    hostile.endless_fragments(0),
    hostile.endless_messages(0),
    hostile.huge_frame,
    hostile.bomb,
]


@pytest.mark.proof(only=True)
async def test_a_flood_neither_hangs_nor_passes(tmp_path: Path) -> None:
    async def one(number: int, handler: Handler) -> None:
        async with serving(handler) as port:
            page = tmp_path / f"{number}.html"
            status, out, err = await command(
                *("server", f"ws://127.0.0.1:{port}", "--tokens", "A,B", "--case", "S-MS-01", "--html", str(page)),
                limit_s=240,
            )
        assert (status, err) == (ExitStatus.FAILED, ""), (number, out, err)
        assert "FAILED        S-MS-01" in out
        assert page.stat().st_size < 2_000_000

    await asyncio.gather(*(one(number, handler) for number, handler in enumerate(FLOODS)))


# --- a WebSocket and no Token Data server: all of core, in virtual time -------------------------------------------
TOKENS = tuple(f"TOKEN{number}" for number in range(120))


class _Nobody:
    def started(self, case: CaseInfo) -> None: ...
    def finished(self, verdict: Verdict) -> None: ...


def in_virtual_time(work: Callable[[], Awaitable[Any]]) -> Any:
    loop = async_solipsism.EventLoop()
    try:
        return loop.run_until_complete(work())  # type: ignore[arg-type]
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def core_of(handler: Handler, profiles: Sequence[str] = ("core",)) -> RunResult:
    selection = selection_of(Role.SERVER, profiles=profiles)

    async def run() -> list[Verdict]:
        loop = asyncio.get_running_loop()
        clock = Clock(wall_ms=lambda: hostile.EPOCH_MS + loop.time() * 1000)
        async with serving(handler, "server", 80), asyncio.timeout(3600):
            # Without names, who answers a subscribe with anything but a subscription would not be tested at all.
            facts = await discover(parse_target("ws://server"), tokens=TOKENS, update_interval_s=5, clock=clock)
            return await run_server_cases(
                facts, selection.cases, clauses=CLAUSES, declared=frozenset(), observer=_Nobody()
            )

    verdicts = in_virtual_time(run)
    assert not [verdict.reason for verdict in verdicts if verdict.broken]
    return RunResult(
        role=Role.SERVER, target="ws://server", profiles=tuple(profiles), declared=frozenset(), started="",
        duration_s=0, verdicts=tuple(verdicts), clauses=CLAUSES,
    )  # fmt: skip


HANDSHAKE = {"S-EP-05": "about nothing but the header fields of the handshake, which is correct"}
TEXT = HANDSHAKE | {
    "S-EP-01": "about the path, where a WebSocket is, and something that is sent over it",
    "S-MB-06": "its messages are text",
    "S-MB-09": "its messages are UTF-8 without a byte order mark; that they are no JSON is S-MB-01",
    "S-PF-04": "it agrees on no compression, which is correct",
}
GREETING = HANDSHAKE | {
    "S-EP-01": "about the path, where it is",
    "S-CM-03": "it answers pings",
    "S-CM-09": "it answers a close",
    "S-MB-02": "its first message has the number 1",
    "S-MC-01": "its first message is a correct connection",
    "S-MC-03": "each greeting has an id of its own",
    "S-MC-04": "and the id is in lower case",
    "S-MC-05": "it never says disconnected",
}
VALID = GREETING | {
    **dict.fromkeys((f"S-MB-0{number}" for number in (1, *range(3, 10))), "what it sends is valid, in order and text"),
    "S-MC-02": "its connection message is valid",
    **dict.fromkeys(("S-MU-04", "S-MU-05", "S-MU-06", "S-MU-07"), "its updates are valid, though nobody asked"),
    "S-PF-04": "it agrees on no compression, which is correct",
}

PEERS: dict[str, tuple[Handler, dict[str, str]]] = {
    "silent": (hostile.silent_websocket, HANDSHAKE),
    "closing": (hostile.closing, HANDSHAKE),
    "echo": (hostile.echo, HANDSHAKE),
    "garbage": (hostile.garbage, HANDSHAKE),
    "garbage text": (hostile.garbage_text, TEXT),
    "huge frame": (hostile.huge_frame, HANDSHAKE),
    "bomb": (hostile.bomb, HANDSHAKE),
    "fragments": (hostile.endless_fragments(PAUSE_S), HANDSHAKE),
    "pings": (hostile.endless_pings(PAUSE_S), HANDSHAKE),
    "greeting only": (hostile.greeting_only, GREETING),
    "greeting, then an echo": (hostile.greeting_echo, GREETING),
    "endless valid messages": (hostile.endless_messages(PAUSE_S), VALID),
}
"""Each peer with the cases that it may pass, and why that is right."""


@pytest.mark.parametrize(("handler", "right"), PEERS.values(), ids=PEERS)
def test_a_peer_passes_nothing_but_what_it_does_right(handler: Handler, right: dict[str, str]) -> None:
    result = core_of(handler)
    assert exit_status(result) is ExitStatus.FAILED
    passed = {v.case.id for v in result.verdicts if v.status in {Status.OK, Status.INFORMATIONAL}}
    assert passed <= set(right), sorted(passed - set(right))
