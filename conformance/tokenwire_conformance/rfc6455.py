"""The profile ``rfc6455``: Autobahn's cases for the WebSocket protocol itself, run by kosoku (extra ``rfc6455``).

Autobahn expects a server that echoes, and a server of Token Data does not. So only what needs no echo is judged: data
messages count neither as missing nor as superfluous, the pongs have to be exact and in order, and the connection has
to end where it must. Close codes are only remarked on, since RFC 6455 asks for none. Groups 1 (echo), 9 and 10
(large echoes), 12 and 13 (compressed echoes) would judge nothing and are left out.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from tokenwire_conformance.model import NotTestableError
from tokenwire_conformance.server.bench import SERVER, Bench

__all__ = ["GROUPS", "MISSING", "judged"]

MISSING: Final = "the profile rfc6455 needs a further package: pip install 'tokenwire[rfc6455]'"
GROUPS: Final = {
    "S-RF-01": ("2", "Pings and pongs", "pings with and without payload, too long ones, and pongs nobody asked for",
                "each ping of up to 125 bytes is answered with its payload, in order; a longer one ends the connection",
                ),
    "S-RF-02": ("3", "Reserved bits", "frames whose reserved bits are set without an extension that uses them",
                "the connection is failed"),
    "S-RF-03": ("4", "Reserved opcodes", "frames with opcodes that have no meaning", "the connection is failed"),
    "S-RF-04": ("5", "Fragmentation",
                "fragmented pings, continuations without a beginning, and pings between the fragments of a message",
                "fragments out of order fail the connection; the pings between fragments are answered"),
    "S-RF-05": ("6", "UTF-8", "text with valid and invalid UTF-8, whole and in fragments",
                "invalid text fails the connection; valid text does not"),
    "S-RF-06": ("7", "Closing", "close frames: repeated, too long, with good and bad codes and with a bad reason",
                "the closing handshake is completed, and a close frame that breaks the rules fails the connection"),
}  # fmt: skip
_PARALLEL: Final = 8
_DEADLINE_S: Final = 180.0
_CLAUSE: Final = "EP.websocket"
_REMARKED: Final = ("WRONG CODE", "FAILED BY CLIENT")


def judged(result: Any) -> tuple[str | None, str | None]:
    """A result of Autobahn's (``kosoku.CaseResult``), read without the echo: what is wrong, and what is worth a remark.

    ``expected`` of it are the good courses, ``received`` is what came; an event is a tuple that begins with its kind.
    """
    close, close_text = result.behavior_close.value, result.result_close
    came = _controls(result.received)
    courses = [_controls(course) for course in result.expected.values()]
    if courses and came not in courses:
        return f"expected {_words(courses[0])}, and {_words(came)} came", None
    echo = all(any(event[0] == "message" for event in course) for course in result.expected.values())
    if echo and result.dropped_by_me and result.expected_close.get("closedByMe"):
        return None, None  # kosoku waited for the echo with the close, and the server was content
    if close in _REMARKED:
        return None, close_text
    return (
        (close_text or f"the connection ended badly: {close}", None) if close in {"FAILED", "UNCLEAN"} else (None, None)
    )


def _controls(events: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [tuple(event) for event in events if event[0] != "message"]


def _words(events: Sequence[Sequence[Any]]) -> str:
    if not events:
        return "no control frame"
    kinds = [f"{event[0]} {str(event[1])[:20]!r}" if len(event) > 1 else str(event[0]) for event in events[:5]]
    return ", ".join(kinds) + (f" and {len(events) - 5} more" if len(events) > 5 else "")


def _case(group: str) -> Callable[[Bench], Coroutine[Any, Any, None]]:
    async def run(bench: Bench) -> None:
        try:
            from kosoku import FailureError, run_fuzzingclient  # noqa: PLC0415 - an extra
        except ImportError:
            raise NotTestableError(MISSING) from None
        target = bench.facts.target
        bench.need(not target.headers, "kosoku, which runs this profile, cannot send headers of one's own")
        bench.need(target.tls is None, "kosoku, which runs this profile, is not used over TLS; test ws:// directly")
        # A server that takes no connection at all would look like one that breaks every rule.
        await bench.strict()
        try:
            results = await run_fuzzingclient(target.url(), [f"{group}.*"], None, concurrency=_PARALLEL)
        except FailureError as error:  # also of every case that only lacks the echo, so the results are read anyway
            results = error.results
            if not results:
                raise NotTestableError(f"kosoku could not run: {error}") from None
        except (OSError, RuntimeError) as error:
            raise NotTestableError(f"kosoku could not run: {error}") from None
        bench.note(f"{len(results)} of Autobahn's cases")
        for result in results:
            wrong: str | None
            remark: str | None
            if result.behavior.value in {"UNIMPLEMENTED", "ERROR"}:
                wrong, remark = f"the case could not be run: {result.result}", None
            else:
                wrong, remark = judged(result)
            about = f"Autobahn {result.case_id} ({' '.join(result.description.split())})"
            bench.expect(wrong is None, _CLAUSE, f"{about}: {wrong}")
            if remark is not None:
                bench.note(f"{about}: {remark}")

    return run


def _register() -> None:
    for case_id, (group, title, sends, expects) in GROUPS.items():
        run = _case(group)
        run.__doc__ = f"{title} as RFC 6455 has them (Autobahn's group {group})."
        SERVER.case(
            case_id, "rfc6455", _CLAUSE, sends=sends, expects=f"{expects}; data messages are not judged",
            why="The protocol rests on RFC 6455, and so does every client's library.", deadline_s=_DEADLINE_S,
        )(run)  # fmt: skip


_register()
