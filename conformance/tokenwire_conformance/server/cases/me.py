"""ME: error messages, and what their levels mean for the connection."""

from collections.abc import Iterator, Sequence
from typing import Final

from tokenwire_conformance.figures import CONNECTION_TIMEOUT_S, PROTOCOL_ERRORS_MAX, REPLY_S, SLACK_S
from tokenwire_conformance.server import checkers
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.checkers import Finding
from tokenwire_conformance.server.over_run import evidence, judge_run, report
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.server.refusal import is_answer, is_refusal, served
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import Received, shown
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__: list[str] = []

_SENDS = "what every case sends; run alone: a subscribe, a text that is not JSON, an unsubscribe"
CATALOGUE: Final = frozenset(
    {
        "INVALID_JSON", "INVALID_MESSAGE", "UNKNOWN_TYPE", "INVALID_ACTION", "BINARY_NOT_SUPPORTED",
        "MESSAGE_TOO_LARGE", "INVALID_TOKEN", "AMBIGUOUS_TOKEN", "TOKEN_NOT_FOUND", "SUBSCRIPTION_LIMIT",
        "BATCH_LIMIT", "SEQUENCE_GAP", "RATE_LIMITED", "MAX_CONNECTIONS", "UNAUTHORIZED", "FORBIDDEN",
        "RESUME_FAILED", "ACK_OUT_OF_RANGE", "REPLAY_UNAVAILABLE", "SLOW_CONSUMER", "UPSTREAM_STALE",
        "UPSTREAM_UNAVAILABLE", "DATA_REJECTED", "SERVER_SHUTDOWN", "INTERNAL_ERROR",
    }
)  # fmt: skip
"""The codes of the protocol page, a copy of the suite's own."""


@SERVER.case(
    "S-ME-01", "core", "ME.fields", "ME.code", "ME.message", "ME.level",
    sends=_SENDS,
    expects="data of every error message holds code (a string), message (a string), level (fatal, error or warning), "
    "and nothing else",
    why="A client decides by the level whether to give up, and may be as strict as the specification's format.",
    over_run=True,
)  # fmt: skip
async def fields(bench: Bench) -> None:
    """Error messages hold exactly the three fields, in their types."""
    await judge_run(bench, "ME.fields", checkers.error_data, kind="error")


@SERVER.case(
    "S-ME-02", "core", "ME.catalogue",
    sends=_SENDS, expects="the code of every error message is one of the catalogue on the protocol page",
    why="A program can only react to codes that it can know.",
    over_run=True,
)  # fmt: skip
async def catalogue(bench: Bench) -> None:
    """Codes are those of the catalogue."""
    await judge_run(bench, "ME.catalogue", _unknown_codes, kind="error")


def _unknown_codes(messages: Sequence[Received]) -> Iterator[Finding]:
    for index, message in enumerate(messages):
        code = message.data.get("code")
        if message.type == "error" and isinstance(code, str) and code not in CATALOGUE:
            yield Finding("ME.catalogue", f"the code {shown(code, 80)} is none of the catalogue", index)


@SERVER.case(
    "S-ME-03", "core", "ME.error-lives", "ME.fatal-ends",
    sends="a text that is not JSON; after the error message a subscribe",
    expects="if the error's level is error or warning, the subscribe is answered; if it is fatal, the connection ends",
    why="The level tells the client whether it still has a connection.",
)  # fmt: skip
async def level_of_a_refusal(bench: Bench) -> None:
    """The level of a refusal tells whether the connection lives on."""
    peer = await bench.strict()
    await peer.send_text("this is not JSON")
    try:
        error = await peer.until(is_refusal)
    except (SilenceError, EndedError) as missing:
        bench.need(False, f"a text that is not JSON earned no error message: {missing}")
        raise
    if error.data.get("level") == "fatal":
        await _ends(bench, peer, error)
    else:
        clause = "ME.warning-lives" if error.data.get("level") == "warning" else "ME.error-lives"
        await served(bench, peer, clause, f"after {error.brief()}")


@SERVER.case(
    "S-ME-04", "core", "ME.fatal-ends",
    sends="a binary message; if no fatal error answers it, on another connection ten texts that are not JSON",
    expects=f"after an error of level fatal the server closes within {CONNECTION_TIMEOUT_S + SLACK_S:g} s",
    why="A client that was told fatal reconnects; a connection that stays would be held twice.",
    deadline_s=30,
)  # fmt: skip
async def fatal_ends(bench: Bench) -> None:
    """After a fatal error the connection ends."""
    peer, error = await _fatal(bench)
    await _ends(bench, peer, error)


@SERVER.case(
    "S-ME-05", "core", "ME.end-order",
    sends="a binary message; if no fatal error answers it, on another connection ten texts that are not JSON",
    expects="the fatal error, then a connection message with the status disconnected or error, then the close frame",
    why="The last words tell a client without access to close codes, such as a proxy's user, that this is the end.",
    deadline_s=30,
)  # fmt: skip
async def end_order(bench: Bench) -> None:
    """A fatal error is followed by a connection message and the close frame."""
    peer, error = await _fatal(bench)
    try:
        code = await peer.closing(CONNECTION_TIMEOUT_S + SLACK_S)
    except SilenceError as silence:
        bench.fail("ME.end-order", f"after {error.brief()}: {silence}", peer)
    bench.expect(code is not None, "ME.end-order", "the connection ended without a close frame", peer)
    rest = [(message.type, message.data.get("status")) for message in peer.unread()]
    last_words = len(rest) == 1 and rest[0] in (("connection", "disconnected"), ("connection", "error"))
    bench.expect(last_words, "ME.end-order", f"between the fatal error and the close frame came {shown(rest)}", peer)


async def _fatal(bench: Bench) -> tuple[Peer, Received]:
    """A connection that has just been sent a fatal error, and that error."""
    binary = await bench.strict()
    await binary.send_frame(Opcode.BINARY, b"\x00\x01")
    refusals = await bench.strict()
    for _ in range(PROTOCOL_ERRORS_MAX):
        await refusals.send_text("this is not JSON")
    for peer, timeout_s in ((binary, 1.0), (refusals, REPLY_S)):
        try:
            return peer, await peer.until(_is_fatal, timeout_s)
        except (SilenceError, EndedError):
            continue
    bench.need(False, "no bad input earned a fatal error")
    raise AssertionError


def _is_fatal(message: Received) -> bool:
    return message.type == "error" and message.data.get("level") == "fatal"


async def _ends(bench: Bench, peer: Peer, error: Received) -> None:
    try:
        await peer.closing(CONNECTION_TIMEOUT_S + SLACK_S)
    except SilenceError as silence:
        bench.fail("ME.fatal-ends", f"after {error.brief()}: {silence}", peer)


@SERVER.case(
    "S-ME-06", "core", "ME.warning-lives",
    sends="a subscribe with the sequence 1, one with the sequence 9, which earns a SEQUENCE_GAP warning, and one more",
    expects="if a warning came: an answer to the last request",
    why="A warning says that the service is degraded; the connection is not.",
)  # fmt: skip
async def warning_lives(bench: Bench) -> None:
    """After a warning the connection lives on."""
    peer = await bench.strict()
    for sequence in (1, 9):
        request = peer.subscription("subscribe", bench.tokens(1), sequence=sequence)
        await peer.send_json(request)
        try:
            await peer.until(is_answer)
        except (SilenceError, EndedError) as error:
            if peer.ended_s is not None and any(map(_is_warning, peer.messages)):
                bench.fail("ME.warning-lives", f"after a warning: {error}", peer)
            bench.need(False, f"a request with the sequence {sequence} was not served: {error}")
    try:
        await peer.until(_is_warning, 1.0)
    except (SilenceError, EndedError):
        # It may have come before the answer.
        told = "the server warns of nothing that the suite can bring about"
        bench.need(any(map(_is_warning, peer.messages)), told)
    warning = next(message for message in peer.messages if _is_warning(message))
    await served(bench, peer, "ME.warning-lives", f"after {warning.brief()}")


def _is_warning(message: Received) -> bool:
    return message.type == "error" and message.data.get("level") == "warning"


@SERVER.case(
    "S-ME-07", "core", "ME.end-order", "ME.fatal-ends",
    sends=_SENDS,
    expects=f"behind an error of level fatal comes a connection message or nothing, and nothing at all "
    f"{CONNECTION_TIMEOUT_S + SLACK_S:g} s later",
    why="A client stops reading at a fatal error.",
    over_run=True,
)  # fmt: skip
async def nothing_after_fatal(bench: Bench) -> None:
    """Nothing but a connection message comes behind a fatal error."""
    found = await evidence(bench, "ME.end-order", "error")
    seen = any(_is_fatal(message) for history in found for message in history.peer.messages)
    bench.need(seen, "no fatal error came on any connection")
    report(bench, ((h, finding) for h in found for finding in checkers.after_fatal(h.peer.messages)))
