"""From messages on a wire to entries of a history: what a server sent on one socket, and what it was asked."""

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from loadtests.faults.history import Asked, Entry, Sent, alias, digest

__all__ = ["SocketRecorder"]

_UNNUMBERED: Final = frozenset({"heartbeat", "gap"})


class _Update(msgspec.Struct, gc=False):
    address: str
    price: str
    version: int | None = None


class _Held(msgspec.Struct, gc=False):
    token: str


class _Data(msgspec.Struct, rename="camel"):
    """Whatever the types of messages may carry; each message has its own few."""

    address: str | None = None
    price: str | None = None
    version: int | None = None
    updates: list[_Update] | None = None
    action: Literal["subscribe", "unsubscribe"] | None = None
    status: str | None = None
    tokens: list[str] | None = None
    connection_id: str | None = None
    session: str | None = None
    resumed: bool = False
    reason: str | None = None
    subscriptions: list[_Held] | None = None
    stream: str | None = None
    code: str | None = None
    from_: int | None = msgspec.field(name="from", default=None)
    to: int | None = None


class _Message(msgspec.Struct):
    type: str
    sequence: int
    timestamp: int
    data: _Data


class _Request(msgspec.Struct):
    class Data(msgspec.Struct):
        sequence: int | None = None
        from_: int | None = msgspec.field(name="from", default=None)
        to: int | None = None

    type: str
    data: Data | None = None


_decode_message = msgspec.json.Decoder(_Message).decode
_decode_request = msgspec.json.Decoder(_Request).decode


class SocketRecorder:
    """Turns the messages of one socket into entries, given to ``add`` in the order of the calls."""

    __slots__ = ("_add", "_client", "_held", "_socket", "closing", "session")

    def __init__(self, client: str, socket: int, add: Callable[[Entry], None]) -> None:
        self.session = f"socket-{socket}"  # until its first message tells
        self.closing = False  # the server announced the end
        self._client = client
        self._socket = socket
        self._add = add
        self._held: set[str] = set()

    def sent(self, t: int, text: bytes) -> Sent:
        """The server sent ``text``."""
        message = _decode_message(text)
        data = message.data
        kind = message.type
        if kind == "token_update" and data.address is not None and data.price is not None:
            updates: tuple[tuple[str, int | None, str], ...] = ((data.address, data.version, data.price),)
            entry = Sent(t, self._client, self._socket, self.session, kind, message.sequence, digest(text),
                         message.timestamp, True, updates)  # fmt: skip
            self._add(entry)
            return entry
        if kind == "connection":
            if data.status == "connected" and data.connection_id is not None and not self.closing:
                self.session = data.connection_id if data.session is None else alias(data.session)
            elif data.status != "connected":
                self.closing = True
        tokens = tuple(data.tokens or ())
        if data.subscriptions is not None:
            tokens = tuple(held.token for held in data.subscriptions)
        entry = Sent(
            t,
            self._client,
            self._socket,
            self.session,
            kind,
            message.sequence,
            digest(text),
            message.timestamp,
            numbered=kind not in _UNNUMBERED and not data.resumed,
            updates=tuple((update.address, update.version, update.price) for update in data.updates or ()),
            action=data.action if data.status == "success" else None,
            tokens=tokens if data.status != "error" or kind == "connection" else (),
            connection_id=data.connection_id,
            resumed=data.resumed,
            reason=data.reason if data.reason is not None else data.code,
            stream=data.stream,
            first=data.from_,
            last=data.to,
        )
        self._add(entry)
        return entry

    def received(self, t: int, text: str | bytes) -> None:
        """The server got ``text`` from the client."""
        try:
            request = _decode_request(text)
        except msgspec.DecodeError:
            return  # nonsense on purpose
        data = request.data
        if data is None:
            return
        if request.type == "replay" and data.from_ is not None and data.to is not None:
            self._add(Asked(t, self._client, self._socket, "replay", data.from_, data.to))
        elif request.type == "ack" and data.sequence is not None:
            self._add(Asked(t, self._client, self._socket, "ack", 0, data.sequence))
