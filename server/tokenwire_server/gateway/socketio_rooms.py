"""Who is in which room, and what waits for whom. Pure: the shell writes what :meth:`Peer.take` gives.

A room is a token; one more, ``all``, is every token, in batches. What waits is a set of rooms, not of values: whoever
reads slowly gets the newest value later, and holds no memory here meanwhile.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from tokenwire_schemas import limits
from tokenwire_schemas.codec import echo_name, encode_data
from tokenwire_schemas.errors import CATALOGUE, ErrorCode
from tokenwire_schemas.messages import ErrorData
from tokenwire_server.core.board import Board, Row, Value
from tokenwire_server.core.subscribing import Resolved
from tokenwire_server.gateway.socketio_packets import event_frame
from tokenwire_server.validation.messages import is_usable_name

__all__ = ["ALL", "BATCH_TOKENS", "MAX_DETAIL_CHARS", "MAX_NOTICES", "Names", "Peer", "Refused", "Rooms", "error_frame"]

ALL: Final = "all"
BATCH_TOKENS: Final = 250  # in one tokens_update: about 60 KB
MAX_NOTICES: Final = 64  # error events that wait for one socket; more are not said
MAX_DETAIL_CHARS: Final = 1024

_TAKE_BYTES: Final = limits.WRITE_HIGH_WATER_BYTES


def error_frame(code: ErrorCode, message: str) -> bytes:
    """An ``error`` event: ``data`` of the v1.0 error message."""
    return event_frame("error", encode_data(ErrorData(code, message, CATALOGUE[code].level.value)))


class Names(Protocol):
    """Who knows the tokens."""

    def resolve(self, name: str) -> Resolved:
        """Find a token by address or symbol."""

    def value(self, address: str) -> Value | None:
        """The token at exactly this wire address."""


class Refused(NamedTuple):
    """A name that was not accepted, and why."""

    token: str
    code: ErrorCode
    message: str


def _refused(name: object, code: ErrorCode) -> Refused:
    return Refused(echo_name(name), code, CATALOGUE[code].meaning)


class _Room:
    """One token that somebody has joined; ``version`` is the one that all members were told of."""

    __slots__ = ("_frame", "_frame_version", "members", "row", "version")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.version = row.value.version
        self.members: dict[Peer, None] = {}
        self._frame = b""
        self._frame_version = -1

    def frame(self) -> bytes:
        """The newest value as a ``token_update``, encoded once; nothing while there is none, or it is unfit."""
        value = self.row.value
        if self._frame_version != value.version:
            self._frame_version = value.version
            payload = _payload(self.row)
            self._frame = event_frame("token_update", payload) if payload else b""
        return self._frame


class _Batch:
    """Rows that go out together, in as many ``tokens_update`` as it takes. One serves all who were up to date."""

    __slots__ = ("_frames", "_rows")

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = tuple(rows)
        self._frames: dict[int, bytes] = {}

    def frame(self, number: int) -> bytes | None:
        """The frame with this number, its values read when it is first asked for; None after the last one."""
        first = number * BATCH_TOKENS
        if first >= len(self._rows):
            return None
        if number not in self._frames:
            payloads = [payload for row in self._rows[first : first + BATCH_TOKENS] if (payload := _payload(row))]
            data = b"[%b]" % b",".join(payloads)
            self._frames[number] = event_frame("tokens_update", data) if payloads else b""
        return self._frames[number]

    def rest(self, number: int) -> Sequence[Row]:
        """The rows of this frame and of those after it."""
        return self._rows[number * BATCH_TOKENS :]


class Peer:
    """One client in the main namespace: its rooms, and what waits for it."""

    __slots__ = ("_batch", "_due", "_next_frame", "_notices", "is_everywhere", "rooms")

    def __init__(self) -> None:
        self.rooms: dict[str, _Room] = {}  # by address
        self.is_everywhere = False
        self._notices: deque[bytes] = deque()
        self._due: dict[_Room, None] = {}
        self._batch: _Batch | None = None
        self._next_frame = 0

    def notify(self, frame: bytes) -> None:
        """Have an event sent before all values; there is an end to how many wait."""
        if len(self._notices) < MAX_NOTICES:
            self._notices.append(frame)

    def want(self, room: _Room) -> None:
        """The newest value of the room is due."""
        self._due[room] = None

    def forget(self, room: _Room) -> None:
        """It is due no more."""
        self._due.pop(room, None)

    def want_batch(self, batch: _Batch | None) -> None:
        """Have these rows sent, and those that wait; None: forget them all."""
        if batch is not None and self._batch is not None:
            waiting = self._batch.rest(self._next_frame)
            batch = _Batch(dict.fromkeys((*waiting, *batch.rest(0))))
        self._batch = batch
        self._next_frame = 0

    @property
    def waits(self) -> bool:
        """Whether :meth:`take` has something."""
        return bool(self._notices or self._due or self._batch is not None)

    def take(self) -> bytes:
        """Frames to write next, about 64 KiB of them at most; empty when nothing waits."""
        parts: list[bytes] = []
        size = 0
        while self._notices and size < _TAKE_BYTES:
            parts.append(self._notices.popleft())
            size += len(parts[-1])
        while self._due and size < _TAKE_BYTES:
            room = next(iter(self._due))
            del self._due[room]
            parts.append(room.frame())
            size += len(parts[-1])
        while self._batch is not None and size < _TAKE_BYTES:
            frame = self._batch.frame(self._next_frame)
            self._next_frame += 1
            if frame is None:
                self._batch = None
            else:
                parts.append(frame)
                size += len(frame)
        return b"".join(parts)


class Rooms:
    """All rooms that somebody is in. ``names`` tells what names mean, ``board`` has the values."""

    def __init__(self, board: Board, names: Names, max_subscriptions: int) -> None:
        self._board = board
        self._names = names
        self._max_subscriptions = max_subscriptions
        self._rooms: dict[str, _Room] = {}
        self._everywhere: dict[Peer, None] = {}
        self._versions: list[int] = []  # that everybody in `all` was told of, by the row's index

    def __len__(self) -> int:
        return len(self._rooms) + bool(self._everywhere)

    def join(self, peer: Peer, names: Sequence[str | None]) -> tuple[list[str], list[Refused]]:
        """Let ``peer`` into the rooms of ``names``; what was accepted, as addresses, and what was not.

        The current values are due at once, also of rooms that it is in already.
        """
        accepted: dict[str, None] = {}
        refused: dict[str, Refused] = {}
        for name in names:
            if name == ALL:
                accepted[ALL] = None
                self._join_all(peer)
                continue
            found = self._find(name)
            if isinstance(found, Row) and not self._has_place(peer, found):
                found = _refused(name, ErrorCode.SUBSCRIPTION_LIMIT)
            if isinstance(found, Refused):
                refused[found.token] = found
            else:
                accepted[found.value.address] = None
                self._enter(peer, found)
        return list(accepted), list(refused.values())

    def leave(self, peer: Peer, names: Sequence[str | None]) -> tuple[list[str], list[Refused]]:
        """Let ``peer`` out of the rooms of ``names``. One that it is not in, or that is not known, is left as well."""
        accepted: dict[str, None] = {}
        refused: dict[str, Refused] = {}
        for name in names:
            found = None if name == ALL else self._find(name)
            if name == ALL:
                self._leave_all(peer)
                accepted[ALL] = None
            elif isinstance(found, Row):
                accepted[found.value.address] = None
                self._exit(peer, found.value.address)
            elif isinstance(found, Refused) and found.code is not ErrorCode.TOKEN_NOT_FOUND:
                refused[found.token] = found
            else:
                accepted[echo_name(name)] = None
        return list(accepted), list(refused.values())

    def remove(self, peer: Peer) -> None:
        """The client is gone."""
        self._leave_all(peer)
        for address in tuple(peer.rooms):
            self._exit(peer, address)

    def tick(self) -> list[Peer]:
        """Make due what changed since the last call; the clients that it concerns."""
        touched: dict[Peer, None] = {}
        for room in self._rooms.values():
            if room.version != room.row.value.version:
                room.version = room.row.value.version
                for peer in room.members:
                    peer.want(room)
                touched |= room.members
        if self._everywhere and (changed := self._changed()):
            batch = _Batch(changed)
            for peer in self._everywhere:
                peer.want_batch(batch)
            touched |= self._everywhere
        return list(touched)

    # --- helpers ---------------------------------------------------------------------------------------------

    def _find(self, name: str | None) -> Row | Refused:
        if name is None or not is_usable_name(name):
            return _refused(name, ErrorCode.INVALID_TOKEN)
        found = self._names.resolve(name)
        value = self._names.value(found.address) if found.address is not None else None
        if value is not None:
            return self._board.row(value)
        if found.code == ErrorCode.AMBIGUOUS_TOKEN:
            text = f"several tokens have this symbol, use an address: {', '.join(found.candidates)}"
            return Refused(name, ErrorCode.AMBIGUOUS_TOKEN, text[:MAX_DETAIL_CHARS])
        return _refused(name, ErrorCode.TOKEN_NOT_FOUND)

    def _has_place(self, peer: Peer, row: Row) -> bool:
        return row.value.address in peer.rooms or len(peer.rooms) < self._max_subscriptions

    def _enter(self, peer: Peer, row: Row) -> None:
        address = row.value.address
        room = self._rooms.get(address)
        if room is None:
            room = self._rooms[address] = _Room(row)
        room.members[peer] = None
        peer.rooms[address] = room
        if row.value.has_value:
            peer.want(room)

    def _exit(self, peer: Peer, address: str) -> None:
        room = peer.rooms.pop(address, None)
        if room is None:
            return
        peer.forget(room)
        del room.members[peer]
        if not room.members:
            del self._rooms[address]

    def _join_all(self, peer: Peer) -> None:
        if peer.is_everywhere:
            return
        if not self._everywhere:
            self._changed()
        peer.is_everywhere = True
        self._everywhere[peer] = None
        if self._board.rows:
            peer.want_batch(_Batch(self._board.rows))

    def _leave_all(self, peer: Peer) -> None:
        if peer.is_everywhere:
            peer.is_everywhere = False
            peer.want_batch(None)
            del self._everywhere[peer]
        if not self._everywhere:
            self._versions.clear()

    def _changed(self) -> list[Row]:
        """The rows with a version that ``all`` was not told of."""
        versions = self._versions
        rows = self._board.rows
        versions += [-1] * (len(rows) - len(versions))
        changed = [row for row, version in zip(rows, versions, strict=True) if row.value.version != version]
        for row in changed:
            versions[row.index] = row.value.version
        return changed


def _payload(row: Row) -> bytes:
    """The encoded value; nothing while there is none, or if it can't be encoded, which the hub counts."""
    if not row.value.has_value:
        return b""
    try:
        return row.payload()
    except Exception:  # a defect of the token's writer, which must not reach the readers
        return b""
