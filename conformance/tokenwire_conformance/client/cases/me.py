"""ME: error messages and their levels."""

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import HEAR_S, lives, shown
from tokenwire_conformance.client.link import Link
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []

_LEAVE_S = 15.0


def _kept(number: int, code: str, level: str, clause: str, title: str, why: str) -> None:
    async def case(bench: ClientBench) -> None:
        await bench.start()
        link = await bench.session()
        await link.error(code, level)
        await lives(bench, link, clause, f"an error message with the code {code} and the level {level}")

    case.__doc__ = title
    CLIENT.case(
        f"C-ME-{number:02}", "core", clause,
        sends=f"an error message with the code {code} and the level {level}, and 3 s later an update",
        expects="the connection is kept, and the update reaches the application",
        why=why,
    )(case)  # fmt: skip


_kept(
    1, "UPSTREAM_UNAVAILABLE", "warning", "ME.client-error-lives", "The connection is kept at a warning.",
    "After a warning the service goes on.",
)  # fmt: skip
_kept(
    2, "INVALID_MESSAGE", "error", "ME.client-error-lives", "The connection is kept at an error.",
    "One request failed, and everything else goes on.",
)  # fmt: skip
_kept(
    3, "CONFORMANCE_UNHEARD_OF", "error", "ME.client-unknown-code", "An unknown code of the level error is survived.",
    "Codes are added over time; the level says what they mean for the connection.",
)  # fmt: skip


async def _leaves(bench: ClientBench, link: Link, clause: str, code: str) -> None:
    await link.error(code, "fatal")
    try:
        await link.closing(_LEAVE_S)
    except SilenceError:
        text = f"{_LEAVE_S:g} s after a fatal error with the code {code} the client still held the connection"
        bench.fail(clause, text, link.number)


def _fatal(number: int, code: str, clause: str, title: str, why: str) -> None:
    async def case(bench: ClientBench) -> None:
        await bench.start()
        link = await bench.session()
        await _leaves(bench, link, clause, code)

    case.__doc__ = title
    CLIENT.case(
        f"C-ME-{number:02}", "core", clause, deadline_s=40,
        sends=f"an error message with the code {code} and the level fatal, and nothing more; pings are answered",
        expects="the client ends the connection by itself within 15 s",
        why=why,
    )(case)  # fmt: skip


_fatal(
    4, "INTERNAL_ERROR", "ME.client-fatal-ends", "A connection is over after a fatal error.",
    "A server that failed may not be able to close any more.",
)  # fmt: skip
_fatal(
    5, "CONFORMANCE_UNHEARD_OF", "ME.client-unknown-code", "An unknown code of the level fatal ends the connection.",
    "Codes are added over time; the level says what they mean for the connection.",
)  # fmt: skip


@CLIENT.case(
    "C-ME-06", "core", "ME.client-reports",
    sends="error messages with the levels warning and error, then one with the level fatal",
    expects="the client prints an error event for each, with its code and its level",
    why="The application has to know which of its requests failed.",
)  # fmt: skip
async def reported(bench: ClientBench) -> None:
    """Errors are told to the application with their levels."""
    bench.need_events("error")
    await bench.start()
    link = await bench.session()
    for code, level in (("UPSTREAM_STALE", "warning"), ("INVALID_MESSAGE", "error"), ("INTERNAL_ERROR", "fatal")):
        await _told(bench, link, code, level, "ME.client-reports")


@CLIENT.case(
    "C-ME-07", "core", "ME.client-unknown-code",
    sends="error messages with a code that nobody has heard of, with the levels warning and error",
    expects="the client prints an error event for each, with its level",
    why="A code that is added later has to reach the application, too.",
)  # fmt: skip
async def unknown_reported(bench: ClientBench) -> None:
    """Errors with unknown codes are told to the application."""
    bench.need_events("error")
    await bench.start()
    link = await bench.session()
    for code, level in (("CONFORMANCE_NEW_1", "warning"), ("CONFORMANCE_NEW_2", "error")):
        await _told(bench, link, code, level, "ME.client-unknown-code")


async def _told(bench: ClientBench, link: Link, code: str, level: str, clause: str) -> None:
    await link.error(code, level)
    try:
        event = await bench.event("error", HEAR_S, lambda fields: fields.get("code") == code)
    except SilenceError:
        bench.fail(clause, f"an error message with the code {code} was not told within {HEAR_S:g} s", link.number)
    told = event.fields.get("level")
    text = f"an error message with the code {code} and the level {level} was told with the level {shown(told)}"
    bench.require(told == level, clause, text, link.number)
