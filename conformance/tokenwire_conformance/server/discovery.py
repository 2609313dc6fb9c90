"""What has to be known of a server before its cases: that it is there, and which names it takes."""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import h11

from tokenwire_conformance.figures import CONNECTION_TIMEOUT_S
from tokenwire_conformance.model import NotTestableError, ViolationError
from tokenwire_conformance.server.bench import Bench, ServerFacts, made_up_name
from tokenwire_conformance.server.peer import ConnectFailedError, Peer
from tokenwire_conformance.wire.messages import shown
from tokenwire_conformance.wire.target import Target
from tokenwire_conformance.wire.wire import Clock, EndedError, SilenceError, cut

__all__ = ["ALL_CAPABILITIES", "TokensNeededError", "UnreachableError", "discover"]

ALL_CAPABILITIES: Final = ("batch", "channels", "details", "heartbeat", "resume", "zstd")
_MADE_UP: Final = 150
_TRY: Final = 3
_VALUES: Final = 8
_MAX_LIST_BYTES: Final = 4 * 1_048_576
_MAX_NAMES: Final = 1_200
_ENOUGH_NAMES: Final = 1_010  # more than one message may name
_LOOK_S: Final = 30.0


class UnreachableError(Exception):
    """There is no usable WebSocket connection; nothing can be tested."""


class TokensNeededError(Exception):
    """The server refuses made-up names and lists none, or refuses those that the user named: others are needed."""


@dataclass(frozen=True, slots=True)
class _Names:
    tokens: tuple[str, ...]
    given: bool
    accepts_any: bool


async def discover(
    target: Target, *, tokens: Sequence[str] = (), update_interval_s: float, clock: Clock,
    progress: Callable[[str], None] = lambda _: None,
) -> ServerFacts:  # fmt: skip
    """Look at the server once: reach it, find names, see which have values and what is granted.

    Raises:
        UnreachableError: No WebSocket connection.
        TokensNeededError: No name to subscribe to is known.
    """
    facts = ServerFacts(target=target, update_interval_s=update_interval_s, clock=clock)
    bench = Bench(facts, "discovery")
    try:
        progress(f"connecting to {target.host}:{target.port}")
        peer = await bench.connect()
        try:
            first = await peer.hello()
        except (SilenceError, EndedError):
            # A server that says nothing is there all the same: the cases will tell what it lacks.
            return replace(facts, tokens=tuple(tokens) or _made_up(), given=bool(tokens))
        if first.type == "error":
            raise UnreachableError(f"the server turns connections away: {first.brief()}")
        names = await _names(peer, target, tokens, progress)
        resolved, live = await _look(bench, names.tokens, update_interval_s, progress, given=names.given)
        granted = await _granted(bench)
        return replace(
            facts, tokens=resolved, live=live, given=names.given, accepts_any=names.accepts_any, granted=granted
        )
    except ConnectFailedError as error:
        raise UnreachableError(str(error)) from error
    finally:
        await bench.close()


def _made_up() -> tuple[str, ...]:
    return tuple(made_up_name(f"Conformance{number}x") for number in range(_MADE_UP))


async def _names(peer: Peer, target: Target, tokens: Sequence[str], progress: Callable[[str], None]) -> _Names:
    invented = _made_up()
    answer = await peer.subscribe(invented[:1])
    accepts_any = bool(answer.accepted())
    if tokens:
        return _Names(tuple(dict.fromkeys(tokens)), given=True, accepts_any=accepts_any)
    # Only a refusal tells that names are needed; who answers something else is tested with what there is.
    if accepts_any or not (answer.refused() or answer.of("error")):
        return _Names(invented, given=False, accepts_any=accepts_any)
    progress("asking GET /api/v1/tokens for names")
    listed = await _listed(target)
    if not listed:
        raise TokensNeededError(
            "this server refuses made-up names and lists none under GET /api/v1/tokens: name tokens that it knows, at "
            "least 101 for every case, with --tokens A,B,… or --tokens @FILE"
        )
    return _Names(tuple(listed), given=False, accepts_any=False)


async def _look(
    bench: Bench, names: Sequence[str], interval_s: float, progress: Callable[[str], None], *, given: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How the server writes the names, and which have values: subscribed to in parts, as many as are allowed."""
    peer = await bench.strict()
    size = min(100, peer.limit) if peer.limit > 0 else 100
    resolved: dict[str, None] = {}
    refused: list[Any] = []
    codes: list[Any] = []
    live: dict[str, None] = {}
    deadline_s = asyncio.get_running_loop().time() + _LOOK_S
    for begin in range(0, len(names), size):
        if len(resolved) >= _ENOUGH_NAMES or asyncio.get_running_loop().time() > deadline_s:
            # The rest is taken for what it was named; that costs a server that is slow no more time.
            resolved |= dict.fromkeys(names[begin:])
            break
        part = names[begin : begin + size]
        progress(f"subscribing to {len(names)} names ({begin + len(part)})")
        answer = await peer.subscribe(part)
        accepted = [name for name in answer.accepted() if isinstance(name, str)]
        refused += answer.refused()
        codes += answer.codes()
        # A name may come back as the address it stands for; what was refused is left to the cases.
        resolved |= dict.fromkeys(accepted)
        if begin == 0 and not accepted and not answer.refused():
            break  # it answers nothing; waiting for values would only take time
        if begin == 0:
            live |= await _values(peer, answer.messages, interval_s)
        if begin + size < len(names):
            await peer.unsubscribe(accepted or part)
    if given and (refused or codes) and not resolved:
        told = ", ".join(dict.fromkeys(map(str, codes))) or "with the status error"
        raise TokensNeededError(f"the server refuses the tokens you named: {told}; name some that it knows")
    if given and refused:
        progress(f"warning: the server refuses {len(refused)} of the {len(names)} tokens you named: {shown(refused)}")
    return tuple(resolved) or tuple(names), tuple(name for name in resolved if name in live)


async def _values(peer: Peer, seen: Iterable[Any], interval_s: float) -> dict[str, None]:
    live: dict[str, None] = {}
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + interval_s + 2
    pending = list(seen)
    while True:
        for message in pending:
            if message.type == "token_update" and isinstance(message.data.get("address"), str):
                live[message.data["address"]] = None
        if len(live) >= _VALUES or loop.time() >= deadline_s:
            return live
        try:
            pending = [await peer.receive(max(0.0, deadline_s - loop.time()))]
        except (SilenceError, EndedError):
            return live


async def _granted(bench: Bench) -> frozenset[str]:
    granted: set[str] = set()
    try:
        peer = await bench.connect(caps=ALL_CAPABILITIES)
        await bench.greet(peer)
        granted |= peer.granted
    except (ConnectFailedError, ViolationError, NotTestableError):
        pass  # the cases of the endpoint will tell
    return frozenset(granted)


async def _listed(target: Target) -> list[str]:
    """The addresses under ``GET /api/v1/tokens``, as far as they can be had."""
    names: dict[str, None] = {}
    cursor = ""
    for _ in range(20):
        page = await _get(target, f"{target.base}/api/v1/tokens?limit=200{cursor}")
        rows = page.get("data") if isinstance(page, dict) else None
        if not isinstance(rows, list):
            break
        before = len(names)
        for row in rows:
            if isinstance(row, dict) and isinstance(row.get("address"), str):
                names[row["address"]] = None
        following = page.get("nextCursor")
        if not isinstance(following, str) or not following or len(names) == before or len(names) >= _MAX_NAMES:
            break
        cursor = f"&cursor={following}"
    return list(names)[:_MAX_NAMES]


async def _get(target: Target, path: str) -> Any:
    """The JSON under ``path`` of the same server, or ``None``."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(CONNECTION_TIMEOUT_S):
            if target.tls:
                reader, writer = await asyncio.open_connection(
                    target.host, target.port, ssl=target.tls, server_hostname=target.host
                )
            else:
                reader, writer = await asyncio.open_connection(target.host, target.port)
            http = h11.Connection(h11.CLIENT)
            headers = [("Host", target.authority), ("Connection", "close"), ("Accept", "application/json")]
            writer.write(http.send(h11.Request(method="GET", target=path, headers=[*headers, *target.headers])) or b"")
            body = bytearray()
            while len(body) <= _MAX_LIST_BYTES:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await reader.read(65_536))
                elif isinstance(event, h11.Response) and event.status_code != 200:
                    return None
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                    return json.loads(body)
            return None
    except (OSError, TimeoutError, h11.ProtocolError, ValueError, RecursionError):
        return None
    finally:
        if writer is not None:
            cut(writer)
